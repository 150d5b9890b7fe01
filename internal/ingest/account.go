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
	// accountEvery is how often what was received is published.
	accountEvery = 10 * time.Second
	// lossFrom is how long before its start a replica reads what the others
	// published, so that its figures begin with whole slots.
	lossFrom = 2 * time.Minute
	// accountOctets bounds the reports that wait for Kafka.
	accountOctets = 8 << 20
)

// accounts is what this replica received of each export stream, and what all of
// them did.
type accounts struct {
	book    *loss.Book
	cluster *loss.Cluster
	lives   loss.Lives
	self    loss.Life

	mu      sync.Mutex // guards what follows
	tallies []*loss.Tally
	shared  loss.Tally // of whoever has none of its own
}

// tally returns a tally for one goroutine, gathered from now on.
func (a *accounts) tally() *loss.Tally {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &loss.Tally{}
	a.book.Attach(t)
	a.tallies = append(a.tallies, t)
	return t
}

// account hands what has changed to Kafka's client.
func (r *Replica) account(to *kafka.Producer, now time.Time) {
	r.report(to, now, r.accounts.book.Gather)
}

// report hands the reports that gather returns to Kafka's client.
func (r *Replica) report(to *kafka.Producer, now time.Time, gather func(time.Time, []*loss.Tally) []loss.Report) {
	a := &r.accounts
	a.mu.Lock()
	tallies := append([]*loss.Tally{&a.shared}, a.tallies...)
	a.mu.Unlock()
	for _, rep := range gather(now, tallies) {
		to.Produce(rep.Key, rep.Value, now, func(err error) {
			a.book.Published(rep, err)
			if err != nil && r.errorLog.AllowN(r.deps.Now(), 1) {
				r.log.Warn("what was counted of an exporter could not be published; it will be tried again", "err", err)
			}
		})
	}
}

// accountant publishes until ctx ends.
func (r *Replica) accountant(ctx context.Context, to *kafka.Producer) error {
	return every(ctx, accountEvery, func() {
		r.account(to, r.deps.Now())
		r.accounts.cluster.Turn()
	})
}

// overlooker reads what all replicas published until ctx ends.
func (r *Replica) overlooker(ctx context.Context) error {
	began := r.deps.Now()
	since, from := loss.RememberLives, began.Add(-lossFrom)
	take := func(records []kafka.Record) error {
		since = lossFrom // Kafka may not have answered before
		for _, rec := range records {
			read := r.deps.Now()
			if rec.Time.Before(began) { // it was there before
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
		// The topic may not be there yet, or be made anew, or Kafka away: it is read
		// again from a little before on, which changes nothing.
		tail := kafka.Tail{Since: r.deps.Now().Add(-since)}
		reading, failed := context.WithCancel(ctx)
		_ = tail.Read(reading, r.c.Kafka, r.c.Topics.Name(kafka.Exporters), take, func(error) { failed() }) // every Kafka client tells of it
		failed()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// tallied counts a message, and the sets of it that wait.
func (w *worker) tallied(from netip.Addr, received int64, octets int) {
	res := &w.res
	d := w.units(from, &res.Header)
	d.Received, d.Octets, d.Errors, d.Undecoded = received, octets, len(res.Errors), len(res.Unknown)
	d.Units[loss.Datagrams] = 1
	w.tally.Add(&d)
}

// talliedLate is what a set adds whose datagram was counted before.
func (w *worker) talliedLate(s *decode.Set) loss.Datagram {
	d := w.units(s.Meta.Exporter, &s.Header)
	d.Received, d.Errors = s.Meta.Received, len(w.res.Errors)
	return d
}

func (w *worker) units(from netip.Addr, h *decode.Header) loss.Datagram {
	res := &w.res
	// Records that were dropped have been received: the exporter's numbers count them.
	d := loss.Of(from, h, len(res.Flows)+res.TooSmall+res.Beyond, res.OptionsRecords, len(res.Templates))
	d.Sequenced = d.Sequenced && !w.session
	if len(res.Flows) > 0 {
		s := res.Flows[0]
		d.Flow = res.Buf[s.Start:s.ValueEnd]
	}
	return d
}

// clusterMetrics shows what all replicas together counted: every replica shows the
// same, so that any of them can be asked.
type clusterMetrics struct {
	cluster *loss.Cluster

	lost, received, last, unusable *prometheus.Desc
}

func newClusterMetrics(c *loss.Cluster) *clusterMetrics {
	of := []string{"exporter", "version", "domain"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("weir_exporters_"+name, help, labels, nil)
	}
	return &clusterMetrics{
		cluster: c,
		lost: desc("lost", "what no replica received, told by sequence numbers over all replicas, since two minutes before this one started; unit: what the exporter's numbers count",
			append(of, "unit")...),
		received: desc("received", "what all replicas received of the same datagrams, to compare lost with", append(of, "unit")...),
		last:     desc("last_received_timestamp_seconds", "when any replica received the last datagram, seconds since the epoch", of...),
		unusable: desc("sequence_unusable", "export streams, of those shown, whose sequence numbers say nothing about loss"),
	}
}

// Describe implements prometheus.Collector.
func (m *clusterMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.lost, m.received, m.last, m.unusable} {
		c <- d
	}
}

// Collect implements prometheus.Collector. It shows the streams that matter most, and
// computes the rest not at all: what a scrape costs is bounded.
func (m *clusterMetrics) Collect(c chan<- prometheus.Metric) {
	unusable := 0
	for _, row := range m.cluster.Top(maxExporters, maxFresh) {
		if version(row.Version) == otherLabel {
			continue // two of these would be one series twice, which fails the whole scrape
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
