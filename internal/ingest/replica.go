package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"weir/internal/decode"
	"weir/internal/exporters"
	"weir/internal/failure"
	"weir/internal/ingest/budget"
	"weir/internal/kafka"
	"weir/internal/loss"
	"weir/internal/templates"
	"weir/internal/transport"
)

// Deps are the dependencies of a Replica.
type Deps struct {
	Log     *slog.Logger
	Now     func() time.Time
	Metrics prometheus.Registerer // nil: metrics are not exported
	Discard bool                  // discard flows after decoding and counting, to measure receiving alone
}

// A Replica is an ingest process: sockets, decoders, template store and producers. New makes it, Run runs
// it once. Receive, Receiver, Ready and Stats are safe for concurrent use, except as Receive says.
type Replica struct {
	c    Config
	deps Deps
	log  *slog.Logger

	file         *exporters.File
	fileFailures failure.Repeats // of reloads of file; used by reread only
	store        *templates.Store
	tlog         *kafka.TemplateLog
	// run holds the parts that Run makes. Scrapes, Ready and the store's callback may come before Run and must
	// check for nil.
	run       atomic.Pointer[running] // nil until Run
	metrics   *metrics
	exporters seen
	lost      droppedSets
	proxies   *transport.Proxies
	streams   *transport.Streams
	sessions  *sessions
	watch     *watch
	examiner  *examiner
	accounts  accounts
	output    *budget.Budget
	buffer    setBuffer // data sets that wait for their template
	changed   changes   // exporters whose sets in buffer must be scanned
	// ports holds the ports of LISTEN_UDP. New and listen write it before the first worker starts; workers
	// read it without a lock.
	ports map[uint16]bool
	// started is closed by Run after run is set. Receive waits for it.
	started   chan struct{}
	passed    chan struct{} // closed by passBarrier: the templates topic has been read to its end
	barrierAt atomic.Int64  // time at which that happened, ns since the epoch; 0: it has not

	publishNow, bufferNow chan struct{} // capacity 1: signals for publisher and bufferLoop
	publishing            atomic.Int64  // records handed to tlog and not acknowledged
	publishFailed         atomic.Bool   // since the last round of the publisher
	// errorLog allows 10 lines at once and then a line every 5 s, dropLog a line every 10 s. Counters are
	// exact where logs are limited.
	errorLog, dropLog *rate.Limiter

	mu      sync.Mutex          // guards the fields below
	waiting error               // reason why the topics are not usable yet; nil: they are
	udp     []*transport.Socket // set by Run
	ending  bool

	stats struct {
		datagrams, flows, options, learnt, published, errors, dropped, buffered, denied atomic.Uint64
	}
}

// running holds the parts of a Replica that open makes in Run. It is immutable.
type running struct {
	producer  *kafka.Producer // of flows
	reports   *kafka.Producer // of reports of received data
	pack      *kafka.Packer   // nil: a record per flow
	undecoded *undecoded
	direct    *worker // of Receive
}

var errStarting = errors.New("starting: kafka is not reached yet")

