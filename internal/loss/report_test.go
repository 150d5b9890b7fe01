package loss

import (
	"fmt"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// slotReport returns a well-formed report of a slot of 10 flows.
func slotReport(begin int64) *flowpb.ExporterReport {
	u := &flowpb.ExportUnits{Datagrams: 1, Flows: 10, Records: 10, All: 10}
	return &flowpb.ExporterReport{
		Schema: 1, Replica: "x", Exporter: []byte{192, 0, 2, 1}, Version: 5,
		Report: &flowpb.ExporterReport_Slot{Slot: &flowpb.ExporterSlot{
			Begin: begin, Received: u, Runs: []*flowpb.SequenceRun{{Least: 1, Greatest: 1, Last: u, Received: u}},
		}},
	}
}

func summaryReport() *flowpb.ExporterReport {
	return &flowpb.ExporterReport{
		Schema: 1, Replica: "x", Exporter: []byte{192, 0, 2, 1}, Version: 5,
		Report: &flowpb.ExporterReport_Summary{Summary: &flowpb.ExporterSummary{FirstReceivedNs: 1, LastReceivedNs: 2}},
	}
}

// The beginnings of three slots, which differ by 2^64-10 in total, once gave a divisor of 0.
func TestPoisonedReportsAreRefused(t *testing.T) {
	slot := func(change func(*flowpb.ExporterSlot)) *flowpb.ExporterReport {
		m := slotReport(1_790_000_000)
		change(m.GetSlot())
		return m
	}
	summary := func(change func(*flowpb.ExporterSummary)) *flowpb.ExporterReport {
		m := summaryReport()
		change(m.GetSummary())
		return m
	}
	version := slotReport(0)
	version.Version = 1 << 16
	for name, m := range map[string]*flowpb.ExporterReport{
		"least begin":         slotReport(math.MinInt64),
		"begin below 0":       slotReport(-10),
		"greatest begin":      slotReport(math.MaxInt64 - 7),
		"begin after 2106":    slotReport(1<<32 + 4),
		"begin within a slot": slotReport(1_790_000_005),
		"flows":               slot(func(s *flowpb.ExporterSlot) { s.Received.Flows = 1 << 54 }),
		"octets":              slot(func(s *flowpb.ExporterSlot) { s.Octets = math.MaxUint64 }),
		"records of a run":    slot(func(s *flowpb.ExporterSlot) { s.Runs[0].Received.Records = math.MaxUint64 }),
		"last of a run":       slot(func(s *flowpb.ExporterSlot) { s.Runs[0].Last.All = math.MaxUint64 }),
		"boot":                slot(func(s *flowpb.ExporterSlot) { s.Runs[0].Boot = math.MinInt64 }),
		"nine runs": slot(func(s *flowpb.ExporterSlot) {
			for range 8 {
				s.Runs = append(s.Runs, s.Runs[0])
			}
		}),
		"version":   version,
		"first":     summary(func(s *flowpb.ExporterSummary) { s.FirstReceivedNs = -1 }),
		"last":      summary(func(s *flowpb.ExporterSummary) { s.LastReceivedNs = math.MaxInt64 }),
		"errors":    summary(func(s *flowpb.ExporterSummary) { s.Errors = math.MaxUint64 }),
		"no fields": {Schema: 1},
	} {
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		c := NewCluster()
		if err := c.Take([]byte("k"), value); err == nil || len(c.View()) != 0 {
			t.Errorf("%s: want an error and no row, got %v, %+v", name, err, c.View())
		}
	}
	for _, begin := range []int64{0, 1_790_000_000, 1<<32 - 6} {
		value, err := proto.Marshal(slotReport(begin))
		if err != nil {
			t.Fatal(err)
		}
		if err := NewCluster().Take([]byte("k"), value); err != nil {
			t.Errorf("begin %d: %v", begin, err)
		}
	}
}

// Counts at their bound, from many processes and slots, do not wrap.
func TestSumsOfReportsSaturate(t *testing.T) {
	c := NewCluster()
	most := &flowpb.ExportUnits{Datagrams: maxCount, Flows: maxCount, Records: maxCount, All: maxCount}
	take := func(key string, m *flowpb.ExporterReport) {
		t.Helper()
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Take([]byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3000 {
		m := slotReport(1_790_000_000 + 10*int64(i))
		s := m.GetSlot()
		s.Received, s.Octets = most, maxCount
		s.Runs[0].Last, s.Runs[0].Received, s.Runs[0].Least, s.Runs[0].Greatest = most, most, uint32(i), uint32(i)
		take(fmt.Sprint("slot", i), m)
		life := summaryReport()
		life.StartedNs = int64(i)
		life.GetSummary().Received, life.GetSummary().Octets = most, maxCount
		take(fmt.Sprint("total", i), life)
	}
	checkRow(t, c.View()[0])
	if got := c.View()[0]; got.Received[Flows] < maxCount || got.Octets < maxCount {
		t.Errorf("sums wrapped: %+v", got)
	}
}

// checkRow fails t for impossible figures.
func checkRow(t *testing.T, r Row) {
	t.Helper()
	if !(r.FlowsPerSecond >= 0 && r.FlowsPerSecond <= math.MaxInt64) {
		t.Errorf("flows per second: %v", r.FlowsPerSecond)
	}
	if r.Loss.Lost > math.MaxInt64 || r.Loss.Received > math.MaxInt64 {
		t.Errorf("lost %d, received %d: their sum wraps", r.Loss.Lost, r.Loss.Received)
	}
	if r.Loss.Lost > 0 && r.Loss.Lost+r.Loss.Received == 0 {
		t.Errorf("lost %d of 0", r.Loss.Lost)
	}
}
