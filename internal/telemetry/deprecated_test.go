package telemetry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestARenamedMetricHasBothNames(t *testing.T) {
	reg := NewRegistry()
	c := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_kafka_buffered_fetch_records", Help: "h"}, []string{"client_id"})
	c.WithLabelValues("a").Set(3)
	reg.MustRegister(c)
	w := httptest.NewRecorder()
	handler(reg, func() error { return nil }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`weir_kafka_buffered_fetch_records{client_id="a"} 3`,
		`weir_kafka_buffered_fetch_records_total{client_id="a"} 3`,
		"# HELP weir_kafka_buffered_fetch_records_total deprecated name of weir_kafka_buffered_fetch_records",
		"# TYPE weir_kafka_buffered_fetch_records_total gauge",
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}
