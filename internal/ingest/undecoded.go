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

// Outcomes of sets on the undecoded topic, a closed set: values of the metric label "what".
const (
	lateAppended = "appended"
	lateDecoded  = "decoded"
	lateAgain    = "again"   // appended again: its template is not known yet
	lateExpired  = "expired" // dropped after UNDECODED_KEEP
	lateRefused  = "refused" // dropped: Kafka refuses its flows
)

const (
	undecodedGroup = "ingest"
	// passSets is the largest number of sets in a transaction.
	passSets = 1000
	// passEvery is the interval of passes without a new template: they drop and count expired sets.
	passEvery = 10 * time.Minute
	// passRest is the pause of a partition for each set that a pass appended again, at most
	// passRestMost in all: forged templates must not make replicas rewrite the topic continuously.
	passRest     = time.Millisecond
	passRestMost = 10 * time.Second
	// checkEvery is the shortest interval at which new definitions cause a search of the templates that
	// sets wait for.
	checkEvery = 50 * time.Millisecond
	// checkRest is added to checkEvery for each template that was looked up: about nine times the time
	// that a look-up takes.
	checkRest = 5 * time.Microsecond
	// maxWaitingKeys bounds the templates, of all partitions, that are stored in waitingFor. Beyond it
	// any new definition causes a pass.
	maxWaitingKeys = 100_000
	// maxWait bounds the time that a pass adds to the wait of a set, so that a jump of the clock cannot
	// make the set expire.
	maxWait = 2 * passEvery
	// clocksAgree is the largest difference between the clock of this replica and the time at which a set
	// was appended. Beyond it one of the clocks is wrong, or no replica ran for as long.
	clocksAgree = time.Hour
	// maxReceivedAhead is the largest time in the future at which a set may have been received: it
	// tolerates small differences of clocks.
	maxReceivedAhead = time.Minute
)

// undecoded handles the data sets whose template did not arrive while they were in memory. They wait on
// the undecoded topic. The replica that owns a partition passes over it: in a transaction it reads each
// set and either decodes it, appends it again, or drops it as expired. A set is decoded exactly once.
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

	// Shared with the Replica.
	store     *templates.Store
	watch     *watch
	metrics   *metrics
	exporters *seen
	lost      droppedSets
	decoded   *atomic.Uint64 // flows

	session  *kafka.Session
	follower *kafka.Follower
	producer *kafka.Producer // appends sets outside transactions; closed by Replica.finish
	checkNow chan struct{}   // capacity 1: signals that changed is not empty
	changed  changes
	worker   *worker // used by the goroutine of session only
	budget   *budget.Budget

	mu      sync.Mutex            // guards the fields below
	owned   map[int32]*waitingFor // by partition
	keys    int                   // templates in owned, of all partitions; at most maxWaitingKeys
	pending map[string]float64    // outcomes of the open transaction
	made    []lateSet             // sets decoded in the open transaction
}

// A lateSet holds the counts of a decoded set. They are added when the transaction commits: after an
// abort the set is decoded again.
type lateSet struct {
	of    *exporter
	flows int
	rest  *decode.Result // of withoutFlows; may be nil
	loss.Datagram
}

// withoutFlows returns a copy of the counts, errors and totals of res, without its flows and buffers. It
// returns nil if there are none.
func withoutFlows(res *decode.Result) *decode.Result {
	if len(res.Errors) == 0 && res.TooSmall+res.Beyond+res.OldUptimes+res.Misencoded+res.BadRates+res.OptionsRecords == 0 {
		return nil
	}
	return &decode.Result{
		Header: res.Header, Errors: slices.Clone(res.Errors), TooSmall: res.TooSmall, Beyond: res.Beyond,
		OldUptimes: res.OldUptimes, Misencoded: res.Misencoded, BadRates: res.BadRates,
		OptionsRecords: res.OptionsRecords, Exported: res.Exported,
	}
}

