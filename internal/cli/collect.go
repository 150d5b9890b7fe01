package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/flowfile"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/wire"
)

const collectAbout = `Receives NetFlow and IPFIX over UDP and writes the flows to a file, without Kafka:
JSON Lines, a flow a line, keys the names of FlowMessage's fields. A file called
.zst or .gz is compressed. What came within a second is written as a block of its
own; after kill -9 the file reads up to the last one. weir connections, flows and
decode read such files.

When the file is full or old enough it is put aside, the time at which it was begun
in its name (flows-20261126T170500Z.jsonl.zst), and another one is begun; what an
earlier run left is put aside too. A disk that takes nothing is told of, and tried
again; up to 64 MiB of flows are kept meanwhile.

Data that comes before its template waits for it, ten minutes at most. SIGINT and
SIGTERM end it; it says then what was received, lost and not understood.

exit code: 0 ended as told; 1 it could not receive or write; 2 wrong usage`

// collectOptions say what is collected, and where to.
type collectOptions struct {
	listen    []string // UDP addresses
	path      string
	file      flowfile.Options
	exporters *namedExporters
	age       *time.Duration   // of uptimes, at most
	started   func([]net.Addr) // told when it listens; may be nil
}

// runCollect is the verb collect.
func runCollect(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("collect", "--out FILE [flag]...", collectAbout)
	var o collectOptions
	listen := f.String("listen", ":2055,:4739", "comma-separated `LIST` of UDP addresses to receive on (default :2055,:4739)")
	f.StringVar(&o.path, "out", "", "`FILE` to write: .jsonl, .jsonl.gz or .jsonl.zst")
	o.file = flowfile.Options{Octets: 1e9, Every: 24 * time.Hour}
	f.Func("rotate-size", "begin another file once one has `SIZE` octets (500MB, 2GiB; default 1GB; 0: never)", func(s string) (err error) {
		o.file.Octets, err = console.ParseOctets(s)
		return err
	})
	f.DurationVar(&o.file.Every, "rotate-every", o.file.Every, "begin another file once one is as old as `DURATION` (default 24h; 0: never)")
	o.exporters, o.age = exportersFlag(f), uptimeAgeFlag(f)
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(rest) > 0:
		return f.UsageError(stderr, fmt.Sprintf("no argument wanted, got %q", rest[0]))
	case o.path == "":
		return f.UsageError(stderr, "no --out FILE")
	case o.file.Every < 0:
		return f.UsageError(stderr, fmt.Sprintf("--rotate-every %v: want 0 or more", o.file.Every))
	}
	o.listen = strings.Split(*listen, ",")
	return console.RunUntilSignal("collect", stderr, func(ctx context.Context) error { return collect(ctx, o, stderr) })
}

// collect runs until ctx ends.
func collect(ctx context.Context, o collectOptions, stderr io.Writer) error {
	conns, err := listenUDP(o.listen)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	w, err := flowfile.Create(o.path, o.file)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	c := newCollector(w, stderr, time.Now())
	if o.exporters != nil && o.exporters.table != nil {
		c.in.decoder.Exporter = o.exporters.of
	}
	if o.age != nil {
		c.in.decoder.MaxUptimeAge = *o.age
	}
	console.Linef(stderr, "weir collect: receiving NetFlow and IPFIX on UDP %s, writing %s; end with Ctrl-C", addresses(conns), o.path)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, conn := range conns {
		wg.Go(func() {
			if err := receive(conn, c.receive); err != nil {
				cancel(err)
			}
		})
	}
	if o.started != nil {
		o.started(localAddresses(conns))
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			c.tick(now)
		}
	}
	closeAll(conns)
	wg.Wait()
	err = c.end()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// A collector writes the flows of datagrams into a file, and counts.
type collector struct {
	mu      sync.Mutex // guards what follows
	in      *offline
	w       *flowfile.Writer
	stderr  io.Writer
	show    *console.Progress
	line    []byte
	causes  map[wire.Cause]int
	told    string // why the file does not take flows
	loss    *lossCount
	counted time.Time
}

func newCollector(w *flowfile.Writer, stderr io.Writer, now time.Time) *collector {
	c := &collector{
		w: w, stderr: stderr, show: console.NewProgress(stderr), causes: map[wire.Cause]int{}, loss: newLossCount(now), counted: now,
	}
	c.in = newOffline("collect", nil, stderr, c)
	c.in.waitingMost = 64 << 20
	return c
}

// waitsAtMost is how long data waits for its template.
const waitsAtMost = 10 * time.Minute

func (c *collector) receive(b []byte, from netip.AddrPort, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.in.datagram(&capture.Datagram{Src: from, Time: at.UnixNano(), Payload: b}) // take fails never
}

// Take implements output. What the file does not take is told of, and no reason to
// stop receiving.
func (c *collector) Take(from report.Origin, r *decode.Result) error {
	for _, m := range r.Messages {
		c.line = report.AppendFlowJSON(c.line[:0], m, c.in.template)
		c.written(c.w.Write(c.line))
	}
	for _, e := range r.Errors {
		c.causes[e.Cause]++
	}
	c.loss.take(from, r)
	return nil
}

func (c *collector) Flush() error { return nil }

// written tells once why the file takes nothing, and that it does again.
func (c *collector) written(err error) {
	switch {
	case err == nil && c.told != "":
		c.show.Clear()
		console.Linef(c.stderr, "weir collect: the file takes flows again")
		c.told = ""
	case err != nil && c.told != err.Error():
		c.show.Clear()
		c.told = err.Error()
		console.Linef(c.stderr, "weir collect: flows are kept, and written later: %v", err)
	}
}

// tick is what happens every second.
func (c *collector) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written(c.w.Flush())
	c.in.expire(now.Add(-waitsAtMost).UnixNano())
	c.in.now = max(c.in.now, now.UnixNano()) // the store's clock, also when nothing comes
	c.in.store.Maintain()
	if now.Sub(c.counted) >= 10*time.Second {
		c.counted = now
		c.loss.turn(now)
	}
	s := c.w.Stats()
	c.show.Count("%s; %d flows in %d files, %s", c.in.summary(), s.Lines, s.Files, report.FormatOctets(uint64(s.Octets)))
}

// end decodes what may still be, writes everything, and sums up.
func (c *collector) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.in.finish() // take and flush fail never
	err := c.w.Close()
	c.loss.turn(time.Now())
	c.show.Clear()
	for _, row := range c.loss.cluster.View() {
		if l := row.Loss; l.Usable && l.Lost > 0 {
			console.Linef(c.stderr, "weir collect: lost on the way from %v (version %d, domain %d), by its sequence numbers: %d of %d %v",
				row.Exporter, row.Version, row.Domain, l.Lost, l.Lost+l.Received, l.Unit)
		}
	}
	for _, cause := range slices.Sorted(maps.Keys(c.causes)) {
		console.Linef(c.stderr, "weir collect: errors: %s=%d", cause, c.causes[cause])
	}
	s := c.w.Stats()
	console.Linef(c.stderr, "weir collect: ended: %s", c.in.summary())
	console.Linef(c.stderr, "%d flows in %d files, %s; %d lost for want of room on disk", s.Lines, s.Files, report.FormatOctets(uint64(s.Octets)), s.Lost)
	return err
}
