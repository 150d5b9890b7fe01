package cli

import (
	"time"

	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/loss"
)

// A lossCount counts by sequence numbers what did not arrive at this process.
type lossCount struct {
	newest  int // datagram
	tally   loss.Tally
	book    *loss.Book
	cluster *loss.Cluster
}

func newLossCount(now time.Time) *lossCount {
	l := &lossCount{book: loss.NewBook("weir", now), cluster: loss.NewCluster()}
	l.book.Attach(&l.tally)
	return l
}

// take counts a datagram, or a set of one that was decoded later. It returns true for a
// datagram.
func (l *lossCount) take(from report.Origin, r *decode.Result) (datagram bool) {
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

// rows returns the loss of all streams as of the last turn.
func (l *lossCount) rows() []loss.Row { return l.cluster.View() }

// turn brings the loss of all streams up to date.
func (l *lossCount) turn(now time.Time) {
	for _, r := range l.book.Gather(now, []*loss.Tally{&l.tally}) {
		_ = l.cluster.Take(r.Key, r.Value) // its own
		l.book.Published(r, nil)
	}
	l.cluster.Turn()
}