// New returns a Replica that is inert until Run. It reads EXPORTERS_FILE and TEMPLATES_FILE and registers
// the metrics. ELEMENTS_FILE must have been loaded before.
func New(c Config, d Deps) (*Replica, error) {
	if c.Replica == "" {
		c.Replica = replicaName()
	}
	// Memory settings must be final before any part is made with them.
	c.fit()
	c.Streams.PerAddress, c.Streams.Idle = cmp.Or(c.Streams.PerAddress, 64), cmp.Or(c.Streams.Idle, 30*time.Minute)
	if d.Metrics == nil {
		d.Metrics = prometheus.NewRegistry()
	}
	file, err := exporters.Open(c.ExportersFile)
	if err != nil {
		return nil, err
	}
	c.Kafka.Log, c.Kafka.Metrics = d.Log, d.Metrics
	tlog, err := kafka.NewTemplateLog(c.Kafka, c.Topics.Name(kafka.Templates), c.Replica)
	if err != nil {
		return nil, err
	}
	r := &Replica{
		c: c, deps: d, log: d.Log.With("replica", c.Replica), file: file, tlog: tlog, waiting: errStarting,
		proxies:   transport.NewProxies(c.TrustedProxies),
		changed:   newChanges(),
		exporters: seen{all: newSeen()}, buffer: setBuffer{max: c.ParkMax, wait: c.ParkFor},
		ports: map[uint16]bool{}, started: make(chan struct{}), passed: make(chan struct{}),
		publishNow: make(chan struct{}, 1), bufferNow: make(chan struct{}, 1),
		errorLog: rate.NewLimiter(0.2, 10), dropLog: rate.NewLimiter(0.1, 1),
	}
	r.store = templates.New(templates.Options{
		Replica: c.Replica, Patient: true, HashKeys: c.Templates.HashKeys(),
		MaxPerExporter: c.Templates.PerExporter, MaxTotal: c.Templates.Max, MaxUnconfirmed: c.Templates.Unconfirmed,
		MaxOctets: int64(c.Templates.Octets), MaxExporterOctets: c.Templates.perExporter(),
		Now: d.Now, Changed: r.templatesChanged,
	})
	if err := r.addStatic(); err != nil {
		return nil, err
	}
	// No statement below can fail.
	warnWideProxies(r.log, c.TrustedProxies)
	c.logMemory(r.log)
	tlog.Renewed, tlog.ReadToEnd, tlog.Backlog = r.store.Republish, r.passBarrier, c.Templates.Octets/backlogPart
	started := d.Now()
	r.accounts.self = loss.Life{Replica: c.Replica, Started: started.UnixNano()}
	r.accounts.book, r.accounts.cluster = loss.NewBook(c.Replica, started), loss.NewCluster()
	r.accounts.lives = loss.NewLives()
	r.accounts.book.Listed, r.accounts.cluster.Listed = r.listsAddress, r.listsAddress
	r.accounts.book.Attach(&r.accounts.shared)
	r.sessions = newSessions(r)
	r.streams = transport.NewStreams(c.Streams, c.Drain, r.proxies, r.log, r.sessions)
	r.metrics = newMetrics(d.Metrics, r)
	r.output = newOutputBudget(c)
	r.examiner = newExaminer()
	r.watch = newWatch(r.log, d.Now(), r.listening)
	// The callbacks below need the metrics, and newMetrics needs the store, the accounts and the streams: the
	// order of these statements matters.
	r.lost = droppedSets{exporters: &r.exporters, metrics: r.metrics, watch: r.watch}
	r.exporters.dropped, r.exporters.flows, r.exporters.fold = r.dropped, r.metrics.flows, r.metrics.fold
	r.exporters.listed = r.listsAddress
	// unnamed stands for all addresses beyond maxSeen. It counts dropped flows, too.
	r.exporters.unnamed.seen = &r.exporters
	for _, a := range c.Listen {
		r.ports[a.Port()] = true
	}
	return r, nil
}

// templatesChanged wakes the consumers of template state after a template of an exporter arrived. The
// store calls it; it does not block.
// It runs on the goroutine of a worker or of the template log, and signals only.
func (r *Replica) templatesChanged(exporter [16]byte) {
	r.changed.add(exporter)
	r.wakePublisher()
	r.wakeBuffer()
	if run := r.run.Load(); run != nil {
		run.undecoded.changed.add(exporter)
		wake(run.undecoded.checkNow)
	}
}

