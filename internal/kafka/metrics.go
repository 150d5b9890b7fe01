package kafka

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"
)

// clientMetrics returns the hook that counts what a client does.
func clientMetrics(reg prometheus.Registerer) kgo.Hook {
	return kprom.NewMetrics("weir_kafka",
		kprom.Registerer(replacing{reg}),
		kprom.WithClientLabel(),
		kprom.FetchAndProduceDetail(kprom.ByTopic, kprom.Batches, kprom.Records, kprom.CompressedBytes, kprom.UncompressedBytes),
	)
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
