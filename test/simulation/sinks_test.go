//go:build synctests

package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/cli/sink"
	"weir/internal/kafka"
)

// A store is the file of a sink: the messages of a topic, and the offsets after them. A kill leaves it as
// after a complete Write.
type store struct {
	topic kafka.Topic

	mu     sync.Mutex // guards the fields below
	id     string     // of the topic
	next   map[int32]int64
	epochs map[int32]int32 // leader epochs of the records before next
	rows   []row
}

// A row is a message with its position on the topic.
type row struct {
	partition int32
	offset    int64
	message   []byte
}

// A keeper is a store that a process has open. It implements sink.Sink.
type keeper struct {
	store *store
	rng   *rand.Rand // draws the duration of a Write
	next  map[int32]int64
	dead  chan struct{} // closed by SIGKILL
}

var (
	errOtherWriter = errors.New("another process writes this topic into this file")
	errKilled      = errors.New("the process was killed")
)

// Epochs implements sink.Sink.
func (k *keeper) Epochs(context.Context) (map[int32]int32, error) {
	s := k.store
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.epochs), nil
}

// Begin implements sink.Sink.
func (k *keeper) Begin(_ context.Context, t sink.Topic) (b sink.Beginning, err error) {
	s := k.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Anew = s.id != "" && s.id != t.ID; s.id != t.ID {
		s.id, s.next, s.epochs = t.ID, map[int32]int64{}, map[int32]int32{}
	}
	for p, first := range t.First {
		at := first
		if next, known := s.next[p]; known {
			end := t.End[p]
			if cut, known := t.EpochEnds[p]; known {
				end = min(end, cut)
			}
			end = max(first, end)
			b.Missed += max(0, first-next)
			b.Lost += max(0, next-end)
			at = min(max(first, next), end)
		}
		if s.next[p] != at {
			delete(s.epochs, p) // of no record before it
		}
		s.next[p] = at
	}
	k.next = maps.Clone(s.next)
	b.From = maps.Clone(s.next)
	return b, nil
}

// Write implements sink.Sink. A kill takes effect before or after the records are stored.
func (k *keeper) Write(_ context.Context, records []sink.Record) (rows, bad int, err error) {
	if k.pause() {
		return 0, 0, errKilled
	}
	next, epochs := map[int32]int64{}, map[int32]int32{}
	var added []row
	for _, r := range records {
		next[r.Partition], epochs[r.Partition] = r.Offset+1, r.Epoch
		for _, m := range r.Messages {
			added = append(added, row{r.Partition, r.Offset, bytes.Clone(m)})
		}
	}
	s := k.store
	s.mu.Lock()
	for p := range next {
		if s.next[p] != k.next[p] {
			s.mu.Unlock()
			return 0, 0, errOtherWriter
		}
	}
	maps.Copy(s.next, next)
	maps.Copy(s.epochs, epochs)
	maps.DeleteFunc(s.epochs, func(_ int32, epoch int32) bool { return epoch < 0 })
	maps.Copy(k.next, next)
	s.rows = append(s.rows, added...)
	s.mu.Unlock()
	if k.pause() {
		return 0, 0, errKilled
	}
	return len(added), 0, nil
}

// pause is the duration of a part of a Write. It returns true if the process was killed meanwhile.
func (k *keeper) pause() (killed bool) {
	select {
	case <-k.dead:
		return true
	case <-time.After(time.Duration(k.rng.IntN(40)) * time.Millisecond):
		return false
	}
}

// Trim implements sink.Sink. All rows of a run are too young to be removed.
func (k *keeper) Trim(context.Context, time.Time) (int64, error) { return 0, nil }

// Close implements sink.Sink.
func (k *keeper) Close() error { return nil }

// sinks holds the sink processes: one for each topic, and zombies.
type sinks struct {
	w      *world
	stores []*store

	mu   sync.Mutex // guards the fields below
	live []*sinking // by store; nil: none at the moment
	two  []bool     // by store: it had two processes at once
	all  []*sinking
	over bool
}

// A sinking is a sink process.
type sinking struct {
	store  int
	number int
	host   *host
	keeper *keeper
	cancel func()
	ended  chan struct{}

	// Guarded by sinks.mu.
	reading bool // it has written
	retired bool // another process replaced it
	sigterm time.Time
	killed  bool
}

func newSinks(w *world) *sinks {
	s := &sinks{w: w, stores: []*store{{topic: kafka.Connections}, {topic: kafka.Flows}}}
	s.live, s.two = make([]*sinking, len(s.stores)), make([]bool, len(s.stores))
	for i := range s.stores {
		s.start(i)
	}
	return s
}

