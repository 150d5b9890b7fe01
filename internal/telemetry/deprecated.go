package telemetry

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A Renaming is a metric that /metrics also serves under its old name.
type Renaming struct{ Old, New string }

// Renamed lists the metrics that are served under two names. An entry must stay for a minor version, in which rules
// and dashboards can move to the new name.
var Renamed = []Renaming{
	{"weir_exporters_last_received_seconds", "weir_exporters_last_received_timestamp_seconds"},
	{"weir_kafka_buffered_fetch_records_total", "weir_kafka_buffered_fetch_records"},
	{"weir_kafka_buffered_produce_records_total", "weir_kafka_buffered_produce_records"},
}

// oldNames adds a copy of each renamed family, under its old name.
type oldNames struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (g oldNames) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.Gatherer.Gather()
	for _, f := range families {
		i := slices.IndexFunc(Renamed, func(r Renaming) bool { return r.New == f.GetName() })
		if i < 0 {
			continue
		}
		families = append(families, &dto.MetricFamily{
			Name:   new(Renamed[i].Old),
			Help:   new("deprecated name of " + f.GetName()),
			Type:   f.Type,
			Metric: f.Metric,
		})
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families, err
}
