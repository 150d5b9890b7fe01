package cli

import (
	"time"

	"weir/internal/accounting"
	"weir/internal/decode"
)

// A lossCount counts by sequence numbers what did not arrive at this process.
type lossCount struct {
	newest  int // datagram
	tally   accounting.Tally
	book    *accounting.Book
	cluster *accounting.Cluster
}

func newLossCount(now time.Time) *lossCount {
	l := &lossCount{book: accounting.NewBook("weir", now), cluster: accounting.NewCluster()}
	l.book.Attach(&l.tally)
	return l
}

// take counts a datagram, or a set of one that was decoded later. It returns true for a
// datagram.
func (l *lossCount) take(from origin, r *decode.Result) (datagram bool) {
	h := &from.header
	if h.Version == 0 {
		return false
	}
	d := accounting.Of(from.meta.Exporter, h, len(r.Messages), len(r.Options), len(r.Templates))
	d.Received = from.meta.Received
	if datagram = from.datagram > l.newest; datagram {
		l.newest = from.datagram
		d.Units[accounting.Datagrams] = 1
	}
	l.tally.Add(&d)
	return datagram
}

// turn brings the loss of all streams up to date.
func (l *lossCount) turn(now time.Time) {
	for _, r := range l.book.Gather(now, []*accounting.Tally{&l.tally}) {
		_ = l.cluster.Take(r.Key, r.Value) // its own
		l.book.Published(r, nil)
	}
	l.cluster.Turn()
}