// start runs a process that writes into a store. A process that already runs becomes a zombie.
func (s *sinks) start(store int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	w := s.w
	ctx, cancel := context.WithCancel(context.Background())
	n := len(s.all)
	p := &sinking{store: store, number: n, host: &host{network: &w.network}, cancel: cancel, ended: make(chan struct{})}
	p.keeper = &keeper{store: s.stores[store], rng: rand.New(rand.NewPCG(w.plan.Seed, streamSinks+uint64(n))), dead: make(chan struct{})}
	if old := s.live[store]; old != nil {
		old.retired, s.two[store] = true, true
	}
	s.live[store], s.all = p, append(s.all, p)
	conf := w.config(fmt.Sprint("s", n), p.host)
	topic := s.stores[store].topic
	log := func(err error) { w.trace.printf("sink %d of %s: %v", n, topic, err) }
	feed := sink.Feed{
		Sink: p.keeper, Options: sink.Options{Path: "store", Rows: string(topic), Topic: topicPrefix + string(topic)}, Kafka: conf.Kafka,
		Began: func() {}, Notice: log, Failed: log,
		Progress: func(sink.Kept) {
			s.mu.Lock()
			p.reading = true
			s.mu.Unlock()
		},
	}
	w.trace.printf("sink %d of %s starts", n, topic)
	go func() {
		defer close(p.ended)
		kept, err := feed.Run(ctx)
		w.trace.printf("sink %d of %s ended: %+v, %v", n, topic, kept, err)
		s.ended(p, err)
	}()
}

// streamSinks is the number of the first random stream of the sinks.
const streamSinks = 1000

// ended checks the end of a process and restarts it as its supervisor does. A Kafka that does not answer at
// the start is an error. Of two processes that write, one must detect the other.
func (s *sinks) ended(p *sinking, err error) {
	s.mu.Lock()
	reading, retired, sigterm, killed, two := p.reading, p.retired, p.sigterm, p.killed, s.two[p.store]
	if s.live[p.store] == p {
		s.live[p.store] = nil
	}
	s.mu.Unlock()
	switch {
	case killed:
		return
	case err == nil && sigterm.IsZero():
		s.w.find(findFatal, "sink %d of %s ended by itself", p.number, s.stores[p.store].topic)
	case !sigterm.IsZero() && time.Since(sigterm) > shutdownWithin:
		s.w.find(findShutdown, "sink %d of %s took %v to end", p.number, s.stores[p.store].topic, time.Since(sigterm))
	case err != nil && reading && (!two || !errors.Is(err, errOtherWriter)):
		s.w.find(findFatal, "sink %d of %s: %v", p.number, s.stores[p.store].topic, err)
	}
	if sigterm.IsZero() && !retired {
		s.w.after(time.Second, func() { s.revive(p.store) })
	}
}

// revive starts a process for each store without one.
func (s *sinks) revive(store int) {
	s.mu.Lock()
	runs := s.live[store] != nil
	s.mu.Unlock()
	if !runs {
		s.start(store)
	}
}

// pick returns the process of a store, or nil if none runs.
func (s *sinks) pick(n int) *sinking {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[n%len(s.live)]
}

// take picks a process and excludes it from later steps.
func (s *sinks) take(n int) *sinking {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.live[n%len(s.live)]
	s.live[n%len(s.live)] = nil
	return p
}

// terminate sends SIGTERM.
func (s *sinks) terminate(p *sinking) {
	s.mu.Lock()
	if p.sigterm.IsZero() {
		p.sigterm = time.Now()
	}
	s.mu.Unlock()
	p.cancel()
}

// kill sends SIGKILL.
func (s *sinks) kill(p *sinking) {
	s.mu.Lock()
	p.killed = true
	s.mu.Unlock()
	close(p.keeper.dead)
	p.host.cut()
	p.cancel()
}

// mend restores the network of a process, unless it was killed.
func (s *sinks) mend(p *sinking) {
	s.mu.Lock()
	killed := p.killed
	s.mu.Unlock()
	if !killed {
		p.host.mend()
	}
}

// settle waits until the stores have all messages of the topics, to which no more are added, stops all
// processes, and compares.
func (s *sinks) settle(t *testing.T) {
	s.mu.Lock()
	all := slices.Clone(s.all)
	s.mu.Unlock()
	for _, p := range all {
		s.mend(p)
	}
	for i, st := range s.stores {
		s.revive(i)
		var want []row
		records := s.w.read(t, st.topic)
		for _, n := range sortedKeys(records) {
			for _, r := range records[n] {
				want = append(want, row{r.Partition, r.Offset, r.Value})
			}
		}
		for began := time.Now(); len(st.sorted()) < len(want); time.Sleep(time.Second) {
			if time.Since(began) > settleWithin {
				s.w.find(findStuck, "after %v without faults the sink of %s has %d of %d messages", settleWithin, st.topic, len(st.sorted()), len(want))
				break
			}
		}
		s.compare(st, want)
	}
	s.mu.Lock()
	s.over, all = true, slices.Clone(s.all)
	s.mu.Unlock()
	for _, p := range all {
		s.terminate(p)
		select {
		case <-p.ended:
		case <-time.After(10 * time.Minute):
			s.w.find(findShutdown, "sink %d does not end", p.number)
			p.host.cut()
		}
	}
}

