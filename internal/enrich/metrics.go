package enrich

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/pkg/flowpb"
)

// metrics holds the counters of enrich that have labels. Totals count committed transactions only.
type metrics struct {
	connections *prometheus.CounterVec // by reason
	bounded     *prometheus.CounterVec // by limit; the label is named "what"
}

// newMetrics registers the metrics of w. Callbacks read w.stats without a lock when /metrics is read. Names, labels and
// help texts are listed in docs/metrics.md, which a test generates from the registry. A renamed metric must be added to
// telemetry's list of deprecated names.
func newMetrics(reg prometheus.Registerer, w *Worker) *metrics {
	total := func(name, help string, v *atomic.Uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "weir_enrich_" + name, Help: help},
			func() float64 { return float64(v.Load()) }))
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_enrich_" + name, Help: help}, f))
	}
	s := &w.stats
	total("flows_total", "flows read from the flows topic", &s.flows)
	total("flows_not_pairable_total", "flows without an address pair or counters", &s.notPairable)
	total("flows_duplicate_total", "flows dropped because the same record was paired before", &s.duplicates)
	total("flows_ahead_total", "flows whose receive time lies more than 5 min in the future", &s.ahead)
	total("records_skipped_total", "records of the flows topic that are not flow messages", &s.poison)
	total("commits_total", "transactions committed", &s.commits)
	total("aborts_total", "transactions aborted; their flows were read again", &s.aborts)
	total("restores_total", "restores of the pairing state", &s.restores)
	total("state_written_octets_total", "octets of state written to the pairing topic", &s.logged)
	total("state_lost_total",
		"partitions that continued without their state because the pairing topic no longer held it", &s.stateLost)
	gauge("connections_open", "connections held open", func() float64 { return float64(s.open.Load()) })
	gauge("connections_grace", "emitted connections that a late record can still correct",
		func() float64 { return float64(s.grace.Load()) })
	gauge("state_octets", "memory of the pairing state, octets", func() float64 { return float64(s.octets.Load()) })
	gauge("lag", "flows on the topic not yet read, in the assigned partitions",
		func() float64 { return float64(w.session.Lag()) })
	gauge("clock_behind_seconds",
		"minimum lag of this host's clock behind that of the Kafka brokers, seconds; 0: no lag, or unknown",
		func() float64 { return w.session.Behind().Seconds() })
	reg.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{
			Name: "weir_enrich_restore_seconds_total", Help: "time spent on restoring the pairing state, seconds",
		},
		func() float64 { return time.Duration(s.restoring.Load()).Seconds() }))
	gauge("ready", "1 when /readyz is 200", func() float64 {
		if w.Ready() == nil {
			return 1
		}
		return 0
	})
	questions := func(name, help string, v func() uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "weir_enrich_dns_" + name, Help: help},
			func() float64 { return float64(v()) }))
	}
	questions("questions_total", "questions sent to name servers",
		func() uint64 { return w.annotator.Names.Stats().Questions })
	questions("failures_total", "questions without a usable reply",
		func() uint64 { return w.annotator.Names.Stats().Failures })
	questions("silent_total",
		"lookups skipped because the servers of the reverse zone do not answer; tried again after 30 s to 5 min",
		func() uint64 { return w.annotator.Names.Stats().Silent })
	questions("dropped_total", "lookups dropped because the queue was full",
		func() uint64 { return w.annotator.Names.Stats().Dropped })
	reg.MustRegister(dnsAnswers{w})
	gauge("dns_servers_down", "name servers limited to one question per second after 10 s without an answer",
		func() float64 { return float64(w.annotator.Names.Stats().Down) })
	gauge("dns_pending", "lookups queued or in progress",
		func() float64 { return float64(w.annotator.Names.Stats().Pending) })
	gauge("dns_cached", "addresses with a cached name or failure",
		func() float64 { return float64(w.annotator.Names.Stats().Cached) })
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_enrich_connections_total", Help: "connections published, by reason",
	}, []string{"reason"})
	b := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_enrich_bounded_total",
		Help: "limits reached, by limit: vantages, records merged into another observation point because their connection " +
			"has the maximum number; same_key, connections dropped because too many share their key; " +
			"paused, pausing connections dropped at PAIR_MAX_OPEN before PAIR_TCP_PAUSE",
	}, []string{"what"})
	reg.MustRegister(c, b)
	return &metrics{connections: c, bounded: b}
}

// dnsAnswers collects the results of lookups by status. It reads the resolver's own counts, so that enrich does not
// keep a copy.
type dnsAnswers struct{ w *Worker }

var dnsAnswersDesc = prometheus.NewDesc("weir_enrich_dns_answers_total", "lookups by result", []string{"status"}, nil)

// Describe implements prometheus.Collector.
func (dnsAnswers) Describe(out chan<- *prometheus.Desc) { out <- dnsAnswersDesc }

// Collect implements prometheus.Collector.
func (d dnsAnswers) Collect(out chan<- prometheus.Metric) {
	for status, n := range d.w.annotator.Names.Stats().Answers {
		label := strings.ToLower(strings.TrimPrefix(status.String(), "NAME_STATUS_"))
		out <- prometheus.MustNewConstMetric(dnsAnswersDesc, prometheus.CounterValue, float64(n), label)
	}
}

// reason returns the label value of an emission's reason: EMIT_REASON_IDLE → "idle".
func reason(r flowpb.EmitReason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "EMIT_REASON_"))
}
