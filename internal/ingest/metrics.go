package ingest

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/templates"
	"weir/internal/wire"
)

// Reasons for dropped flows or sets, a closed set: values of the metric label "reason".
const (
	// reasonBufferFull: the flows that wait for Kafka have reached PRODUCE_MAX_RECORDS or PRODUCE_MAX_OCTETS.
	reasonBufferFull = "buffer_full"
	// reasonClosed: the producer was closed before Kafka acknowledged the flow.
	reasonClosed = "shutdown"
	// reasonKafka: Kafka refused the record, or another error of the client.
	reasonKafka = "kafka"
	// reasonExporterLimit: UNDECODED_PER_EXPORTER is used up. Counts sets.
	reasonExporterLimit = "exporter_limit"
	// reasonUndecodedLimit: UNDECODED_RATE and UNDECODED_BURST are used up. Counts sets.
	reasonUndecodedLimit = "undecoded_limit"
	// reasonSession: data preceded its template on a connection (RFC 7011 section 8). Counts sets.
	reasonSession = "session_without_template"
	// reasonTooSmall: the datagram has more flows than one per 8 octets of its data sets.
	reasonTooSmall = string(wire.RecordTooSmall)
	// reasonOutput: OUTPUT_EXTRA or OUTPUT_EXTRA_PER_EXPORTER is used up.
	reasonOutput = "output_limit"
)

// metrics holds the counters of ingest. The comment beside a vector lists its labels. Label values must come
// from closed sets; seen bounds the values of the label exporter.
type metrics struct {
	perExporter []*prometheus.CounterVec // counters with the label exporter

	// datagrams is complete when newMetrics returns. Workers read it without a lock: it must not change.
	datagrams   map[uint16]prometheus.Counter // by version; 0: others
	flows       *prometheus.CounterVec        // exporter
	options     prometheus.Counter
	exported    *prometheus.GaugeVec   // exporter, domain, what
	findings    *prometheus.GaugeVec   // exporter, finding
	errors      *prometheus.CounterVec // exporter, cause
	oddities    *prometheus.CounterVec // what
	oldUptimes  *prometheus.CounterVec // exporter
	denied      *prometheus.CounterVec // entry
	proxied     *prometheus.CounterVec // reason
	reloads     *prometheus.CounterVec // result
	dropped     *prometheus.CounterVec // exporter, reason
	sets        *prometheus.CounterVec // exporter, reason
	late        *prometheus.CounterVec // what
	ownExport   *prometheus.CounterVec // exporter
	learnt      prometheus.Counter
	published   *prometheus.CounterVec // result
	poison      prometheus.Counter
	recovered   prometheus.Counter
	streamEnds  *prometheus.CounterVec // reason
	streamWaits prometheus.Counter

	// streamRefused counts per limit, not per exporter: a refused template of a forged address must not create
	// a series.
	streamRefused *prometheus.CounterVec // limit
}

