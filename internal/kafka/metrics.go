package kafka

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/plugin/kprom"
)

// clientMetrics returns the hooks that count and time what the client of an id does.
func clientMetrics(reg prometheus.Registerer, id string) []kgo.Hook {
	took := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "weir_kafka_produce_duration_seconds", Help: "from a produce request being written to its acknowledgement by all replicas in sync",
		ConstLabels: prometheus.Labels{"client_id": id}, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms to 8 s
	})
	replacing{reg}.MustRegister(took)
	return []kgo.Hook{produceTime{took}, kprom.NewMetrics("weir_kafka",
		kprom.Registerer(replacing{reg}),
		kprom.WithClientLabel(),
		kprom.FetchAndProduceDetail(kprom.ByTopic, kprom.Batches, kprom.Records, kprom.CompressedBytes, kprom.UncompressedBytes),
	)}
}

// produceTime observes how long produce requests take.
type produceTime struct{ took prometheus.Histogram }

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (p produceTime) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key == int16(kmsg.Produce) && e2e.Err() == nil {
		p.took.Observe(e2e.DurationE2E().Seconds())
	}
}

// DescribeMetrics registers what every client registers, of one that reaches
// nothing: for lists of what there is.
func DescribeMetrics(reg prometheus.Registerer) error {
	newLosses(reg).start("netflow.flows")
	cl, err := kgo.NewClient((&Config{ClientID: "weir", Brokers: []string{"127.0.0.1:9092"}, Metrics: reg}).opts()...)
	if err != nil {
		return err
	}
	cl.Close()
	return nil
}

// replacing is a Registerer to which a client that takes another's place (same
// client id) can register: the last one counts, nothing panics.
type replacing struct{ prometheus.Registerer }

// Register implements prometheus.Registerer.
func (r replacing) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	if are, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		r.Unregister(are.ExistingCollector)
		err = r.Registerer.Register(c)
	}
	return err
}

// MustRegister implements prometheus.Registerer; it does not panic: a metric
// that cannot be registered is no reason for a service not to run.
func (r replacing) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = r.Register(c) // without its metrics the client works all the same
	}
}
