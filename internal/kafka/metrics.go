package kafka

import (
	"errors"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/plugin/kprom"
)

// clientMetrics returns the hooks that count and time the requests of the client with this client id. A client id must
// not be used by two clients of a process at a time: the later one replaces the metrics of the earlier.
func clientMetrics(reg prometheus.Registerer, id string) []kgo.Hook {
	took := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:        "weir_kafka_produce_duration_seconds",
		Help:        "time from the write of a produce request to its acknowledgement by all in-sync replicas",
		ConstLabels: prometheus.Labels{"client_id": id},
		Buckets:     prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms to 8 s
	})
	replacing{reg}.MustRegister(took)
	return []kgo.Hook{produceTime{took}, kprom.NewMetrics("weir_kafka",
		kprom.Registerer(gauges{replacing{reg}}),
		kprom.WithClientLabel(),
		kprom.FetchAndProduceDetail(
			kprom.ByTopic, kprom.Batches, kprom.Records, kprom.CompressedBytes, kprom.UncompressedBytes),
	)}
}

// produceTime observes the duration of produce requests, seconds.
type produceTime struct{ took prometheus.Histogram }

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (p produceTime) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key == int16(kmsg.Produce) && e2e.Err() == nil {
		p.took.Observe(e2e.DurationE2E().Seconds())
	}
}

// DescribeMetrics registers all metrics of this package, with a client that connects to no broker: the lists of
// metrics in the documents are made from them.
func DescribeMetrics(reg prometheus.Registerer) error {
	newLosses(reg).start("netflow.flows")
	cl, err := kgo.NewClient((&Config{ClientID: "weir", Brokers: []string{"127.0.0.1:9092"}, Metrics: reg}).opts()...)
	if err != nil {
		return err
	}
	cl.Close()
	return nil
}

// replacing is a Registerer that replaces an already registered collector, left by an earlier client with the
// same client id. It does not panic.
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

// MustRegister implements prometheus.Registerer. It must not panic: a service runs without a metric that cannot
// be registered.
func (r replacing) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = r.Register(c) // the client works without its metrics
	}
}

// gauges is a Registerer that takes the suffix _total off the names of gauges: kprom gives it to two gauges, but
// it is the suffix of counters. Other collectors pass unchanged.
type gauges struct{ prometheus.Registerer }

// Register implements prometheus.Registerer.
func (g gauges) Register(c prometheus.Collector) error { return g.Registerer.Register(withoutTotal(c)) }

// MustRegister implements prometheus.Registerer.
func (g gauges) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		g.Registerer.MustRegister(withoutTotal(c))
	}
}

// Unregister implements prometheus.Registerer.
func (g gauges) Unregister(c prometheus.Collector) bool {
	return g.Registerer.Unregister(withoutTotal(c))
}

// kpromGauges maps the names of kprom's gauges that end in _total to our help texts.
var kpromGauges = map[string]string{
	"weir_kafka_buffered_fetch_records_total": "records that the client has fetched and the service has not taken yet",
	"weir_kafka_buffered_produce_records_total": "records that the client holds until Kafka has acknowledged them; " +
		"0 with PRODUCER=batches",
}

// withoutTotal returns c or, for a gauge in kpromGauges, a collector of the same value under the name without
// _total. Two calls for a collector return collectors with the same identity, so that Unregister finds it.
func withoutTotal(c prometheus.Collector) prometheus.Collector {
	metric, ok := c.(prometheus.Metric)
	if !ok {
		return c
	}
	for name, help := range kpromGauges {
		var m dto.Metric
		if !strings.Contains(metric.Desc().String(), strconv.Quote(name)) || metric.Write(&m) != nil || m.Gauge == nil {
			continue
		}
		labels := prometheus.Labels{}
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		opts := prometheus.GaugeOpts{Name: strings.TrimSuffix(name, "_total"), Help: help, ConstLabels: labels}
		return prometheus.NewGaugeFunc(opts, func() float64 {
			var now dto.Metric
			if metric.Write(&now) != nil {
				return 0
			}
			return now.GetGauge().GetValue()
		})
	}
	return c
}
