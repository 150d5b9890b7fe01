package ingest

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/ingest/budget"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/loss"
	"weir/internal/templates"
)

// What happens to sets on the topic of undecoded ones, a closed set.
const (
	lateAppended = "appended"
	lateDecoded  = "decoded"
	lateAgain    = "again"   // passed over: its template is not known yet
	lateExpired  = "expired" // nobody got its template in time
	lateRefused  = "refused" // Kafka refuses its flows
)

const (
	undecodedGroup = "ingest"
	// passSets is how many sets one transaction takes.
	passSets = 1000
	// passEvery is how often what waits is passed over without a reason, so that
	// what is over is dropped and counted.
	passEvery = 10 * time.Minute
	// passRest is how long a partition is left alone for each set that a pass
	// appended again, at most passRestMost: forged templates cannot make replicas
	// write what waits over and over.
	passRest     = time.Millisecond
	passRestMost = 10 * time.Second
	// checkEvery is how often, at most, a new definition makes what waits be
	// looked through.
	checkEvery = 50 * time.Millisecond
	// checkRest is added to checkEvery for each template that was looked up: about
	// nine times what that takes.
	checkRest = 5 * time.Microsecond
	// maxWaitingKeys bounds how many templates are remembered that something
	// waits for. Beyond it any new definition is a reason for a pass.
	maxWaitingKeys = 100_000
	// maxWait bounds what a pass adds to the time that a set has waited: a clock that
	// jumps cannot make it expire.
	maxWait = 2 * passEvery
	// clocksAgree is how far the clock may be from that of whoever appended a set last.
	// Beyond it one of the two is wrong, or no replica ran for as long.
	clocksAgree = time.Hour
	// maxReceivedAhead is how far in the future a set may have been received: clocks
	// differ a little.
	maxReceivedAhead = time.Minute
)

// undecoded looks after data sets whose template did not come while they were in
// memory: on a topic of their own, passed over by whichever replica owns the
// partition until the template is there. Each set is decoded once, or expires.
//
// It implements kafka.Handler.
type undecoded struct {
	topic, flows   string
	keep           time.Duration
	flowsRetention time.Duration
	form           framing.Config
	now            func() time.Time
	log            *slog.Logger
	errorLog       *rate.Limiter

	// These are the Replica's.
	store     *templates.Store
	watch     *watch
	metrics   *metrics
	exporters *seen
	lost      droppedSets
	decoded   *atomic.Uint64 // flows

	session  *kafka.Session
	follower *kafka.Follower
	producer *kafka.Producer
	checkNow chan struct{}
	changed  changes
	worker   *worker // of the session
	budget   *budget.Budget

	mu      sync.Mutex // guards what follows
	owned   map[int32]*waitingFor
	keys    int // of all partitions
	pending map[string]float64
	made    []lateSet // by the open transaction
}

// A lateSet is a set that was decoded. It counts when its transaction commits: after
// an aborted one it is decoded again.
type lateSet struct {
	of    *exporter
	flows int
	rest  *decode.Result // what it held beside flows; nil: nothing
	loss.Datagram
}

// besideFlows returns a copy of what res holds beside flows, without its buffers; nil
// when it holds nothing else.
func besideFlows(res *decode.Result) *decode.Result {
	if len(res.Errors) == 0 && res.TooSmall+res.Beyond+res.OldUptimes+res.Misencoded+res.BadRates+res.OptionsRecords == 0 {
		return nil
	}
	return &decode.Result{
		Header: res.Header, Errors: slices.Clone(res.Errors), TooSmall: res.TooSmall, Beyond: res.Beyond,
		OldUptimes: res.OldUptimes, Misencoded: res.Misencoded, BadRates: res.BadRates, OptionsRecords: res.OptionsRecords, Exported: res.Exported,
	}
}

// waitingFor is what the sets of a partition wait for.
type waitingFor struct {
	templates map[[16]byte]map[decode.TemplateKey]int64 // by exporter; the last offset of a set of it
	more      bool                                      // not all are remembered
	again     int                                       // sets that were passed over since the last commit
	notBefore time.Time                                 // of the next pass
	wanted    bool                                      // a pass, then
	done      int64                                     // committed up to here
	seen      int64                                     // read up to here in the open transaction
}

