package enrich

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/pkg/flowpb"
)

// metrics are enrich's; totals count what was committed.
type metrics struct {
	connections *prometheus.CounterVec // reason
	bounded     *prometheus.CounterVec // what
}

func newMetrics(reg prometheus.Registerer, w *Worker) *metrics {
	total := func(name, help string, v *atomic.Uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "weir_enrich_" + name, Help: help}, func() float64 { return float64(v.Load()) }))
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_enrich_" + name, Help: help}, f))
	}
	s := &w.stats
	total("flows_total", "flows taken", &s.flows)
	total("flows_not_pairable_total", "flows without an address pair or counters", &s.notPairable)
	total("flows_duplicate_total", "flows dropped because the same record came before", &s.duplicates)
	total("flows_ahead_total", "flows whose receive time lies more than 5 min in the future", &s.ahead)
	total("records_skipped_total", "records of the flows topic that are no flow messages", &s.poison)
	total("commits_total", "transactions committed", &s.commits)
	total("aborts_total", "transactions aborted; their flows were taken again", &s.aborts)
	total("restores_total", "times that state was restored", &s.restores)
	total("state_written_octets_total", "octets of state written to the pairing topic", &s.logged)
	total("state_lost_total", "partitions that went on without their state, which the pairing topic no longer held", &s.stateLost)
	gauge("connections_open", "connections held open", func() float64 { return float64(s.open.Load()) })
	gauge("connections_grace", "emitted connections that a late record can still correct", func() float64 { return float64(s.grace.Load()) })
	gauge("state_octets", "memory of the pairing's state", func() float64 { return float64(s.octets.Load()) })
	gauge("lag", "flows on the topic that are not taken yet, of the partitions owned", func() float64 { return float64(w.session.Lag()) })
	gauge("clock_behind_seconds", "seconds by which this host's clock is behind that of the Kafka brokers, at least; 0: it is not, or that is not known",
		func() float64 { return w.session.Behind().Seconds() })
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "weir_enrich_restore_seconds_total", Help: "time that restores took"},
		func() float64 { return time.Duration(s.restoring.Load()).Seconds() }))
	gauge("ready", "1 when /readyz is 200", func() float64 {
		if w.Ready() == nil {
			return 1
		}
		return 0
	})
	questions := func(name, help string, v func() uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "weir_enrich_dns_" + name, Help: help}, func() float64 { return float64(v()) }))
	}
	questions("questions_total", "questions put to name servers", func() uint64 { return w.annotator.Names.Stats().Questions })
	questions("failures_total", "questions without a usable reply", func() uint64 { return w.annotator.Names.Stats().Failures })
	questions("silent_total", "addresses not asked because the servers of their reverse zone do not answer; asked again after 30 s to 5 min", func() uint64 { return w.annotator.Names.Stats().Silent })
	questions("dropped_total", "addresses not asked because the queue was full", func() uint64 { return w.annotator.Names.Stats().Dropped })
	reg.MustRegister(dnsAnswers{w})
	gauge("dns_servers_down", "name servers that are asked once a second only, since no question was answered for 10 s", func() float64 { return float64(w.annotator.Names.Stats().Down) })
	gauge("dns_pending", "addresses queued or being asked", func() float64 { return float64(w.annotator.Names.Stats().Pending) })
	gauge("dns_cached", "addresses whose name or failure is remembered", func() float64 { return float64(w.annotator.Names.Stats().Cached) })
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_enrich_connections_total", Help: "connections published, by reason"}, []string{"reason"})
	b := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_enrich_bounded_total",
		Help: "records merged because their connection keeps no more vantages; connections given up because their key has no more; " +
			"connections that pause forgotten at PAIR_MAX_OPEN before PAIR_TCP_PAUSE",
	}, []string{"what"})
	reg.MustRegister(c, b)
	return &metrics{connections: c, bounded: b}
}

// dnsAnswers is what became of the addresses that were asked for, by status.
type dnsAnswers struct{ w *Worker }

var dnsAnswersDesc = prometheus.NewDesc("weir_enrich_dns_answers_total", "addresses that were asked for, by what came of it", []string{"status"}, nil)

// Describe implements prometheus.Collector.
func (dnsAnswers) Describe(out chan<- *prometheus.Desc) { out <- dnsAnswersDesc }

// Collect implements prometheus.Collector.
func (d dnsAnswers) Collect(out chan<- prometheus.Metric) {
	for status, n := range d.w.annotator.Names.Stats().Answers {
		out <- prometheus.MustNewConstMetric(dnsAnswersDesc, prometheus.CounterValue, float64(n), strings.ToLower(strings.TrimPrefix(status.String(), "NAME_STATUS_")))
	}
}

// reason is the label value of an emission's reason.
func reason(r flowpb.EmitReason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "EMIT_REASON_"))
}
