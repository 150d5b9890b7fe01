// Package demo replays captures of the repository through a whole pipeline in this process, with its own name
// server, and prints the connections.
package demo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/cli/console"
	"weir/internal/cli/listen"
	"weir/internal/cli/pipeline"
	"weir/internal/cli/report"
	"weir/internal/transport"
	"weir/pkg/flowpb"
)

// demoPatience bounds each wait of the demo, in real time. All waits together take two or three seconds on an idle
// machine.
const demoPatience = 30 * time.Second

// templatesSettle is the time without a further template from the other replica after which the templates of a
// datagram count as received.
const templatesSettle = 50 * time.Millisecond

// A Demo is a run of the demo: Run, then Report. Log and Progress must be set.
type Demo struct {
	Log      *slog.Logger
	Progress *console.Progress
	live     *pipeline.Pipeline
	seen     connections
	did      summary
}

// A summary holds the results of a demo.
type summary struct {
	exporters, sent            int
	datagrams, flows           uint64
	templates                  uint64 // received from the other replica
	pairs, oneSided            int
	addresses, named, nameless int // addresses, addresses with a name, connections without a name
	withoutSource              bool
	took                       time.Duration
}

// Run starts the pipeline, replays the captures and waits until all connections have closed. Each step may take 30 s.
func (d *Demo) Run(ctx context.Context) (err error) {
	start := time.Now()
	d.Progress.Step("starting the embedded broker, two ingest replicas and enrich")
	ns, err := StartNameServer(demoZone)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	d.live, err = pipeline.Start(ctx, pipeline.Options{
		Kafka: "127.0.0.1:0",
		// DNS_SERVERS is set as well: the demo must not query servers outside.
		Environ:     map[string]string{"DNS_SERVERS": ns.Addr, "DNS_PRIVATE_SERVERS": ns.Addr},
		CommitEvery: 100 * time.Millisecond,
		Log:         d.Log,
		Metrics:     prometheus.NewRegistry(),
		Committed:   d.seen.add,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.live.Stop()) }()
	if err := d.waitFor(ctx, "the services to be ready", func() bool { return d.live.Ready() == nil }); err != nil {
		return errors.Join(err, d.live.Ready())
	}
	if err := d.replay(ctx); err != nil {
		return err
	}
	d.Progress.Step("pairing")
	if err := d.waitFor(ctx, "enrich to read every flow", func() bool {
		n := d.live.EnrichStats().Flows
		d.Progress.Count("pairing: %d flows", n)
		return n >= d.live.Stats().Flows
	}); err != nil {
		return err
	}
	d.Progress.Step("moving the pairing's clock on by %v", d.live.Config.Pair.Idle+d.live.Config.Pair.Linger)
	closing, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	if err := d.live.CloseOpen(closing); err != nil {
		return err
	}
	s := d.live.Stats()
	d.did.datagrams, d.did.flows, d.did.templates = s.Datagrams, s.Flows, s.TemplatesFromOthers
	d.did.took = time.Since(start)
	return nil
}

// waitFor waits at most demoPatience until done returns true.
func (d *Demo) waitFor(ctx context.Context, event string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	return d.live.WaitFor(ctx, event, done)
}

// replay sends the captures over UDP, each from its own address.
func (d *Demo) replay(ctx context.Context) (err error) {
	var to [pipeline.ReplicaCount]netip.AddrPort
	var all []*transport.Socket
	var wg sync.WaitGroup
	defer func() {
		transport.CloseSockets(all)
		wg.Wait()
	}()
	for i := range to {
		s, err := transport.ListenUDP(ctx, netip.MustParseAddrPort("127.0.0.1:0"), 1, listen.Buffer)
		if err != nil {
			return fmt.Errorf("socket of ingest-%d: %w", i+1, err)
		}
		all = append(all, s...)
		to[i] = s[0].Address
		wg.Go(func() {
			receive := func(b []byte, from netip.AddrPort) { d.live.Receive(i, b, from, time.Now()) }
			s[0].Read(ctx, 0, receive, func(err error) {
				d.live.Fail(err)
				s[0].Close()
			})
		})
	}
	for _, c := range demoCaptures() {
		if err := d.export(ctx, c, to); err != nil {
			return err
		}
	}
	return d.waitFor(ctx, "the datagrams to arrive", func() bool {
		return d.live.Stats().Datagrams >= uint64(d.did.sent)
	})
}

