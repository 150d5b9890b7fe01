package ingest

import (
	"strconv"
	"strings"
	"testing"

	"weir/internal/settings"
)

func TestSettingsOfMoreThanTwoGiB(t *testing.T) {
	for _, name := range []string{
		"PRODUCE_MAX_RECORDS", "PRODUCE_MAX_OCTETS", "PARK_MAX_OCTETS", "MEMORY_MAX", "RCVBUF",
		"UNDECODED_RATE", "UNDECODED_BURST", "UNDECODED_PER_EXPORTER",
		"TEMPLATES_PER_EXPORTER", "TEMPLATES_MAX", "TEMPLATES_MAX_UNCONFIRMED", "TCP_MAX_CONNECTIONS", "TCP_MAX_PER_ADDRESS",
	} {
		for _, value := range []int{3 << 30, 1 << 40} {
			env := map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092", name: strconv.Itoa(value)}
			if _, err := settings.Parse[Config](env); err != nil {
				t.Errorf("%s=%d: %v", name, value, err)
			}
		}
	}
}

func TestTemplatesKeys(t *testing.T) {
	for value, want := range map[string]bool{"": true, "both": true, "new": false} {
		c, err := settings.Parse[Config](map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092", "TEMPLATES_KEYS": value})
		if err != nil || c.Templates.HashKeys() != want {
			t.Errorf("TEMPLATES_KEYS=%q: want records by hash %v, got %v, %v", value, want, c.Templates.HashKeys(), err)
		}
	}
	_, err := settings.Parse[Config](map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092", "TEMPLATES_KEYS": "old"})
	if err == nil || !strings.Contains(err.Error(), `TEMPLATES_KEYS="old": want both`) {
		t.Errorf("TEMPLATES_KEYS=old: want what it can be, got %v", err)
	}
}
