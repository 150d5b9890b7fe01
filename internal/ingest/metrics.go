package ingest

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/templates"
	"weir/internal/wire"
)

// Reasons for dropped flows or sets, a closed set: values of the metric label "reason".
const (
	reasonBufferFull     = "buffer_full"
	reasonClosed         = "shutdown"
	reasonKafka          = "kafka"
	reasonExporterLimit  = "exporter_limit"
	reasonUndecodedLimit = "undecoded_limit"
	reasonSession        = "session_without_template"
	reasonTooSmall       = string(wire.RecordTooSmall)
	reasonOutput         = "output_limit"
)

// metrics holds the counters of ingest. The comment beside a vector lists its labels. Label values must come
// from closed sets; seen bounds the values of the label exporter.
type metrics struct {
	perExporter []*prometheus.CounterVec // counters with the label exporter

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
	fromOthers  prometheus.Counter
	poison      prometheus.Counter
	recovered   prometheus.Counter
	streamEnds  *prometheus.CounterVec // reason
	streamWaits prometheus.Counter

	streamRefused *prometheus.CounterVec // limit
}

// newMetrics registers all metrics of ingest. r must have its store, accounts, streams and sessions.
func newMetrics(reg prometheus.Registerer, r *Replica) *metrics {
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
	exported := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_ingest_exporter_reported",
		Help: "last totals received that an exporting process reports of itself (IE 40, 41, 42)",
	}, []string{"exporter", "domain", "what"})
	reg.MustRegister(exported)
	reg.MustRegister(NewSocketMetrics(r.sockets))
	reg.MustRegister(newClusterMetrics(r.accounts.cluster))
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "weir_ingest_accounting_unplaced_datagrams_total",
		Help: "datagrams in no slot of the exporters topic, because too many slots waited for Kafka: they count as lost",
	}, func() float64 { return float64(r.accounts.book.Dropped()) }))
	reg.MustRegister(newMemoryMetrics(r))
	findings := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_ingest_findings",
		Help: "export streams of an exporter whose flows showed a fault of configuration in the last minute; one datagram a second is examined; weir doctor says what to change",
	}, []string{"exporter", "finding"})
	reg.MustRegister(findings)
	m := &metrics{
		findings: findings,
		streamRefused: counter("tcp_templates_refused_total",
			"templates of connections refused at a part of TCP_MAX_OCTETS: of the connection, of its address, of all", "limit"),
		streamEnds: counter("tcp_ended_connections_total", "connections of exporters that ended, by reason", "reason"),
		streamWaits: counter("tcp_waits_total",
			"times that reading from a connection waited because Kafka's client had no room").WithLabelValues(),
		exported:  exported,
		datagrams: map[uint16]prometheus.Counter{},
		flows:     counter("flows_total", "flows decoded and handed to Kafka's client", "exporter"),
		options:   counter("options_records_total", "records of options data").WithLabelValues(),
		errors:    counter("errors_total", "parts of datagrams that could not be decoded, by cause", "exporter", "cause"),
		oddities: counter("oddities_total", "values decoded in spite of their encoding (time_misencoded: Unix time "+
			"instead of NTP time) or treated as unknown (sampling_unusable: a rate of zero or absurd operands)", "what"),
		oldUptimes: counter("old_uptimes_total", "flow times given as uptimes that lie more than UPTIME_MAX_AGE back "+
			"behind a wrap of the exporter's clock: the flows have their export time", "exporter"),
		denied: counter("denied_datagrams_total",
			"datagrams dropped because the exporters file does not allow their source, by its entry", "entry"),
		proxied: counter("proxy_dropped_datagrams_total",
			"datagrams of trusted proxies dropped because no PROXY header names their exporter", "reason"),
		reloads: counter("exporters_file_reloads_total",
			"changes of the exporters file that were applied (ok) or refused (failed: the old content stays in force)", "result"),
		dropped: counter("dropped_flows_total", "flows that were not published: Kafka did not take them, or a datagram "+
			"held more than its octets allow", "exporter", "reason"),
		sets: counter("undecoded_sets_total",
			"data sets dropped whose template was not known: beyond a limit, or Kafka away", "exporter", "reason"),
		late: counter("late_sets_total", "data sets on the undecoded topic: appended, decoded after their template arrived, "+
			"appended again, expired, refused (Kafka does not take its flows)", "what"),
		ownExport: counter("own_export_flows_total", "flows that report the exporter's own export traffic", "exporter"),
		learnt:    counter("templates_learnt_total", "template records accepted from datagrams").WithLabelValues(),
		published: counter("templates_published_total",
			"records written to the templates topic: two per definition, a single record per fact", "result"),
		fromOthers: counter("templates_shared_total", "definitions learnt from the templates topic").WithLabelValues(),
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

// registerState registers the metrics that are read from the replica and its template store at each scrape.
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
	gauge("parked_sets", "data sets that wait in memory for their template", func() float64 {
		n, _ := r.buffer.held()
		return float64(n)
	})
	gauge("parked_octets", "octets of data sets that wait in memory for their template", func() float64 {
		_, n := r.buffer.held()
		return float64(n)
	})
	gauge("undecoded_templates",
		"templates that data sets on the undecoded topic wait for, of partitions that this replica owns", func() float64 {
			if run := r.run.Load(); run != nil {
				return float64(run.undecoded.templates())
			}
			return 0
		})
	gauge("templates", "template definitions known", func() float64 { return float64(r.store.Stats().Definitions) })
	gauge("templates_unconfirmed", "of these, definitions with which no replica has decoded data yet", func() float64 { return float64(r.store.Stats().Unconfirmed) })
	gauge("templates_octets", "heap that template definitions and facts take, as accounted against TEMPLATES_MAX_OCTETS", func() float64 { return float64(r.store.Stats().Octets) })
	gauge("exporters", "exporters known by their templates", func() float64 { return float64(r.store.Stats().Exporters) })
	gauge("buffered_flows", "flows that Kafka has not acknowledged", func() float64 {
		if run := r.run.Load(); run != nil {
			n, _ := run.producer.Buffered()
			return float64(n)
		}
		return 0
	})
	gauge("buffer_used_ratio", "how full the room for flows that Kafka has not acknowledged is: at 1 flows are dropped", func() float64 {
		if run := r.run.Load(); run != nil {
			return run.producer.Used()
		}
		return 0
	})
	fromStore := func(name, help string, of func(templates.Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "weir_ingest_" + name, Help: help},
			func() float64 { return float64(of(r.store.Stats())) }))
	}
	fromStore("templates_redefined_total", "template ids that got another layout", func(s templates.Stats) uint64 { return s.Redefined })
	fromStore("template_stale_sets_total", "data sets decoded with a definition from before their exporter's restart, since no other came within PARK_FOR", func(s templates.Stats) uint64 { return s.Stale })
	fromStore("template_conflicts_total", "template ids whose layout differs between source ports of an exporter", func(s templates.Stats) uint64 { return s.Conflicts })
	fromStore("fact_conflicts_total", "facts of options data that a source port said again after another port of its address had said otherwise: each port's flows use its own", func(s templates.Stats) uint64 { return s.FactConflicts })
	fromStore("templates_evicted_total", "definitions and facts evicted at a limit", func(s templates.Stats) uint64 { return s.Evicted })
	fromStore("templates_refused_total", "definitions and facts refused: larger than one exporter may have, or no room for a fact", func(s templates.Stats) uint64 { return s.Refused })
	fromStore("templates_over_budget_total", "new definitions and facts refused because their exporter, or all exporters together, sent too many", func(s templates.Stats) uint64 { return s.OverBudget })
	gauge("templates_pending", "definitions and facts that are not on the templates topic yet, or not as they are known", func() float64 { return float64(r.store.Stats().Pending) })
	gauge("tcp_connections", "connections of exporters over TCP and TLS", func() float64 { return float64(r.streams.Open()) })
}

// received returns the counter of datagrams of a version; unknown versions share a counter.
func (m *metrics) received(version uint16) prometheus.Counter {
	if c := m.datagrams[version]; c != nil {
		return c
	}
	return m.datagrams[0]
}
