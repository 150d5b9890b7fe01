package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/kafka/framing"
)

// Records of Producer.Batches must be counted by Buffered, Used, Room and Flush of the Producer and in the client's
// metrics.
func TestOwnBatchesCountAsTheProducers(t *testing.T) {
	ctx := testContext(t)
	addr := freeAddr(t)
	c := config(addr)
	reg := prometheus.NewRegistry()
	c.Metrics = reg
	p, err := NewProducer(c, "t.flows", ProducerConfig{Linger: time.Millisecond, MaxRecords: 2000, Batches: &framing.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	of := newSettled()
	const all = 1000
	addNumbered(p.Batches(), 0, all, 37, of)
	if n, octets := p.Buffered(); n != all || octets < 10*all || p.Used() != 0.5 || !p.Room() {
		t.Errorf("buffered: %d records, %d octets, %.2f of the room; want %d and a half", n, octets, p.Used(), all)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	wantNamed(t, p.Flush(short), []string{"1000 records", "t.flows"})
	startBroker(t, addr)
	ensure(ctx, t, addr, Flows)
	flush(ctx, t, p)
	settledOnce(ctx, t, of, all)
	checkNumbered(t, consume(ctx, t, addr, all), all, 37, 3, receivedAt)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := 0.0
	for _, f := range families {
		if f.GetName() == "weir_kafka_produce_records_total" {
			for _, m := range f.GetMetric() {
				got += m.GetCounter().GetValue()
			}
		}
	}
	if got != all {
		t.Errorf("weir_kafka_produce_records_total: want %d, got %v", all, got)
	}
	p.Close()
	addNumbered(p.Batches(), all, all+10, 37, of)
	if n, failed := messages(of.all()); n != all+10 || failed[ErrClosed] != 10 {
		t.Errorf("after Close %d are settled, failures %v", n, failed)
	}
}