// waitingFor holds the templates that the sets of a partition wait for, and the state of its passes.
type waitingFor struct {
	templates map[[16]byte]map[decode.TemplateKey]int64 // by exporter: the last offset of a set of the template
	more      bool                                      // templates is incomplete: maxWaitingKeys was reached
	again     int                                       // sets appended again since the last commit
	notBefore time.Time                                 // earliest time of the next pass
	wanted    bool                                      // a pass is due at notBefore
	done      int64                                     // committed offset
	seen      int64                                     // offset read in the open transaction
}

// newUndecoded returns the handler of the undecoded topic. It uses producer but does not own it: finish closes
// producer. It must be called once per Run, since its session is a member of a group.
func (r *Replica) newUndecoded(producer *kafka.Producer) *undecoded {
	u := &undecoded{
		flowsRetention: r.c.Topics.FlowsRetention, form: r.c.Form, now: r.deps.Now, log: r.log, errorLog: r.errorLog,
		store: r.store, watch: r.watch, metrics: r.metrics, exporters: &r.exporters, lost: r.lost, decoded: &r.stats.flows,
		topic: r.c.Topics.Name(kafka.Undecoded), flows: r.c.Topics.Name(kafka.Flows), keep: r.c.Undecoded.Keep,
		checkNow: make(chan struct{}, 1), changed: newChanges(),
		// Its worker has no producer: flows of sets are part of the transaction of a pass.
		worker: r.worker(nil, &r.accounts.shared), producer: producer,
		budget: newUndecodedBudget(r.c.Undecoded),
		owned:  map[int32]*waitingFor{}, pending: map[string]float64{},
	}
	// The open transaction of a killed owner blocks consumers of the flows topic at isolation level
	// read_committed: short timeouts abort it soon.
	c := r.c.Kafka
	c.SessionTimeout = min(c.SessionTimeout, 6*time.Second)
	u.session = kafka.NewSession(c, kafka.SessionConfig{
		// A set that is appended again must stay in the partition of its pass (ManualPartitioning): its old
		// offset and its new record commit together. SkipRefused lets a pass continue behind a set whose flows
		// Kafka refuses; each output belongs to a single set, as it requires.
		Group: r.c.Topics.Prefix + undecodedGroup, Member: r.c.Replica, Input: u.topic, ManualPartitioning: []string{u.topic},
		MaxRecords: passSets, Every: 100 * time.Millisecond, Passes: true, SkipRefused: true,
		Rebalance: 3 * time.Second, Timeout: 10 * time.Second, Now: r.deps.Now, Log: r.log,
	})
	u.follower = kafka.NewFollower(r.c.Kafka, u.topic)
	return u
}

// runAfter calls run once begin, the barrier, is closed: before it most sets on the topic would have to be appended
// again. It returns when ctx ends.
func (u *undecoded) runAfter(ctx context.Context, begin <-chan struct{}) error {
	select {
	case <-begin:
		return u.run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// run passes over the topic until ctx ends.
// The three goroutines share owned and keys, guarded by mu: follower learns which templates the topic waits
// for, schedule requests passes, session makes them.
func (u *undecoded) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return u.follower.Run(ctx, u.follow) })
	group.Go(func() error { u.schedule(ctx); return nil })
	group.Go(func() error { return u.session.Run(ctx, u) })
	return group.Wait()
}

// templates returns the number of templates that the sets of owned partitions wait for.
func (u *undecoded) templates() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.keys
}

// put appends a copy of a set to the topic. It drops and counts a set beyond the budgets, so that forged
// sets cannot fill the topic. It does not wait for Kafka.
func (u *undecoded) put(s *decode.Set, now time.Time) {
	value, err := proto.Marshal(rawSet(s))
	if err != nil {
		u.lost.add(s, reasonKafka, now) // unreachable: Marshal fails on invalid UTF-8 only, and RawSet has no string
		return
	}
	// The budget counts the octets of the value, which are those on the topic.
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
	// The callback runs on a goroutine of Kafka's client, after s is gone: it must use copies only.
	u.producer.Produce(undecodedKey(&k), value, now, func(err error) {
		if err != nil {
			u.lost.count(exporter, reasonKafka)
			return
		}
		u.metrics.late.WithLabelValues(lateAppended).Inc()
	})
	u.watch.waiting(s, now)
}