// newMetrics registers all metrics of ingest. r must have its store, accounts, streams and sessions. A new
// metric needs a help text that an operator understands without the code: docs/metrics.md is generated from
// it.
func newMetrics(reg prometheus.Registerer, r *Replica) *metrics {
	// counter adds to perExporter, which fold needs: every counter with the label exporter must be made by it,
	// and before m.perExporter is set.
	var perExporter []*prometheus.CounterVec
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_ingest_" + name, Help: help}, labels)
		reg.MustRegister(c)
		if slices.Contains(labels, "exporter") {
			perExporter = append(perExporter, c)
		}
		return c
	}
	registerState(reg, r)
	registerStore(reg, r)
	exported := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_ingest_exporter_reported",
		Help: "latest totals that an exporting process reported about itself (IE 40, 41, 42)",
	}, []string{"exporter", "domain", "what"})
	reg.MustRegister(exported)
	reg.MustRegister(NewSocketMetrics(r.sockets))
	reg.MustRegister(newClusterMetrics(r.accounts.cluster))
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "weir_ingest_accounting_unplaced_datagrams_total",
		Help: "datagrams missing from the accounts on the exporters topic, because too many slots waited for Kafka: " +
			"they count as lost",
	}, func() float64 { return float64(r.accounts.book.Dropped()) }))
	reg.MustRegister(newMemoryMetrics(r))
	findings := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_ingest_findings",
		Help: "export streams of an exporter whose flows showed a configuration error in the last minute; " +
			"one datagram a second is examined; weir doctor names the change to make",
	}, []string{"exporter", "finding"})
	reg.MustRegister(findings)
	// WithLabelValues() of a vector without labels makes its only series at once, so that it is exported as 0
	// before the first event.
	m := &metrics{
		findings: findings,
		streamRefused: counter("tcp_templates_refused_total",
			"templates refused at a limit of TCP_MAX_OCTETS: that of a connection, of an exporter address, or of "+
				"all connections", "limit"),
		streamEnds: counter("tcp_ended_connections_total", "connections of exporters that ended, by reason", "reason"),
		streamWaits: counter("tcp_waits_total",
			"pauses in reading from a connection because the buffer for Kafka was full").WithLabelValues(),
		exported:  exported,
		datagrams: map[uint16]prometheus.Counter{},
		flows:     counter("flows_total", "flows decoded and handed to Kafka's client", "exporter"),
		options:   counter("options_records_total", "records of options data").WithLabelValues(),
		errors:    counter("errors_total", "parts of datagrams that could not be decoded, by cause", "exporter", "cause"),
		oddities: counter("oddities_total", "values decoded despite a wrong encoding (time_misencoded: Unix time "+
			"instead of NTP time) or treated as unknown (sampling_unusable: a rate of zero or absurd operands)", "what"),
		oldUptimes: counter("old_uptimes_total", "flow times given as uptimes from before a wrap of the exporter's "+
			"clock and older than UPTIME_MAX_AGE: they were replaced by the export time", "exporter"),
		denied: counter("denied_datagrams_total",
			"datagrams dropped because the exporters file does not allow their source, by its entry", "entry"),
		proxied: counter("proxy_dropped_datagrams_total",
			"datagrams of trusted proxies dropped because no PROXY header names their exporter", "reason"),
		reloads: counter("exporters_file_reloads_total",
			"changes of the exporters file that were applied (ok) or refused (failed: the old content remains in force)",
			"result"),
		dropped: counter("dropped_flows_total", "flows that were not published: Kafka did not accept them, or a datagram "+
			"contained more flows than its size allows", "exporter", "reason"),
		sets: counter("undecoded_sets_total",
			"data sets without a known template that were dropped at a limit or because Kafka was unavailable",
			"exporter", "reason"),
		late: counter("late_sets_total", "data sets on the undecoded topic: appended, decoded after their template arrived, "+
			"appended again, expired, refused (Kafka did not accept the flows)", "what"),
		ownExport: counter("own_export_flows_total", "flows that report the exporter's own export traffic", "exporter"),
		learnt:    counter("templates_learnt_total", "template records accepted from datagrams").WithLabelValues(),
		published: counter("templates_published_total",
			"records written to the templates topic: two for a template definition, one for an options fact", "result"),
		poison: counter("template_records_skipped_total",
			"records of the topics templates, undecoded and exporters that could not be used").WithLabelValues(),
		recovered: counter("recovered_flows_total", "flows published by killed replicas after their last report, "+
			"which this replica found on the flows topic and added to their accounts").WithLabelValues(),
	}
	m.perExporter = perExporter
	datagrams := counter("datagrams_total", "datagrams received, by version of the export protocol", "version")
	for _, v := range []uint16{0, 1, 5, 7, 8, 9, 10} {
		m.datagrams[v] = datagrams.WithLabelValues(version(v))
	}
	return m
}

