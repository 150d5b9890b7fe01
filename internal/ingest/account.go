package ingest

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/loss"
)

const (
	// accountEvery is the interval at which reports are published.
	accountEvery = 10 * time.Second
	// lossFrom is the time before its own start from which on a replica counts the reports of the
	// others, so that its figures begin with complete slots.
	lossFrom = 2 * time.Minute
	// accountOctets bounds the reports that wait for Kafka, octets.
	accountOctets = 8 << 20
)

// accounts counts the datagrams and records received of each export stream: by this replica (book) and
// by all replicas (cluster).
//
// Loss is computed from sequence numbers. A balancer spreads the datagrams of a stream over the replicas,
// so that no replica sees all numbers: each publishes its counts in slots of time to the exporters topic,
// and each adds up the reports of all. docs/receiving.md describes the figures.
type accounts struct {
	book    *loss.Book
	cluster *loss.Cluster
	lives   *loss.Lives // starts and ends of all replicas
	self    loss.Life

	mu      sync.Mutex // guards tallies
	tallies []*loss.Tally
	shared  loss.Tally // tally of workers without their own
}

// newTally returns a tally for a goroutine. Reports include it from now on, for ever: it must not be called
// per connection. A tally of its own lets a worker count without a lock that other workers use.
func (a *accounts) newTally() *loss.Tally {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &loss.Tally{}
	a.book.Attach(t)
	a.tallies = append(a.tallies, t)
	return t
}

// publishAccounts publishes a report of each changed account.
func (r *Replica) publishAccounts(to *kafka.Producer, now time.Time) {
	r.publishGathered(to, now, r.accounts.book.Gather)
}

// publishGathered publishes the reports that gather returns. It does not wait for Kafka. A failed report is
// retried: book returns it again with the next gather.
func (r *Replica) publishGathered(
	to *kafka.Producer, now time.Time, gather func(time.Time, []*loss.Tally) []loss.Report,
) {
	a := &r.accounts
	a.mu.Lock()
	tallies := append([]*loss.Tally{&a.shared}, a.tallies...)
	a.mu.Unlock()
	for _, rep := range gather(now, tallies) {
		to.Produce(rep.Key, rep.Value, now, func(err error) {
			a.book.Published(rep, err)
			if err != nil && r.errorLog.AllowN(r.deps.Now(), 1) {
				r.log.Warn("a report of an exporter's datagrams could not be published; it will be retried", "err", err)
			}
		})
	}
}

// accountant publishes reports until ctx ends. The interval is the delay with which losses become visible
// to weir exporters and the metrics.
func (r *Replica) accountant(ctx context.Context, to *kafka.Producer) error {
	return runEvery(ctx, accountEvery, func() {
		r.publishAccounts(to, r.deps.Now())
		r.accounts.cluster.Turn()
	})
}