// sorted returns the rows by partition and offset. Two rows of the same offset remain two.
func (st *store) sorted() []row {
	st.mu.Lock()
	defer st.mu.Unlock()
	all := slices.Clone(st.rows)
	slices.SortStableFunc(all, row.compare)
	return all
}

func (r row) compare(o row) int {
	if r.partition != o.partition {
		return int(r.partition - o.partition)
	}
	return int(r.offset - o.offset)
}

// compare compares the rows of a store with the committed messages of its topic, both sorted.
func (s *sinks) compare(st *store, want []row) {
	got := st.sorted()
	s.w.trace.printf("the sink of %s has %d messages, the topic %d", st.topic, len(got), len(want))
	for i, j := 0, 0; i < len(want) || j < len(got); {
		switch {
		case j == len(got) || i < len(want) && want[i].compare(got[j]) < 0:
			s.w.find(findLost, "offset %d of partition %d of %s is not in the sink", want[i].offset, want[i].partition, st.topic)
			return
		case i > 0 && want[i-1].compare(got[j]) == 0:
			s.w.find(findTwice, "offset %d of partition %d of %s is in the sink twice", got[j].offset, got[j].partition, st.topic)
			return
		case i == len(want) || want[i].compare(got[j]) > 0:
			s.w.find(findValue, "offset %d of partition %d of %s is in the sink, and not committed", got[j].offset, got[j].partition, st.topic)
			return
		case !bytes.Equal(want[i].message, got[j].message):
			s.w.find(findValue, "offset %d of partition %d of %s differs in the sink", got[j].offset, got[j].partition, st.topic)
			return
		}
		i, j = i+1, j+1
	}
}

// restartSink stops a sink process and starts another on its store.
type restartSink struct {
	Sink  int
	Kill  bool
	After time.Duration
}

func drawRestartSink(rng *rand.Rand) action {
	return restartSink{rng.IntN(64), rng.IntN(3) > 0, duration(rng, 10*time.Second)}
}

func (a restartSink) String() string {
	return fmt.Sprintf("sink %d ends, by SIGKILL: %v; another one starts after %v", a.Sink, a.Kill, a.After)
}

func (a restartSink) run(w *world, _ *rand.Rand) {
	s := w.sinks
	if p := s.take(a.Sink); p != nil {
		if a.Kill {
			s.kill(p)
		} else {
			s.terminate(p)
		}
		w.after(a.After, func() { s.revive(p.store) })
	}
}

// zombieSink cuts a sink process off and starts another on its store. The first comes back.
type zombieSink struct {
	Sink      int
	Away      time.Duration
	Blackhole bool
}

func drawZombieSink(rng *rand.Rand) action {
	return zombieSink{rng.IntN(64), duration(rng, 20*time.Second), rng.IntN(2) == 0}
}

func (a zombieSink) String() string {
	return fmt.Sprintf("sink %d is cut off (held: %v) and another one starts on its store; the first is back after %v", a.Sink, a.Blackhole, a.Away)
}

func (a zombieSink) run(w *world, _ *rand.Rand) {
	s := w.sinks
	p := s.pick(a.Sink)
	if p == nil {
		return
	}
	isolate(p.host, a.Blackhole)
	s.start(p.store)
	w.after(a.Away, func() { s.mend(p) })
}

// sinkNetwork disturbs the network of a sink process.
type sinkNetwork struct {
	Sink int
	What networkFault
	For  time.Duration
}

func drawSinkNetwork(rng *rand.Rand) action {
	return sinkNetwork{rng.IntN(64), networkFault(rng.IntN(int(networkFaults))), duration(rng, 15*time.Second)}
}

func (a sinkNetwork) String() string {
	return fmt.Sprintf("network of sink %d: %v for %v", a.Sink, a.What, a.For)
}

func (a sinkNetwork) run(w *world, _ *rand.Rand) {
	s := w.sinks
	if p := s.pick(a.Sink); p != nil {
		a.What.begin(w, p.host, a.For)
		w.after(a.For, func() { s.mend(p) })
	}
}