// follow adds the template of a set on the topic to the templates that its partition waits for.
// The follower calls it for each record, in the order of offsets, beside the passes.
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
		// Without a place for the template, any definition may be the awaited one.
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
	// The definition may have arrived after the set was appended and before this record was read: no later
	// definition would request the pass.
	if u.store.Known(&k, 0) != nil {
		u.requestPass(partition, w)
	}
	u.mu.Unlock()
}

// Assigned implements kafka.Handler.
// After an abort it is called for all owned partitions: their waiting templates are still right, but the
// counts of the open transaction are void, since its sets will be read again.
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
// Their new owner follows them from its own committed offset.
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

// Due implements kafka.Handler. An idle partition needs no action.
func (u *undecoded) Due(int32, time.Duration) bool { return false }

// Quiet implements kafka.Handler.
func (u *undecoded) Quiet(*kafka.Tx, int32, time.Duration) bool { return false }

// Finish implements kafka.Handler.
// It has no output: a set depends on no other set of the transaction.
func (u *undecoded) Finish(*kafka.Tx, []int32) {}

// Metadata implements kafka.Handler.
// The topic itself is the state, so that the offset needs no metadata.
func (u *undecoded) Metadata(int32) string { return "" }

// Records implements kafka.Handler: each set is decoded, appended again, or dropped.
func (u *undecoded) Records(tx *kafka.Tx, partition int32, records []kafka.Record) int {
	now := u.now()
	for i := range records {
		u.record(tx, partition, &records[i], now)
	}
	return len(records)
}

// record handles a record of the topic within the transaction tx.
func (u *undecoded) record(tx *kafka.Tx, partition int32, rec *kafka.Record, now time.Time) {
	s, m, err := parseRawSet(rec.Value)
	if err != nil {
		u.count(partition, rec.Offset, "")
		u.metrics.poison.Inc()
		if u.errorLog.AllowN(now, 1) {
			u.log.Warn("a record of the topic of undecoded sets is skipped",
				"partition", partition, "offset", rec.Offset, "err", err)
		}
		return
	}
	if rec.Refused != nil {
		u.count(partition, rec.Offset, lateRefused)
		if u.errorLog.AllowN(now, 1) {
			u.log.Warn("a set on the undecoded topic is dropped", "exporter", s.Meta.Exporter,
				"partition", partition, "offset", rec.Offset, "err", rec.Refused)
		}
		return
	}
	// rec.Time is the clock of the replica that appended the record. apart is therefore a difference of two
	// clocks, and counts towards the wait up to maxWait only.
	apart := now.Sub(rec.Time)
	waited := min(max(0, time.Duration(m.WaitedNs)), u.keep) + min(max(0, apart), maxWait)
	var p *decode.Plan
	agree := apart.Abs() <= clocksAgree
	if agree {
		u.correct(s, waited, now)
		k := s.Key()
		// Settle accepts a definition from before a restart of the exporter: the set has waited for a newer
		// definition in vain.
		p = u.store.Settle(&k, &s.Meta, &s.Header)
	}
	switch {
	case p != nil:
		u.decode(tx, s, p)
		u.count(partition, rec.Offset, lateDecoded)
	case agree && waited > u.keep:
		u.watch.dropped(s, lateExpired, now)
		u.count(partition, rec.Offset, lateExpired)
	default: // if clocks disagree, the record appended here has a time with which the next pass can agree
		m.WaitedNs = int64(waited)
		value, _ := proto.Marshal(m) // cannot fail: m was unmarshaled
		tx.Produce(u.topic, partition, rec.Key, value, nil)
		u.count(partition, rec.Offset, lateAgain)
	}
}