// registerState registers the gauges that are read from the replica and its template store at each scrape.
// Callbacks run on the goroutine of a scrape and must not wait for receiving.
func registerState(reg prometheus.Registerer, r *Replica) {
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_ingest_" + name, Help: help}, f))
	}
	gauge("ready", "1 when /readyz is 200", func() float64 {
		if r.Ready() == nil {
			return 1
		}
		return 0
	})
	gauge("parked_sets", "data sets buffered in memory until their template arrives", func() float64 {
		n, _ := r.buffer.held()
		return float64(n)
	})
	gauge("parked_octets", "octets of data sets buffered in memory until their template arrives", func() float64 {
		_, n := r.buffer.held()
		return float64(n)
	})
	gauge("undecoded_templates",
		"unknown templates of data sets on the undecoded topic, in the partitions that this replica owns",
		func() float64 {
			if run := r.run.Load(); run != nil {
				return float64(run.undecoded.templates())
			}
			return 0
		})
	gauge("templates", "template definitions known", func() float64 { return float64(r.store.Stats().Definitions) })
	gauge("templates_unconfirmed",
		"template definitions with which no replica has decoded data yet",
		func() float64 { return float64(r.store.Stats().Unconfirmed) })
	gauge("templates_octets",
		"memory of template definitions and options facts, as limited by TEMPLATES_MAX_OCTETS",
		func() float64 { return float64(r.store.Stats().Octets) })
	gauge("templates_pending",
		"template definitions and options facts that are new or changed and not yet on the templates "+
			"topic",
		func() float64 { return float64(r.store.Stats().Pending) })
	gauge("exporters",
		"exporters with a known template",
		func() float64 { return float64(r.store.Stats().Exporters) })
	// Before Run there is no producer; nothing is buffered then.
	gauge("buffered_flows", "flows that Kafka has not acknowledged", func() float64 {
		if run := r.run.Load(); run != nil {
			n, _ := run.producer.Buffered()
			return float64(n)
		}
		return 0
	})
	gauge("buffer_used_ratio",
		"used part of the buffer for flows that Kafka has not acknowledged; flows are dropped at 1",
		func() float64 {
			if run := r.run.Load(); run != nil {
				return run.producer.Used()
			}
			return 0
		})
	gauge("tcp_connections",
		"open connections of exporters over TCP and TLS",
		func() float64 { return float64(r.streams.Open()) })
}

// registerStore registers the counters that are read from the template store at each scrape.
func registerStore(reg prometheus.Registerer, r *Replica) {
	fromStore := func(name, help string, of func(templates.Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "weir_ingest_" + name, Help: help},
			func() float64 { return float64(of(r.store.Stats())) }))
	}
	fromStore("templates_redefined_total",
		"template IDs whose layout changed",
		func(s templates.Stats) uint64 { return s.Redefined })
	fromStore("template_stale_sets_total",
		"data sets decoded with a template from before the exporter's restart, because no newer "+
			"template arrived within PARK_FOR",
		func(s templates.Stats) uint64 { return s.Stale })
	fromStore("template_conflicts_total",
		"template IDs whose layout differs between source ports of an exporter",
		func(s templates.Stats) uint64 { return s.Conflicts })
	fromStore("fact_conflicts_total",
		"options facts repeated by a source port after another port of the exporter had sent a "+
			"different value: each port's flows use that port's value",
		func(s templates.Stats) uint64 { return s.FactConflicts })
	fromStore("templates_shared_total",
		"definitions learnt from the templates topic",
		func(templates.Stats) uint64 { return r.store.Foreign() })
	fromStore("templates_evicted_total",
		"template definitions and options facts evicted at a limit",
		func(s templates.Stats) uint64 { return s.Evicted })
	fromStore("templates_refused_total",
		"template definitions and options facts refused, because they exceed the limit of an "+
			"exporter or there was no memory for an options fact",
		func(s templates.Stats) uint64 { return s.Refused })
	fromStore("templates_over_budget_total",
		"new template definitions and options facts refused, because the exporter or all exporters "+
			"together sent too many",
		func(s templates.Stats) uint64 { return s.OverBudget })
}

// received returns the counter of datagrams of a version; unknown versions share a counter.
// Workers call it for each datagram; it must not create a series for a forged version.
func (m *metrics) received(version uint16) prometheus.Counter {
	if c := m.datagrams[version]; c != nil {
		return c
	}
	return m.datagrams[0]
}