func (r *Replica) newUndecoded(producer *kafka.Producer) *undecoded {
	u := &undecoded{
		flowsRetention: r.c.Topics.FlowsRetention, form: r.c.Form, now: r.deps.Now, log: r.log, errorLog: r.errorLog,
		store: r.store, watch: r.watch, metrics: r.metrics, exporters: &r.exporters, lost: r.lost, decoded: &r.stats.flows,
		topic: r.c.Topics.Name(kafka.Undecoded), flows: r.c.Topics.Name(kafka.Flows), keep: r.c.Undecoded.Keep,
		checkNow: make(chan struct{}, 1), worker: r.worker(nil, &r.accounts.shared), producer: producer,
		budget: newUndecodedBudget(r.c.Undecoded),
		owned:  map[int32]*waitingFor{}, pending: map[string]float64{},
	}
	// The open transaction of a killed owner holds up whoever reads the flows:
	// short times end it soon.
	c := r.c.Kafka
	c.SessionTimeout = min(c.SessionTimeout, 6*time.Second)
	u.session = kafka.NewSession(c, kafka.SessionConfig{
		Group: r.c.Topics.Prefix + undecodedGroup, Member: r.c.Replica, Input: u.topic, ManualPartitioning: []string{u.topic},
		MaxRecords: passSets, Every: 100 * time.Millisecond, Passes: true, SkipRefused: true,
		Rebalance: 3 * time.Second, Timeout: 10 * time.Second, Now: r.deps.Now, Log: r.log,
	})
	u.follower = kafka.NewFollower(r.c.Kafka, u.topic)
	return u
}

// run passes over the topic until ctx ends.
func (u *undecoded) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return u.follower.Run(ctx, u.follow) })
	group.Go(func() error { u.schedule(ctx); return nil })
	group.Go(func() error { return u.session.Run(ctx, u) })
	return group.Wait()
}

// schedule asks for passes: when a definition came that something waits for, and
// every now and then.
func (u *undecoded) schedule(ctx context.Context) {
	t, rested := time.NewTicker(passEvery), time.NewTicker(passRestMost/40)
	defer t.Stop()
	defer rested.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rested.C:
			u.askFor(func(w *waitingFor) bool { return w.wanted })
		case <-t.C:
			u.askFor(func(w *waitingFor) bool { return len(w.templates) > 0 || w.more })
		case <-u.checkNow:
			exporters, all := u.changed.takeAll()
			looked := 0
			u.askFor(func(w *waitingFor) bool { return w.more || u.anyKnown(w, exporters, all, &looked) })
			select {
			case <-ctx.Done():
				return
			case <-time.After(checkEvery + time.Duration(looked)*checkRest):
			}
		}
	}
}

func (u *undecoded) askFor(is func(*waitingFor) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p, w := range u.owned {
		if is(w) {
			u.pass(p, w)
		}
	}
}

// pass asks for a pass, as soon as the partition has rested from the last one.
// mu is held.
func (u *undecoded) pass(partition int32, w *waitingFor) {
	if w.wanted = u.now().Before(w.notBefore); !w.wanted {
		u.session.Pass(partition)
	}
}

