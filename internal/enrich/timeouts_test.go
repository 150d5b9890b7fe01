package enrich

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// longFlows returns the metric's values by exporter.
func longFlows(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "weir_enrich_flows_long_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			values[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return values
}

// softflowd's timeout for TCP is an hour: its records span more than PAIR_ACTIVE_TIMEOUT.
func TestAnExporterWithALongerActiveTimeoutIsCountedAndNamedOnce(t *testing.T) {
	c := cluster(t)
	flows := newFlowWriter(t, c)
	log, reg := &locked.Buffer{}, prometheus.NewRegistry()
	w, err := New(config(c, "a"), Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	n, at := uint32(0), time.Now()
	put := func(exporter byte, spans time.Duration, set ...func(m *flowpb.FlowMessage)) {
		n++
		flows.put(0, at, []byte{10, 0, 0, 1}, 40000+n, append(set, func(m *flowpb.FlowMessage) {
			m.SamplerAddress[3], m.ExporterName = exporter, fmt.Sprint("edge-", exporter)
			m.TimeFlowStartNs = m.TimeFlowEndNs - uint64(spans)
		})...)
	}
	// PAIR_ACTIVE_TIMEOUT is 60 s: more than 71 s is longer.
	put(1, 71*time.Second)
	put(2, 72*time.Second)
	put(2, time.Hour)
	put(3, time.Hour, func(m *flowpb.FlowMessage) { // a firewall's teardown spans the connection
		m.FirewallEvent, m.Biflow, m.ReverseBytes = 2, true, 1
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	eventually(t, "four flows are taken", func() bool { return w.Stats().Flows == 4 })
	put(2, 90*time.Second)
	eventually(t, "the fifth flow is taken", func() bool { return w.Stats().Flows == 5 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(longFlows(t, reg)); got != "map[edge-2:3]" {
		t.Errorf("want 3 long flows of edge-2, got %s", got)
	}
	if text := log.String(); strings.Count(text, "active timeout is longer") != 1 || !strings.Contains(text, "exporter=edge-2 record_spans=1h0m0s PAIR_ACTIVE_TIMEOUT=1m0s") {
		t.Errorf("want one line that names edge-2 and the hour, got:\n%s", text)
	}
}

func TestExportersOfLongRecordsAreBounded(t *testing.T) {
	reg, log := prometheus.NewRegistry(), &locked.Buffer{}
	to := newTimeouts(reg, time.Minute, slog.New(slog.NewTextHandler(log, nil)))
	var list []longRecords
	for range 2 {
		for i := range 1000 {
			list = addLong(list, [16]byte{10: 0xff, 11: 0xff, 12: 10, 14: byte(i >> 8), 15: byte(i)}, time.Hour)
		}
	}
	if len(list) != maxLongExporters+1 {
		t.Errorf("want %d exporters and a place for others, got %d", maxLongExporters, len(list))
	}
	for i := range list {
		to.add(list[i], fmt.Sprint("exporter ", i))
	}
	to.add(longRecords{exporter: [16]byte{1}, records: 5}, "one more")
	values := longFlows(t, reg)
	total := 0.0
	for _, v := range values {
		total += v
	}
	// 1 000 exporters with two records each, and another with five: 64 of those with two have their
	// own label value.
	if len(values) != maxLongExporters+1 || total != 2005 || values[other] != 2005-2*maxLongExporters {
		t.Errorf("want 65 values, 2005 in all, 1877 under other; got %d, %v, %v", len(values), total, values[other])
	}
	if n := strings.Count(log.String(), "active timeout is longer"); n != maxLongExporters {
		t.Errorf("want %d lines, got %d", maxLongExporters, n)
	}
}