// correct replaces the receive time of a set received by a replica with a wrong clock by the time at which
// the set was first appended. Kafka refuses flows with a time in the future, and deletes flows older than
// the topic's retention at once.
func (u *undecoded) correct(s *decode.Set, waited time.Duration, now time.Time) {
	oldest := now.Add(-max(u.flowsRetention, time.Hour))
	received := time.Unix(0, s.Meta.Received)
	if !received.After(now.Add(maxReceivedAhead)) && !received.Before(oldest) {
		return
	}
	s.Meta.Received = now.Add(-waited).UnixNano()
	if u.errorLog.AllowN(now, 1) {
		u.log.Warn("a set on the undecoded topic has a wrong receive time: its flows get the time at which the set was "+
			"appended; check the clocks of the replicas",
			"exporter", s.Meta.Exporter, "received", received.UTC().Format(time.RFC3339))
	}
}

// count adds the outcome of a set, "" for none, to the pending counts. Committed adds these to the metrics.
func (u *undecoded) count(partition int32, offset int64, outcome string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if w := u.owned[partition]; w != nil {
		w.seen = offset + 1
		if outcome == lateAgain {
			w.again++
		}
	}
	if outcome != "" {
		u.pending[outcome]++
	}
}

// decode adds the flows of a set to the transaction.
func (u *undecoded) decode(tx *kafka.Tx, s *decode.Set, p *decode.Plan) {
	w := u.worker
	w.res.Buf = nil // the transaction keeps the octets: the buffer must not be reused
	w.limitOutput(setOctets(s))
	w.dec.WireSet(s, p, &w.res)
	w.charge(s.Meta.Exporter, setOctets(s), u.now())
	at := time.Unix(0, s.Meta.Received)
	x, _ := w.exporter(s.Meta.Exporter)
	for _, span := range w.res.Flows {
		b := w.res.Buf
		value := b[span.Start:span.ValueEnd:span.ValueEnd]
		if !u.form.Plain() {
			value, _ = u.form.Append(nil, framing.Flows, value) // cannot fail: the decoder's messages are valid
		}
		// The flows topic is partitioned by key: the partition 0 has no effect. The timestamp is the receive
		// time, as for flows decoded at once.
		tx.ProduceAt(u.flows, 0, b[span.ValueEnd:span.KeyEnd:span.KeyEnd], value, at, nil)
	}
	tallied := w.lateDatagram(s)
	tallied.Flow = bytes.Clone(tallied.Flow) // until the commit, keep this flow only, not the buffer of all
	u.mu.Lock()
	u.made = append(u.made, lateSet{x, len(w.res.Flows), withoutFlows(&w.res), tallied})
	u.mu.Unlock()
	w.dec.Trim(&w.res)
	u.watch.found(s.Key(), u.now())
}

// Committed implements kafka.Handler.
// Outcomes and tallies of sets are added only here: sets of an aborted transaction are read again and would
// count twice.
func (u *undecoded) Committed(partitions []int32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range partitions {
		w := u.owned[p]
		if w == nil {
			continue
		}
		w.done = max(w.done, w.seen)
		w.delayNextPass(u.now())
		for e, keys := range w.templates {
			for k, last := range keys {
				// No set before the committed offset waits any more, and the follower saw no later set.
				if last < w.done {
					delete(keys, k)
					u.keys--
				}
			}
			if len(keys) == 0 {
				delete(w.templates, e)
			}
		}
		// Templates without a place may still wait until there is room for all.
		w.more = w.more && u.keys >= maxWaitingKeys
	}
	for outcome, n := range u.pending {
		u.metrics.late.WithLabelValues(outcome).Add(n)
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
			s.of.flows.Add(uint64(n)) // the activity by which rank assigns labels
		}
	}
	if n := u.pending[lateDecoded]; n > 0 {
		u.log.Info("data sets were decoded whose template came late", "sets", n)
	}
	clear(u.pending)
	u.made = u.made[:0]
}

// earlier returns the earlier of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