// worker returns a worker that counts in t. run may be nil if the worker never produces.
func (r *Replica) worker(run *running, t *loss.Tally) *worker {
	w := &worker{
		r: r, run: run, tally: t, hides: newHidden(), known: map[netip.Addr]*exporter{},
		dec: decode.Decoder{
			State: r.store, Replica: r.c.Replica, Exporter: r.file.Exporter,
			DropElements: !r.c.Elements, ExporterOfRecord: r.c.ExporterOfRecord, MaxUptimeAge: r.c.MaxUptimeAge,
		},
	}
	switch {
	case run == nil:
	case run.producer.Batches() != nil:
		w.out = run.producer.Batches()
	case run.pack != nil:
		w.out = run.pack
	default: // an arena has no lock: each goroutine needs its own
		w.out = run.producer.Arena(r.c.Form)
	}
	return w
}

// Receive handles a datagram as if a socket had received it at the given time. It waits until Run has
// begun. It does not keep pkt. Calls must not be concurrent; for concurrent calls use Receiver.
func (r *Replica) Receive(pkt []byte, from netip.AddrPort, at time.Time) {
	<-r.started
	r.run.Load().direct.datagram(pkt, transport.Bare(from), at)
}

// Receiver returns a function that handles datagrams as Receive does. Calls of the same function must
// not be concurrent; different functions, and Receive, may be called concurrently.
func (r *Replica) Receiver() func(pkt []byte, from netip.AddrPort, at time.Time) {
	var w *worker
	return func(pkt []byte, from netip.AddrPort, at time.Time) {
		if w == nil {
			<-r.started
			w = r.reader(r.run.Load())
		}
		w.datagram(pkt, transport.Bare(from), at)
	}
}

// Ready returns nil if /readyz responds with 200, else the reason.
// It is called for each request of /readyz and each scrape, and must not wait for Kafka.
func (r *Replica) Ready() error {
	r.mu.Lock()
	ending, waiting := r.ending, r.waiting
	r.mu.Unlock()
	switch {
	case ending:
		return errors.New("shutting down")
	case waiting != nil:
		return waiting
	}
	if run := r.run.Load(); run != nil {
		if err := run.undecoded.session.Aborting(); err != nil {
			return fmt.Errorf("the undecoded topic: %w", err)
		}
	}
	return r.tlog.Ready()
}

// Stats holds totals since the start. Buffered counts the data sets that were buffered.
type Stats struct {
	Datagrams, Flows, Options, TemplatesLearnt, TemplatesPublished, TemplatesFromOthers, Errors, Dropped, Buffered uint64
}

// Stats returns the totals.
func (r *Replica) Stats() Stats {
	s := &r.stats
	return Stats{
		Datagrams: s.datagrams.Load(), Flows: s.flows.Load(), Options: s.options.Load(), TemplatesLearnt: s.learnt.Load(),
		TemplatesPublished: s.published.Load(), TemplatesFromOthers: r.store.Foreign(),
		Errors: s.errors.Load(), Dropped: s.dropped.Load(), Buffered: s.buffered.Load(),
	}
}