// export sends a capture. Datagrams with templates go to the first replica, the others alternate between the
// replicas, starting with the second.
func (d *Demo) export(ctx context.Context, c replayed, to [pipeline.ReplicaCount]netip.AddrPort) (err error) {
	all, err := datagrams(c)
	if err != nil {
		return err
	}
	conn, own, err := openFrom(c.from)
	if err != nil {
		return fmt.Errorf("socket of exporter %v: %w", c.from, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	d.did.exporters++
	d.did.withoutSource = d.did.withoutSource || !own
	turn := 1
	for i, b := range all {
		d.Progress.Count("replaying %s: %d of %d datagrams", c.file, i+1, len(all))
		before := d.live.ReplicaStats(1).TemplatesFromOthers
		n := turn % pipeline.ReplicaCount
		templates := hasTemplates(b)
		if templates {
			n = 0
		} else {
			turn++
		}
		if _, err := conn.WriteToUDPAddrPort(b, to[n]); err != nil {
			return fmt.Errorf("sending as exporter %v: %w", c.from, err)
		}
		d.did.sent++
		if templates {
			if err := d.waitShared(ctx, before); err != nil {
				return err
			}
		}
	}
	local := conn.LocalAddr().(*net.UDPAddr) // conn is a UDP socket
	d.Progress.Step("replayed %s as exporter %v: %d datagrams", c.file, local.IP, len(all))
	return nil
}

// waitShared waits until the second replica has the templates that the first replica received last, as happens
// between an exporter's templates and its data. before is the number of templates that the second replica had from
// others before. A datagram that repeats known templates ends the wait after a quiet time.
func (d *Demo) waitShared(ctx context.Context, before uint64) error {
	last, since := before, time.Now()
	return d.waitFor(ctx, "the templates to reach the other replica", func() bool {
		if n := d.live.ReplicaStats(1).TemplatesFromOthers; n != last {
			last, since = n, time.Now()
		}
		quiet := time.Since(since)
		return quiet > templatesSettle && (last > before || before > 0 && quiet > 10*templatesSettle)
	})
}

// connections holds the committed reports of enrich, the greatest version of each connection.
type connections struct {
	mu   sync.Mutex
	byID map[string]*flowpb.Connection
}

func (s *connections) add(list []*flowpb.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]*flowpb.Connection{}
	}
	for _, c := range list {
		if old := s.byID[string(c.GetConnectionId())]; old.GetVersion() <= c.GetVersion() {
			s.byID[string(c.GetConnectionId())] = c
		}
	}
}

// list returns the connections in order of start, then of id.
func (s *connections) list() []*flowpb.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*flowpb.Connection
	for _, c := range s.byID {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *flowpb.Connection) int {
		return cmp.Or(cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()),
			bytes.Compare(a.GetConnectionId(), b.GetConnectionId()))
	})
	return all
}

// Report prints the connections to stdout, and the summary to stdout or, when asJSON is set, to stderr. The error
// lists the results that differ from the expected results.
func (d *Demo) Report(asJSON bool, stdout, stderr io.Writer) error {
	all := d.seen.list()
	d.did.countConnections(all)
	form, w := report.Wide, stdout
	if asJSON {
		form, w = report.JSONLines, stderr
	}
	out := report.NewConnectionPrinter(stdout, form)
	out.PrintAll(all)
	if err := out.Err(); err != nil {
		return err
	}
	d.did.write(w)
	return d.did.check(len(all))
}

// countConnections counts connections by direction and addresses by name.
func (s *summary) countConnections(all []*flowpb.Connection) {
	named := map[string]bool{}
	for _, c := range all {
		if c.GetForward() != nil && c.GetReverse() != nil {
			s.pairs++
		} else {
			s.oneSided++
		}
		lacks := false
		for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
			named[string(e.GetAddress())] = e.GetName() != ""
			lacks = lacks || e.GetName() == ""
		}
		if lacks {
			s.nameless++
		}
	}
	s.addresses = len(named)
	for _, ok := range named {
		if ok {
			s.named++
		}
	}
}

func (s *summary) write(w io.Writer) {
	fmt.Fprintf(w, `
datagrams:        %d, from %d exporters to %d ingest replicas
flows:            %d
templates shared: %d, received by one replica and used by the other
pairs:            %d connections with both directions
one-sided:        %d connections
names resolved:   %d of %d addresses
took:             %v
`, s.datagrams, s.exporters, pipeline.ReplicaCount, s.flows, s.templates, s.pairs, s.oneSided,
		s.named, s.addresses, s.took.Round(time.Millisecond))
	if s.withoutSource {
		fmt.Fprintln(w, "note: this system sends from 127.0.0.1 only, so the captures counted as fewer exporters")
	}
}

// check returns an error for each result that differs from the expected result. n is the number of connections.
func (s *summary) check(n int) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.datagrams != uint64(s.sent) {
		wrong("%d of %d datagrams arrived", s.datagrams, s.sent)
	}
	if s.flows == 0 {
		wrong("no flow was decoded")
	}
	if s.templates == 0 {
		wrong("the replicas shared no template")
	}
	if n == 0 {
		wrong("there are no connections")
	} else if s.pairs <= s.oneSided {
		wrong("only %d of %d connections have both directions", s.pairs, n)
	}
	if s.nameless > 0 {
		wrong("%d connections lack a name", s.nameless)
	}
	return errors.Join(errs...)
}
