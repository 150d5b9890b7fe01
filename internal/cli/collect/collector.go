// Package collect receives datagrams and writes their flows to files of JSON Lines, without Kafka.
package collect

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/flowfile"
	"weir/internal/cli/listen"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/failure"
	"weir/internal/wire"
)

// Options configure the sockets and the file of a collector.
type Options struct {
	Listen       []string // UDP addresses
	Path         string   // output file: .jsonl, .jsonl.gz or .jsonl.zst
	File         flowfile.Options
	Exporters    *offline.Exporters
	MaxUptimeAge *time.Duration   // see decode.Decoder.MaxUptimeAge; nil: unlimited
	Buffer       int              // receive buffer of each socket in octets; 0: the default
	Started      func([]net.Addr) // called after listening and before the first read; may be nil
}

// Run receives datagrams until ctx ends, then writes all flows. A failed write is reported on stderr and retried.
// Run returns an error of a socket, and an error of the file at the start and at the end.
func Run(ctx context.Context, o Options, stderr io.Writer) error {
	sockets, err := listen.Open(ctx, o.Listen, listen.Options{Sockets: 1, Buffer: o.Buffer})
	if err != nil {
		return err
	}
	defer sockets.Close()
	w, err := flowfile.Create(o.Path, o.File)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	c := newCollector(w, stderr, time.Now())
	c.sockets = sockets
	o.Exporters.Apply(&c.in.Decoder)
	if o.MaxUptimeAge != nil {
		c.in.Decoder.MaxUptimeAge = *o.MaxUptimeAge
	}
	console.Linef(stderr, "weir collect: receiving NetFlow and IPFIX on UDP %s, writing %s; end with Ctrl-C",
		sockets, o.Path)
	if o.Started != nil {
		o.Started(sockets.Addresses())
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		sockets.Receive(ctx, listen.Drain, func() listen.Handler { return c.receive }, c.failed)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-read:
			return c.end()
		case now := <-tick.C:
			c.tick(now)
		}
	}
}

// A collector is an offline.Output that writes the flows of datagrams into a file.
type collector struct {
	mu        sync.Mutex // guards the fields below
	in        *offline.Reader
	w         *flowfile.Writer
	stderr    io.Writer
	show      *console.Progress
	line      []byte
	causes    map[wire.Cause]int
	failures  failure.Repeats // of writes to the file
	sockets   listen.Sockets
	receiving failure.Repeats
	loss      *offline.LossCount
	counted   time.Time
}

func newCollector(w *flowfile.Writer, stderr io.Writer, now time.Time) *collector {
	c := &collector{
		w: w, stderr: stderr, show: console.NewProgress(stderr), causes: map[wire.Cause]int{},
		loss: offline.NewLossCount(now), counted: now,
	}
	c.in = offline.New("collect", nil, stderr, c)
	c.in.MaxWaiting = 64 << 20
	return c
}

// waitsAtMost bounds the wait of a data set for its template. A set that is older is dropped and counted as
// undecoded.
const waitsAtMost = 10 * time.Minute

func (c *collector) receive(b []byte, from netip.AddrPort, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.in.Datagram(&capture.Datagram{Src: from, Time: at.UnixNano(), Payload: b}) // Consume never fails
}

// failed reports an error of receiving, unless it equals the error before it.
func (c *collector) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.receiving.IsNew(err, time.Time{}) {
		c.show.Clear()
		console.Linef(c.stderr, "weir collect: %v", err)
	}
}

// Consume implements offline.Output. A failed write is reported; it must not stop the receiving.
func (c *collector) Consume(from report.Origin, r *decode.Result) error {
	for _, m := range r.Messages {
		c.line = report.AppendFlowJSON(c.line[:0], m, c.in.Template)
		c.written(c.w.Write(c.line))
	}
	for _, e := range r.Errors {
		c.causes[e.Cause]++
	}
	c.loss.Add(from, r)
	return nil
}

func (c *collector) Flush() error { return nil }

// written reports the first of equal errors of the file, and the recovery from it.
func (c *collector) written(err error) {
	switch {
	case err == nil && c.failures.Recovered():
		c.show.Clear()
		console.Linef(c.stderr, "weir collect: flows are written again")
	case err != nil && c.failures.IsNew(err, time.Time{}):
		c.show.Clear()
		console.Linef(c.stderr, "weir collect: flows are kept in memory until the file can be written: %v", err)
	}
}

// tick writes a block, drops sets that waited too long, and updates the loss and the progress line. It must be
// called every second.
func (c *collector) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written(c.w.Flush())
	c.in.Expire(now.Add(-waitsAtMost).UnixNano())
	c.in.Advance(now)
	if now.Sub(c.counted) >= 10*time.Second {
		c.counted = now
		c.loss.Advance(now)
	}
	s := c.w.Stats()
	c.show.Count("%s; %d flows in %d files, %s; %d dropped by the kernel",
		c.in.Summary(), s.Lines, s.Files, report.FormatOctets(uint64(s.Octets)), c.sockets.Drops())
}

// end decodes the waiting sets whose template arrived, writes and closes the file, and prints the totals.
func (c *collector) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.in.Finish() // Consume and Flush never fail
	err := c.w.Close()
	c.loss.Advance(time.Now())
	c.show.Clear()
	for _, row := range c.loss.Rows() {
		if l := row.Loss; l.Usable && l.Lost > 0 {
			console.Linef(c.stderr, "weir collect: lost on the way from %v (version %d, domain %d), "+
				"by its sequence numbers: %d of %d %v", row.Exporter, row.Version, row.Domain, l.Lost, l.Lost+l.Received, l.Unit)
		}
	}
	for _, cause := range slices.Sorted(maps.Keys(c.causes)) {
		console.Linef(c.stderr, "weir collect: errors: %s=%d", cause, c.causes[cause])
	}
	s := c.w.Stats()
	console.Linef(c.stderr, "weir collect: ended: %s dropped_by_kernel=%d", c.in.Summary(), c.sockets.Drops())
	console.Linef(c.stderr, "%d flows in %d files, %s; %d lost because the disk was full",
		s.Lines, s.Files, report.FormatOctets(uint64(s.Octets)), s.Lost)
	if text := c.sockets.DropsText(); text != "" {
		console.Linef(c.stderr, "weir collect: %s", text)
	}
	return err
}