// Run runs the replica until ctx ends or a part of it fails, then shuts down: Ready returns an error;
// sockets are read for DRAIN, or until no datagram arrives; buffered sets are decoded or appended to the
// undecoded topic; the producers are flushed for at most FLUSH, and records that Kafka did not take are
// counted as dropped. Run must be called once.
func (r *Replica) Run(ctx context.Context) error {
	var opened []func()
	undo := func(err error) error {
		for _, f := range opened {
			f()
		}
		return err
	}
	// Bind the addresses first: a replica that cannot receive must fail at its start.
	sockets, err := r.listen(ctx)
	if err != nil {
		return err
	}
	opened = append(opened, func() { transport.CloseSockets(sockets) })
	if err := r.streams.Listen(ctx); err != nil {
		return undo(err)
	}
	opened = append(opened, r.streams.Close)
	run, err := r.open()
	if err != nil {
		return undo(err)
	}
	late := run.undecoded
	r.sessions.start(run)
	r.run.Store(run)
	// From here on Receive, Ready and scrapes may use run.
	close(r.started)

	// Readers end first. The goroutines of group, which the readers need, end after them.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, groupCtx := errgroup.WithContext(inner)
	// failed ends with ctx, or with the first error of a goroutine of group. Its end starts the shutdown.
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// guard starts a part of the replica. An error of a part ends the replica, and Run returns it.
	guard := func(f func(context.Context) error) {
		group.Go(func() error {
			err := f(groupCtx)
			if err != nil {
				fail(err)
			}
			return err
		})
	}
	guard(func(c context.Context) error { return r.shared(c, failed) })
	guard(r.publisher)
	producing, endProducing := context.WithCancel(groupCtx)
	defer endProducing()
	produced := make(chan struct{})
	guard(func(context.Context) error {
		defer close(produced)
		return r.produce(producing, run)
	})
	guard(r.rereader)
	guard(r.overlooker)
	guard(r.examine)
	guard(func(c context.Context) error { return runEvery(c, rankEvery, r.exporters.rank) })
	passes, endPasses := context.WithCancel(groupCtx)
	defer endPasses()
	guard(func(context.Context) error { return late.runAfter(passes, r.passed) })
	var readers sync.WaitGroup
	for _, s := range sockets {
		readers.Go(func() { r.read(failed, run, s) })
	}
	readers.Go(func() { r.streams.Run(failed) })
	<-failed.Done()
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	if ctx.Err() != nil {
		r.log.Info("shutting down: reading what still comes", "drain", r.c.Drain)
	}
	// The readers drain the sockets (DRAIN). All other parts still work, so that drained flows are published.
	readers.Wait()
	transport.CloseSockets(sockets)
	endProducing()
	<-produced
	endPasses() // its open transaction takes up to 7 s to end when Kafka is away, while finish waits too
	r.finish(run)
	// finish published through the template log, which may end now.
	stop()
	return group.Wait()
}

// produce runs the loops that use the producers of run, until ctx ends. When it returns none of them uses the producers
// any more: they must not be closed before.
func (r *Replica) produce(ctx context.Context, run *running) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.bufferLoop(ctx, run) })
	group.Go(func() error { return r.accountant(ctx, run.reports) })
	group.Go(func() error { return r.recoverer(ctx, run.reports) })
	return group.Wait()
}

// open makes the producers and workers of Run. After an error nothing is open; else finish closes them.
// It does not contact Kafka: a replica starts, and buffers, while Kafka is away.
func (r *Replica) open() (run *running, err error) {
	run = &running{}
	var opened []*kafka.Producer
	// producer does nothing after the first error, so that err is checked once.
	producer := func(topic kafka.Topic, c kafka.ProducerConfig) (p *kafka.Producer) {
		if err != nil {
			return nil
		}
		c.Linger = r.c.Linger
		if p, err = kafka.NewProducer(r.c.Kafka, r.c.Topics.Name(topic), c); err == nil {
			opened = append(opened, p)
		}
		return p
	}
	// Each topic has a producer with limits of its own: a full buffer of flows must not hold up reports, and
	// forged sets must not displace flows.
	flows := kafka.ProducerConfig{MaxRecords: r.c.MaxRecords, MaxOctets: r.c.MaxOctets, Compression: r.c.Compression}
	if r.c.Producer == producerBatches {
		flows.Batches = &r.c.Form
	}
	run.producer = producer(kafka.Flows, flows)
	run.reports = producer(kafka.Exporters, kafka.ProducerConfig{MaxOctets: accountOctets, Compression: "snappy"})
	late := producer(kafka.Undecoded, kafka.ProducerConfig{MaxOctets: max(r.c.Undecoded.Burst, 1), Compression: "snappy"})
	if err != nil {
		for _, p := range opened {
			p.Close()
		}
		return nil, err
	}
	if r.c.Pack > 1 {
		run.pack = run.producer.Packer(r.c.Pack)
	}
	run.undecoded = r.newUndecoded(late)
	run.direct = r.worker(run, r.accounts.newTally())
	return run, nil
}

