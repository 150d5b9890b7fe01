package offline

import (
	"time"

	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/loss"
)

// A LossCount computes the loss of each export stream from sequence numbers. It must not be used concurrently.
type LossCount struct {
	newest  int // number of the newest datagram
	tally   loss.Tally
	book    *loss.Book
	cluster *loss.Cluster
}

// NewLossCount returns a LossCount that starts at now.
func NewLossCount(now time.Time) *LossCount {
	l := &LossCount{book: loss.NewBook("weir", now), cluster: loss.NewCluster()}
	l.book.Attach(&l.tally)
	return l
}

// Add counts the records of r: a datagram, or a set of a datagram that was decoded later. It reports whether r is
// the first result of its datagram.
func (l *LossCount) Add(from report.Origin, r *decode.Result) (datagram bool) {
	h := &from.Header
	if h.Version == 0 {
		return false
	}
	d := loss.Of(from.Meta.Exporter, h, len(r.Messages), len(r.Options), len(r.Templates))
	d.Received = from.Meta.Received
	if datagram = from.Datagram > l.newest; datagram {
		l.newest = from.Datagram
		d.Units[loss.Datagrams] = 1
	}
	l.tally.Add(&d)
	return datagram
}

// Rows returns the loss of all streams as of the last Advance.
func (l *LossCount) Rows() []loss.Row { return l.cluster.View() }

// Advance updates the loss of all streams to now.
func (l *LossCount) Advance(now time.Time) {
	for _, r := range l.book.Gather(now, []*loss.Tally{&l.tally}) {
		_ = l.cluster.Take(r.Key, r.Value) // l.book made the record, so it is valid
		l.book.Published(r, nil)
	}
	l.cluster.Turn()
}