// anyKnown reports whether a template is known that a partition waits for, of some
// exporters or of all, and counts in looked the templates that it looked up. mu is held.
func (u *undecoded) anyKnown(w *waitingFor, exporters [][16]byte, all bool, looked *int) bool {
	known := func(keys map[decode.TemplateKey]int64) bool {
		for k := range keys {
			*looked++
			if u.store.Known(&k, 0) != nil {
				return true
			}
		}
		return false
	}
	if all {
		for _, keys := range w.templates {
			if known(keys) {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(exporters, func(e [16]byte) bool { return known(w.templates[e]) })
}

// rest leaves the partition alone for what was appended again; a pass may take
// several transactions.
func (w *waitingFor) rest(now time.Time) {
	if w.notBefore.Before(now) {
		w.notBefore = now
	}
	w.notBefore = earlier(w.notBefore.Add(time.Duration(w.again)*passRest), now.Add(passRestMost))
	w.again = 0
}

// templates is how many templates are waited for, of owned partitions.
func (u *undecoded) templates() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.keys
}

// put appends a set, whose octets are the caller's again afterwards. What is
// beyond the budgets, so that forged sets cannot fill the topic, is dropped and
// counted.
func (u *undecoded) put(s *decode.Set, now time.Time) {
	value, err := proto.Marshal(rawSet(s))
	if err != nil {
		u.lost.add(s, reasonKafka, now) // never: it holds no text
		return
	}
	switch u.budget.Spend(s.Meta.Exporter, len(value), now) {
	case budget.None:
	case budget.Exporter:
		u.lost.add(s, reasonExporterLimit, now)
		return
	case budget.All:
		u.lost.add(s, reasonUndecodedLimit, now)
		return
	}
	k := s.Key()
	exporter := s.Meta.Exporter
	u.producer.Produce(undecodedKey(&k), value, now, func(err error) {
		if err != nil {
			u.lost.count(exporter, reasonKafka)
			return
		}
		u.metrics.late.WithLabelValues(lateAppended).Inc()
	})
	u.watch.waiting(s, now)
}

// follow notes what a set on the topic waits for.
func (u *undecoded) follow(partition int32, rec kafka.Record) {
	k, err := parseUndecodedKey(rec.Key)
	if err != nil {
		return // the pass counts it
	}
	u.mu.Lock()
	w := u.owned[partition]
	if w == nil || rec.Offset < w.done {
		u.mu.Unlock()
		return
	}
	if _, is := w.templates[k.Exporter][k]; !is {
		if u.keys >= maxWaitingKeys {
			w.more = true
			u.mu.Unlock()
			return
		}
		u.keys++
	}
	if w.templates[k.Exporter] == nil {
		w.templates[k.Exporter] = map[decode.TemplateKey]int64{}
	}
	w.templates[k.Exporter][k] = rec.Offset
	if u.store.Known(&k, 0) != nil {
		u.pass(partition, w)
	}
	u.mu.Unlock()
}

// Assigned implements kafka.Handler.
func (u *undecoded) Assigned(_ context.Context, _ int, at []kafka.Position) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range at {
		if w := u.owned[p.Partition]; w != nil {
			w.again = 0
		} else {
			u.owned[p.Partition] = &waitingFor{templates: map[[16]byte]map[decode.TemplateKey]int64{}, done: p.Offset}
			u.follower.Add(p.Partition, p.Offset)
		}
	}
	clear(u.pending)
	u.made = u.made[:0]
	return nil
}

// Lost implements kafka.Handler.
func (u *undecoded) Lost(partitions []int32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range partitions {
		if w := u.owned[p]; w != nil {
			for _, keys := range w.templates {
				u.keys -= len(keys)
			}
			delete(u.owned, p)
			u.follower.Remove(p)
		}
	}
}

// Due implements kafka.Handler: silence means nothing here.
func (u *undecoded) Due(int32, time.Duration) bool { return false }

// Quiet implements kafka.Handler.
func (u *undecoded) Quiet(*kafka.Tx, int32, time.Duration) bool { return false }

// Finish implements kafka.Handler.
func (u *undecoded) Finish(*kafka.Tx, []int32) {}

// Metadata implements kafka.Handler.
func (u *undecoded) Metadata(int32) string { return "" }

// Records implements kafka.Handler: each set is decoded, or appended again, or
// expires.
func (u *undecoded) Records(tx *kafka.Tx, partition int32, records []kafka.Record) int {
	now := u.now()
	for i := range records {
		u.record(tx, partition, &records[i], now)
	}
	return len(records)
}

func (u *undecoded) record(tx *kafka.Tx, partition int32, rec *kafka.Record, now time.Time) {
	s, m, err := parseRawSet(rec.Value)
	if err != nil {
		u.count(partition, rec.Offset, "")
		u.metrics.poison.Inc()
		if u.errorLog.AllowN(now, 1) {
			u.log.Warn("a record of the topic of undecoded sets is skipped", "partition", partition, "offset", rec.Offset, "err", err)
		}
		return
	}
	if rec.Refused != nil {
		u.count(partition, rec.Offset, lateRefused)
		if u.errorLog.AllowN(now, 1) {
			u.log.Warn("a set on the undecoded topic is dropped", "exporter", s.Meta.Exporter, "partition", partition, "offset", rec.Offset, "err", rec.Refused)
		}
		return
	}
	apart := now.Sub(rec.Time)
	waited := min(max(0, time.Duration(m.WaitedNs)), u.keep) + min(max(0, apart), maxWait)
	var p *decode.Plan
	agree := apart.Abs() <= clocksAgree
	if agree {
		u.correct(s, waited, now)
		k := s.Key()
		p = u.store.Settle(&k, &s.Meta, &s.Header)
	}
	switch {
	case p != nil:
		u.decode(tx, s, p)
		u.count(partition, rec.Offset, lateDecoded)
	case agree && waited > u.keep:
		u.watch.dropped(s, lateExpired, now)
		u.count(partition, rec.Offset, lateExpired)
	default: // where clocks disagree the next pass compares with the time of this one
		m.WaitedNs = int64(waited)
		value, _ := proto.Marshal(m) // it was unmarshaled before
		tx.Produce(u.topic, partition, rec.Key, value, nil)
		u.count(partition, rec.Offset, lateAgain)
	}
}

// correct gives a set that a replica with a wrong clock received the time at which it came
// to the topic: Kafka refuses flows from the future, and deletes at once those that are
// older than it keeps flows.
func (u *undecoded) correct(s *decode.Set, waited time.Duration, now time.Time) {
	oldest := now.Add(-max(u.flowsRetention, time.Hour))
	received := time.Unix(0, s.Meta.Received)
	if !received.After(now.Add(maxReceivedAhead)) && !received.Before(oldest) {
		return
	}
	s.Meta.Received = now.Add(-waited).UnixNano()
	if u.errorLog.AllowN(now, 1) {
		u.log.Warn("the receive time of a set on the undecoded topic is wrong: its flows get the time at which it came there; is the clock of a replica wrong?",
			"exporter", s.Meta.Exporter, "received", received.UTC().Format(time.RFC3339))
	}
}

// count notes the outcome of a set; it counts when the transaction commits.
func (u *undecoded) count(partition int32, offset int64, what string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if w := u.owned[partition]; w != nil {
		w.seen = offset + 1
		if what == lateAgain {
			w.again++
		}
	}
	if what != "" {
		u.pending[what]++
	}
}

// decode adds the flows of a set to the transaction.
func (u *undecoded) decode(tx *kafka.Tx, s *decode.Set, p *decode.Plan) {
	w := u.worker
	w.res.Buf = nil // the client keeps what it is given
	w.limitOutput(setOctets(s))
	w.dec.WireSet(s, p, &w.res)
	w.charge(s.Meta.Exporter, setOctets(s), u.now())
	at := time.Unix(0, s.Meta.Received)
	x, _ := w.exporter(s.Meta.Exporter)
	for _, span := range w.res.Flows {
		b := w.res.Buf
		value := b[span.Start:span.ValueEnd:span.ValueEnd]
		if !u.form.Plain() {
			value, _ = u.form.Append(nil, framing.Flows, value) // the decoder's own messages are good
		}
		tx.ProduceAt(u.flows, 0, b[span.ValueEnd:span.KeyEnd:span.KeyEnd], value, at, nil)
	}
	tallied := w.lateDatagram(s)
	tallied.Flow = bytes.Clone(tallied.Flow) // not all flows of the set, until the commit
	u.mu.Lock()
	u.made = append(u.made, lateSet{x, len(w.res.Flows), besideFlows(&w.res), tallied})
	u.mu.Unlock()
	w.dec.Trim(&w.res)
	u.watch.found(s.Key(), u.now())
}

// Committed implements kafka.Handler.
func (u *undecoded) Committed(partitions []int32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range partitions {
		w := u.owned[p]
		if w == nil {
			continue
		}
		w.done = max(w.done, w.seen)
		w.rest(u.now())
		for e, keys := range w.templates {
			for k, last := range keys {
				if last < w.done {
					delete(keys, k)
					u.keys--
				}
			}
			if len(keys) == 0 {
				delete(w.templates, e)
			}
		}
		w.more = w.more && u.keys >= maxWaitingKeys
	}
	for what, n := range u.pending {
		u.metrics.late.WithLabelValues(what).Add(n)
	}
	for i := range u.made {
		s := &u.made[i]
		if s.rest != nil {
			u.worker.outcome(s.rest, s.of, u.now())
		}
		u.worker.tally.Add(&s.Datagram)
		if n := s.flows; n > 0 {
			u.decoded.Add(uint64(n))
			u.exporters.decoded(s.of).Add(float64(n))
			s.of.flows.Add(uint64(n)) // activity, for its label
		}
	}
	if n := u.pending[lateDecoded]; n > 0 {
		u.log.Info("data sets were decoded whose template came late", "sets", n)
	}
	clear(u.pending)
	u.made = u.made[:0]
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
