package enrich

import (
	"strconv"
	"testing"

	"weir/internal/settings"
)

func TestSettingsOfMoreThanTwoGiB(t *testing.T) {
	for _, name := range []string{"PAIR_MAX_OPEN", "COMMIT_RECORDS", "METRICS_SERIES"} {
		for _, value := range []int{3 << 30, 1 << 40} {
			env := map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092", name: strconv.Itoa(value)}
			if _, err := settings.Parse[Config](env); err != nil {
				t.Errorf("%s=%d: %v", name, value, err)
			}
		}
	}
}