// overlooker reads the reports of all replicas until ctx ends. Offsets are not committed: a restart reads
// the topic again from lossFrom before its start, and RememberLives before it for the ends of replicas.
func (r *Replica) overlooker(ctx context.Context) error {
	began := r.deps.Now()
	since, from := loss.RememberLives, began.Add(-lossFrom)
	take := func(records []kafka.Record) error {
		since = lossFrom // the first read succeeded; later reads need not go back further
		for _, rec := range records {
			read := r.deps.Now()
			if rec.Time.Before(began) { // published before this replica started
				read = rec.Time
			}
			r.accounts.lives.Take(rec.Value, rec.Time, read)
			if rec.Time.Before(from) {
				continue
			}
			if err := r.accounts.cluster.Take(rec.Key, rec.Value); err != nil {
				r.metrics.poison.Inc()
				if r.errorLog.AllowN(r.deps.Now(), 1) {
					r.log.Warn("a record of the exporters topic is skipped", "offset", rec.Offset, "err", err)
				}
			}
		}
		return nil
	}
	for ctx.Err() == nil {
		// Read fails if the topic does not exist yet, was recreated, or Kafka is not reachable.
		// The next Read begins since before now; reports that are read twice count once.
		tail := kafka.Tail{Since: r.deps.Now().Add(-since)}
		reading, failed := context.WithCancel(ctx)
		// The Kafka client logs the error.
		_ = tail.Read(reading, r.c.Kafka, r.c.Topics.Name(kafka.Exporters), take, func(error) { failed() })
		failed()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// tallyMessage counts a message of from, with its sets that wait for a template. received is in ns since
// the epoch, octets is the length of the message. Each received message must be counted exactly once,
// whatever it contains: its number is part of the sequence.
func (w *worker) tallyMessage(from netip.Addr, received int64, octets int) {
	res := &w.res
	d := w.countUnits(from, &res.Header)
	d.Received = received
	d.Octets = octets
	d.Errors = len(res.Errors)
	d.Undecoded = len(res.Unknown)
	d.Units[loss.Datagrams] = 1
	w.tally.Add(&d)
}

// lateDatagram returns the counts of a set decoded after its datagram was counted. It leaves
// Units[loss.Datagrams] 0, since tallyMessage counted the datagram.
func (w *worker) lateDatagram(s *decode.Set) loss.Datagram {
	d := w.countUnits(s.Meta.Exporter, &s.Header)
	d.Received, d.Errors = s.Meta.Received, len(w.res.Errors)
	return d
}

// countUnits counts the records of w.res in each unit that sequence numbers may count (RFC 3954 section
// 5.1: packets; RFC 7011 section 3.1: data records). Its Flow shares the octets of w.res.Buf. Which unit an
// exporter counts is not known beforehand: NetFlow v9 counts packets, IPFIX data records, v5 flows, and
// some exporters differ. loss finds the unit whose sums fit the numbers.
func (w *worker) countUnits(from netip.Addr, h *decode.Header) loss.Datagram {
	res := &w.res
	// Include dropped records: the exporter's sequence numbers count them.
	d := loss.Of(from, h, len(res.Flows)+res.TooSmall+res.Beyond, res.OptionsRecords, len(res.Templates))
	d.Sequenced = d.Sequenced && !w.session
	if len(res.Flows) > 0 {
		s := res.Flows[0]
		d.Flow = res.Buf[s.Start:s.ValueEnd]
	}
	return d
}

// clusterMetrics exports the counts of all replicas together. Every replica exports the same values, so
// scraping a single replica suffices.
type clusterMetrics struct {
	cluster *loss.Cluster

	lost, received, last, unusable *prometheus.Desc
}

// newClusterMetrics returns a collector of the cluster's counts. docs/metrics.md lists the names with their
// help texts.
func newClusterMetrics(c *loss.Cluster) *clusterMetrics {
	of := []string{"exporter", "version", "domain"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("weir_exporters_"+name, help, labels, nil)
	}
	return &clusterMetrics{
		cluster: c,
		lost: desc("lost", "units that no replica received since two minutes before this replica started, computed "+
			"from sequence numbers across all replicas; the label unit names the unit that the exporter counts",
			append(of, "unit")...),
		received: desc("received", "units that all replicas together received in the period of weir_exporters_lost",
			append(of, "unit")...),
		last: desc("last_received_timestamp_seconds",
			"time of the last datagram that any replica received, seconds since the epoch", of...),
		unusable: desc("sequence_unusable",
			"export streams, among those with metrics, whose sequence numbers do not allow the computation of loss"),
	}
}

// Describe implements prometheus.Collector.
func (m *clusterMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.lost, m.received, m.last, m.unusable} {
		c <- d
	}
}

// Collect implements prometheus.Collector. It exports and computes only the top streams, so that the cost
// of a scrape is bounded. Streams of unknown versions share the label "other": they have no metrics of
// their own.
func (m *clusterMetrics) Collect(c chan<- prometheus.Metric) {
	unusable := 0
	for _, row := range m.cluster.Top(maxExporters, maxFresh) {
		if version(row.Version) == otherLabel {
			continue // two of them would have the same labels, and a duplicate series fails the whole scrape
		}
		if !row.Loss.Usable {
			unusable++
		}
		of := []string{row.Exporter.String(), version(row.Version), domainText(row.Domain)}
		if !row.Last.IsZero() {
			c <- prometheus.MustNewConstMetric(m.last, prometheus.GaugeValue, float64(row.Last.UnixMilli())/1000, of...)
		}
		if row.Loss.Usable {
			of = append(of, row.Loss.Unit.String())
			c <- prometheus.MustNewConstMetric(m.lost, prometheus.GaugeValue, float64(row.Loss.Lost), of...)
			c <- prometheus.MustNewConstMetric(m.received, prometheus.GaugeValue, float64(row.Loss.Received), of...)
		}
	}
	c <- prometheus.MustNewConstMetric(m.unusable, prometheus.GaugeValue, float64(unusable))
}
