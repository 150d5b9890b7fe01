// Package up runs a pipeline in this process, receives datagrams into it, prints its connections, and serves its
// metrics and the page for browsers.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/listen"
	"weir/internal/cli/page"
	"weir/internal/cli/pipeline"
	"weir/internal/cli/report"
	"weir/internal/cli/topics"
	"weir/internal/telemetry"
	"weir/pkg/flowpb"
)

// Options set the addresses and outputs of weir up.
type Options struct {
	Kafka     string                             // host:port of the broker
	Listen    []string                           // UDP addresses
	Metrics   string                             // host:port, empty: none
	Page      string                             // host:port, empty: none
	JSON      bool                               // print connections as JSON Lines instead of a wide table
	Exporters string                             // path of the exporters file; empty: none
	Buffer    int                                // receive buffer of each socket in octets; 0: the default
	Environ   map[string]string                  // variables PAIR_* and DNS_*
	Started   func(udp []net.Addr, kafka string) // called after listening and before the first read; may be nil
}

// drain is the time for which sockets are read after a signal: enough for the datagrams that the kernel holds. It is
// shorter than listen.Drain, since container runtimes kill a process 10 s after the signal, and open connections must
// be closed and printed before that.
const drain = time.Second

// Run receives until ctx ends or a part fails, then closes the open connections within 8 s and prints them. The
// error names the flag of an address that cannot be used.
func Run(ctx context.Context, o Options, stdout, stderr io.Writer) (err error) {
	sockets, err := listen.Open(ctx, o.Listen, listen.Options{Buffer: o.Buffer})
	if err != nil {
		return err
	}
	defer sockets.Close()

	if err := checkMetrics(o.Metrics); err != nil {
		return err
	}
	var pages net.Listener
	if o.Page != "" {
		if pages, err = listenPage(o.Page); err != nil {
			return err
		}
		defer func() { _ = pages.Close() }() // closes the listener if the server did not
	}
	form := report.Wide
	if o.JSON {
		form = report.JSONLines
	}
	out, reg := report.NewConnectionPrinter(stdout, form), telemetry.NewRegistry()
	committed, board := out.Print, (*page.Board)(nil)
	if pages != nil {
		board = page.NewBoard(time.Now)
		board.KernelDrops = sockets.Drops
		committed = func(list []*flowpb.Connection) { out.Print(list); board.Connections(list) }
	}
	l, err := startPipeline(ctx, o, stderr, pipeline.Options{Metrics: reg, Committed: committed, Sockets: sockets})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if o.Metrics != "" {
		wg.Go(func() {
			if err := telemetry.Serve(ctx, o.Metrics, reg, l.Ready, nil); err != nil {
				cancel(fmt.Errorf("--metrics %s: %w", o.Metrics, err))
			}
		})
	}
	if pages != nil {
		servePage(ctx, &wg, cancel, o, pages, l, board)
	}
	greet(stderr, o, sockets, l)
	silence := time.AfterFunc(silenceAfter, func() { remarkOnSilence(stderr, l, sockets) })
	defer silence.Stop()
	if o.Started != nil {
		o.Started(sockets.Addresses(), l.KafkaAddr())
	}
	wg.Go(func() {
		sockets.Receive(ctx, drain, func() listen.Handler { return l.RoundRobin() }, func(err error) {
			fmt.Fprintf(stderr, "weir up: %v\n", err)
		})
	})
	wg.Go(func() { remarkOnDrops(ctx, stderr, sockets) })
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-l.Failure():
		cancel(err)
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	wg.Wait()
	sockets.Close()
	if err == nil {
		l.StopIngest()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closingAtMost)
		err = l.CloseOpen(closing)
		cancel()
	}
	err = errors.Join(err, l.Stop(), out.Err())
	summarise(stderr, sockets, l)
	return err
}

// checkMetrics checks the address of the metrics before their server does, whose error names the variable of the
// services. "": no metrics.
func checkMetrics(address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("--metrics %s: the port is in use, perhaps by another service: "+
			"choose another address, or '' for none", address)
	case err != nil:
		return fmt.Errorf("--metrics %s: want host:port, or '' for none: %w", address, err)
	}
	_ = l.Close()
	return nil
}

