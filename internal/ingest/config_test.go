package ingest

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/internal/settings"
	"weir/internal/weirtest/locked"
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

func TestProducerIsOneOfTwo(t *testing.T) {
	for _, tt := range []struct{ producer, pack, want string }{
		{"", "1", ""}, {"kgo", "1", ""}, {"kgo", "50", ""}, {"batches", "1", ""},
		{"batches", "50", "PRODUCER=batches with PACK=50: want PACK=1"}, {"java", "1", `PRODUCER="java": want kgo or batches`},
	} {
		_, err := settings.Parse[Config](map[string]string{
			"KAFKA_BROKERS": "127.0.0.1:9092", "PRODUCER": tt.producer, "PACK": tt.pack, "FRAMING": "delimited",
		})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("PRODUCER=%q and PACK=%s: want %q, got %v", tt.producer, tt.pack, tt.want, err)
		}
	}
}

func TestUptimeMaxAgeIsBounded(t *testing.T) {
	for value, ok := range map[string]bool{"": true, "2m": true, "24h": true, "1193h": true, "1m59s": false, "1193h1s": false, "-24h": false} {
		c, err := settings.Parse[Config](map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092", "UPTIME_MAX_AGE": value})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), ": want 2m0s to 1193h0m0s") {
			t.Errorf("UPTIME_MAX_AGE=%q: want good %v, got %v", value, ok, err)
		}
		if value == "" && c.MaxUptimeAge != 24*time.Hour {
			t.Errorf("the default is %v", c.MaxUptimeAge)
		}
	}
}

// A NetFlow v5 datagram of uptime 60 s with a flow that begins and ends at an uptime of
// 613 775 s, which is 42.6 days before its wrap: the exporter's counter says so, unless
// UPTIME_MAX_AGE is longer.
func TestOldUptimesAreCountedByExporter(t *testing.T) {
	b := embedded(t)
	put := func(b []byte, vs ...uint32) []byte {
		for _, v := range vs {
			b = binary.BigEndian.AppendUint32(b, v)
		}
		return b
	}
	pkt := put([]byte{0, 5, 0, 1}, 60_000, 1_700_000_000, 0, 1, 0)
	pkt = put(pkt, 0x0a000001, 0x0a000002, 0, 0, 1, 100, 613_775_597, 613_775_597)
	pkt = append(pkt, make([]byte, 16)...)
	for age, want := range map[time.Duration]float64{0: 0, 24 * time.Hour: 1, 1193 * time.Hour: 0} {
		c := config(b.Addr(), "r")
		c.MaxUptimeAge = age
		r, stop := start(t, c, &locked.Buffer{})
		eventually(t, "ready", func() bool { return r.Ready() == nil })
		from := netip.MustParseAddrPort("192.0.2.1:9")
		r.Receive(packet(t, "v5_30.hex"), from, time.Now()) // an exporter is named once something was decoded of it
		r.Receive(pkt, from, time.Now())
		if got := counted(r.metrics.oldUptimes.WithLabelValues("192.0.2.1")); got != want {
			t.Errorf("UPTIME_MAX_AGE=%v: want %v old uptimes of 192.0.2.1, got %v", age, want, got)
		}
		if err := stop(); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	}
}