// reader returns a worker for a goroutine that receives datagrams, with a tally and packer of its own.
func (r *Replica) reader(run *running) *worker {
	w := r.worker(run, r.accounts.newTally())
	if run.pack != nil { // a packer has a lock: a shared packer would make readers wait for each other
		w.out = run.producer.Packer(r.c.Pack)
	}
	return w
}

// read handles the datagrams of a socket until ctx ends and draining is over.
func (r *Replica) read(ctx context.Context, run *running, s *transport.Socket) {
	w := r.reader(run)
	handle := func(pkt []byte, from netip.AddrPort) { w.datagram(pkt, from, r.deps.Now()) }
	s.Read(ctx, r.c.Drain, handle, func(err error) { r.log.Warn("cannot read from a socket", "err", err) })
}

// shared creates the missing topics, then applies the records of the templates topic until ctx ends. starting bounds
// the wait for Kafka: if it ends first, shared returns nil, since a shutdown while Kafka is unreachable is not a
// failure.
func (r *Replica) shared(ctx, starting context.Context) error {
	err := kafka.Ensure(starting, r.c.Kafka, r.c.Topics, func(why error) {
		r.mu.Lock()
		r.waiting = fmt.Errorf("kafka: %w", why)
		r.mu.Unlock()
		r.log.Warn("waiting for kafka", "brokers", r.c.Kafka.Brokers, "err", why)
	}, kafka.Flows, kafka.Templates, kafka.Undecoded, kafka.Exporters)
	if starting.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.waiting = nil
	r.mu.Unlock()
	return r.tlog.Run(ctx, r.merge)
}

// finish decodes buffered sets, flushes and closes the producers, all within FLUSH. No worker may produce
// any more when it is called.
func (r *Replica) finish(run *running) {
	producer, late := run.producer, run.undecoded
	ctx, cancel := context.WithTimeout(context.Background(), r.c.Flush)
	defer cancel()
	// The order of the steps matters. Decoded sets make flows and counts; the other sets go to the
	// undecoded topic. The reports are last, since all steps before count in them. All waits share the
	// deadline of ctx.
	r.decodeBuffered(r.worker(run, &r.accounts.shared), r.deps.Now())
	for _, s := range r.buffer.drain() {
		late.put(&s, r.deps.Now())
	}
	// Before the barrier the topic may hold newer definitions than the store: publish nothing.
	if r.barrierAt.Load() != 0 {
		r.publishDue()
	}
	// The callbacks of publishDue use the store and the metrics; wait until they have run.
	for r.publishing.Load() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	if n := r.store.Stats().Pending; n > 0 {
		r.log.Warn("templates could not be published", "templates", n)
	}
	if err := producer.Flush(ctx); err != nil {
		n, octets := producer.Buffered()
		r.log.Warn("flows are lost: kafka did not acknowledge them", "flows", n, "octets", octets, "err", err)
	}
	producer.Close() // what is left is counted as dropped
	if err := late.producer.Flush(ctx); err != nil {
		n, octets := late.producer.Buffered()
		r.log.Warn("data sets are lost whose template did not come and that kafka did not take",
			"sets", n, "octets", octets, "err", err)
	}
	late.producer.Close()
	r.publishGathered(run.reports, r.deps.Now(), r.accounts.book.Close)
	if err := run.reports.Flush(ctx); err != nil {
		r.log.Warn("not all reports of exporters' datagrams are published: the datagrams will seem lost", "err", err)
	}
	run.reports.Close()
	s := r.Stats()
	ended := []any{
		"datagrams", s.Datagrams, "flows", s.Flows, "errors", s.Errors, "dropped", s.Dropped,
		"denied", r.stats.denied.Load(),
	}
	if sockets := r.sockets(); len(sockets) > 0 { // else the caller of Receive owns the sockets
		kernel := uint64(0)
		for _, s := range sockets {
			kernel += s.Drops()
		}
		ended = append(ended, "dropped_by_kernel", kernel)
	}
	r.log.Info("ended", ended...)
}