// startPipeline starts the pipeline with the given options and those of o. Its log goes to stderr.
func startPipeline(
	ctx context.Context, o Options, stderr io.Writer, p pipeline.Options,
) (*pipeline.Pipeline, error) {
	p.Kafka = o.Kafka
	p.Environ = o.Environ
	p.Exporters = o.Exporters
	p.CommitEvery = 500 * time.Millisecond
	p.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{
		Level: slog.LevelInfo, ReplaceAttr: console.WithoutTime,
	}))
	l, err := pipeline.Start(ctx, p)
	if unable := (pipeline.BrokerError{}); errors.As(err, &unable) {
		return nil, fmt.Errorf("--kafka %s: %w", o.Kafka, err)
	}
	return l, err
}

// servePage starts the server of the page and the readers of the topics that it shows. They end with ctx; an error
// ends ctx.
func servePage(
	ctx context.Context, wg *sync.WaitGroup, cancel context.CancelCauseFunc, o Options,
	pages net.Listener, l *pipeline.Pipeline, board *page.Board,
) {
	settings := topics.Settings{Kafka: l.Config.Kafka, Topics: l.Config.Topics}
	host, _, _ := net.SplitHostPort(o.Page) // the address is valid: it is listened on
	wg.Go(func() {
		if err := page.NewServer(board, host, time.Second).Serve(ctx, pages); err != nil {
			cancel(fmt.Errorf("--page %s: %w", o.Page, err))
		}
	})
	wg.Go(func() {
		if err := topics.FeedFlows(ctx, settings, board); err != nil {
			cancel(fmt.Errorf("--page: %w", err))
		}
	})
	wg.Go(func() { topics.FeedExporters(ctx, settings, board) })
}

// summarise prints the counters of the run.
func summarise(w io.Writer, sockets listen.Sockets, l *pipeline.Pipeline) {
	if text := sockets.DropsText(); text != "" {
		fmt.Fprintf(w, "weir up: %s\n", text)
	}
	s := l.Stats()
	fmt.Fprintf(w, "weir up: ended: datagrams=%d flows=%d errors=%d dropped=%d dropped_by_kernel=%d "+
		"templates_shared=%d connections=%d\n",
		s.Datagrams, s.Flows, s.Errors, s.Dropped, sockets.Drops(), s.TemplatesFromOthers, l.EnrichStats().Connections)
}

// closingAtMost bounds the wait for the closing of open connections at the end.
const closingAtMost = 8 * time.Second

// silenceAfter is the time without a datagram after which hints are printed.
const silenceAfter = time.Minute

// greet prints the addresses of all parts and the next steps.
func greet(w io.Writer, o Options, sockets listen.Sockets, l *pipeline.Pipeline) {
	port := sockets[0].Address.Port()
	name := l.Config.Topics.Prefix
	fmt.Fprintf(w, "weir up: receiving NetFlow and IPFIX on UDP %s; Kafka on %s", sockets, l.KafkaAddr())
	if o.Metrics != "" {
		fmt.Fprintf(w, "; http://%s/metrics", o.Metrics)
	}
	if o.Page != "" {
		fmt.Fprintf(w, "; the page: http://%s/", o.Page)
	}
	fmt.Fprintf(w, `

Point an exporter at UDP port %[1]d of this host, or try one here:
  softflowd -r some.pcap -n 127.0.0.1:%[1]d -v 9
Read the topics:
  kcat -b %[2]s -L
  kcat -C -b %[2]s -t %[3]sflows -o beginning -e -q | wc -c
Connections come here when they close, %[4]v after their last flow at the latest.

`, port, l.KafkaAddr(), name, l.Config.Pair.Idle)
}

// remarkOnSilence prints the usual causes when no datagram has arrived.
func remarkOnSilence(w io.Writer, l *pipeline.Pipeline, sockets listen.Sockets) {
	if l.Stats().Datagrams > 0 {
		return
	}
	fmt.Fprintf(w, "weir up: no datagram for %v on %s; check the exporter's target address and port, "+
		"firewalls on the way and on this host, and rp_filter\n", silenceAfter, sockets)
}

// dropsEvery is the interval at which a growing number of kernel drops is reported.
const dropsEvery = 10 * time.Second

// remarkOnDrops prints the number of kernel drops every dropsEvery if it grew, until ctx ends.
func remarkOnDrops(ctx context.Context, w io.Writer, sockets listen.Sockets) {
	tick := time.NewTicker(dropsEvery)
	defer tick.Stop()
	reported := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := sockets.Drops(); n > reported {
			reported = n
			fmt.Fprintf(w, "weir up: %s\n", sockets.DropsText())
		}
	}
}
