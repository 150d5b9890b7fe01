package telemetry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestTheInventorySaysWhatWasRegistered(t *testing.T) {
	var i Inventory
	i.MustRegister(
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c_total", Help: `with "quotes", {braces}`}, []string{"a", "b"}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "odd_total", Help: "a gauge in spite of its name"}, func() float64 { return 1 }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "f_total", Help: "f"}, func() float64 { return 1 }),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h_seconds", Help: "h", ConstLabels: prometheus.Labels{"client_id": "x"}}),
	)
	want := []Metric{
		{Name: "c_total", Help: `with "quotes", {braces}`, Type: "counter", Labels: []string{"a", "b"}},
		{Name: "f_total", Help: "f", Type: "counter"},
		{Name: "h_seconds", Help: "h", Type: "histogram", Labels: []string{"client_id"}},
		{Name: "odd_total", Help: "a gauge in spite of its name", Type: "gauge"},
	}
	if d := cmp.Diff(want, i.Metrics()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
