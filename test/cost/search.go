package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// A metric is a kind of cost that has a bound. What a sequence may cost depends on its
// octets and on its changes: definitions and facts that it teaches, of which an exporter
// and all exporters have a budget (internal/templates/budget.go).
type metric struct {
	name  string
	unit  string
	kept  bool                // it takes a measurement of the heap
	of    func(*cost) float64 // what the sequence cost
	may   func(*cost) float64 // what it may cost
	where func(*cost) string  // what to blame, from a cost that is explained
}

// score is above 1 when the bound is broken.
func (m *metric) score(c *cost) float64 { return m.of(c) / m.may(c) }

// What sequences may cost.
const (
	timesHonest        = 20   // statements, for each statement of honest datagrams of the same sizes
	workPerChange      = 2500 // statements, on the replica that receives and on one that reads the topic
	allocatedPerOctet  = 300  // octets
	allocatedPerChange = 5000
	kafkaPerOctet      = 12
	kafkaPerChange     = 150
	kafkaPerReport     = 400 // of accounting: one of each stream a minute of its datagrams
	keptPerOctet       = 16
	keptPerAccounted   = 2
	fixed              = 32 << 10 // octets, whatever comes
)

var metrics = []metric{
	{
		name: "work", unit: "statements",
		of:    func(c *cost) float64 { return float64(c.work.total) },
		may:   func(c *cost) float64 { return timesHonest*c.honest + workPerChange*float64(c.changes) },
		where: func(c *cost) string { return c.work.hottest() },
	},
	{
		name: "allocated", unit: "octets",
		of: func(c *cost) float64 { return float64(c.allocated) },
		may: func(c *cost) float64 {
			return fixed + allocatedPerOctet*float64(c.octets) + allocatedPerChange*float64(c.changes)
		},
		where: func(c *cost) string { return largest(c.allocators) },
	},
	{
		name: "kafka", unit: "octets to Kafka",
		of: func(c *cost) float64 { return float64(c.kafka()) },
		may: func(c *cost) float64 {
			return kafkaPerOctet*float64(c.octets) + kafkaPerChange*float64(c.changes) + kafkaPerReport*float64(c.due) + fixed/16
		},
		where: (*cost).topic,
	},
	{
		name: "kept", unit: "octets of heap", kept: true,
		of:    func(c *cost) float64 { return float64(c.kept) },
		may:   func(c *cost) float64 { return keptLimits + keptPerOctet*float64(c.octets) },
		where: func(c *cost) string { return largest(c.keepers) },
	},
	{
		name: "unaccounted", unit: "octets of heap", kept: true,
		of:    func(c *cost) float64 { return float64(c.kept) },
		may:   func(c *cost) float64 { return fixed + keptPerAccounted*float64(c.accounted) },
		where: func(c *cost) string { return largest(c.keepers) },
	},
}

// largest returns the key with the largest value.
func largest(of map[string]uint64) string {
	best := ""
	for _, k := range slices.Sorted(maps.Keys(of)) {
		if best == "" || of[k] > of[best] {
			best = k
		}
	}
	return best
}

// A place is what an elite is the best of: a metric, among the inputs of the same kind with
// the same hottest function; or, when metric is empty, the statements of that function per
// octet.
type place struct {
	metric, function string
	kind             kind
}

// An elite is the most expensive input of its place.
type elite struct {
	genome *genome
	kind   kind // of genome
	score  float64
}

// A finding is the most expensive input that breaks the bound of a metric, among those
// that have the same to blame for it.
type finding struct {
	metric  *metric
	where   string
	genome  *genome
	cost    cost
	score   float64
	mutants int           // until the first such input
	after   time.Duration // until the first such input
}

// A search keeps the most expensive inputs for each metric and each function of the code
// under test, and mutates them. Inputs that break a bound are kept aside as findings and
// are not mutated, so that one fault does not hide the others.
type search struct {
	meter    *meter
	random   *rand.Rand
	out      io.Writer
	hangs    func(*genome) // called in its own goroutine when an input takes longer than endless
	begun    time.Time
	mutants  int
	elites   map[place]elite
	parents  []family           // of all elites, by kind; made anew every parentsEvery mutants
	recent   []*genome          // of those that were found last
	findings map[place]*finding // by metric and what is to blame
	seen     map[place]float64  // greatest score that was explained, by metric and hottest function
	worst    map[string]float64 // by metric, within the bound
}

func newSearch(m *meter, seed uint64, out io.Writer) *search {
	return &search{
		meter: m, random: rand.New(rand.NewPCG(seed, 0)), out: out, begun: time.Now(),
		elites: map[place]elite{}, findings: map[place]*finding{}, seen: map[place]float64{}, worst: map[string]float64{},
	}
}

// endless is after how long an input of a few kilobytes counts as one that never ends.
const endless = 2 * time.Minute

// run tries the seeds and then mutants until done returns true.
func (s *search) run(done func(*search) bool) error {
	for _, g := range seeds() {
		if err := s.try(g); err != nil {
			return err
		}
	}
	shown := s.begun
	for !done(s) {
		s.mutants++
		if err := s.try(mutate(s.random, s.pick(), s.pick())); err != nil {
			return err
		}
		if s.mutants%64 == 0 {
			s.meter.rebase()
		}
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			s.progress()
		}
	}
	s.progress()
	return nil
}

func (s *search) progress() {
	_, _ = fmt.Fprintf(s.out, "%6d mutants, %3.0f s, %d elites; worst, of what it may cost:", s.mutants, time.Since(s.begun).Seconds(), len(s.elites))
	for i := range metrics {
		m := &metrics[i]
		_, _ = fmt.Fprintf(s.out, " %s %.2f", m.name, s.worst[m.name])
	}
	_, _ = fmt.Fprintf(s.out, "; findings: %d\n", len(s.findings))
}

// try measures g and keeps it wherever it is the most expensive.
func (s *search) try(g *genome) error {
	packets := g.render()
	if s.hangs != nil {
		defer time.AfterFunc(endless, func() { s.hangs(g) }).Stop()
	}
	c, err := s.measure(g, packets)
	if err != nil || c.octets == 0 {
		return err
	}
	hot, kind := c.work.hottest(), g.kind()
	within := true
	for i := range metrics {
		m := &metrics[i]
		if score := m.score(&c); score > 1 {
			within = false
			if err := s.found(m, hot, score, g, packets); err != nil {
				return err
			}
		}
	}
	if !within {
		return nil
	}
	for i := range metrics {
		m := &metrics[i]
		score := m.score(&c)
		s.worst[m.name] = max(s.worst[m.name], score)
		s.keep(place{m.name, hot, kind}, kind, g, score)
	}
	for f, n := range c.work.of {
		s.keep(place{function: f.name}, kind, g, float64(n)/float64(c.octets+256))
	}
	return nil
}

// measure measures the heap as well where that may show a new record: what is kept was
// allocated. A record is measured twice, the second time with a fresh base.
func (s *search) measure(g *genome, packets []packet) (c cost, err error) {
	if c, err = s.meter.measure(packets, false); err != nil {
		return c, err
	}
	most := c
	most.kept = c.allocated
	kind := g.kind()
	if !s.records(kind, &most) || s.random.IntN(3) > 0 {
		return c, nil
	}
	if c, err = s.meter.measure(packets, true); err != nil || !s.records(kind, &c) {
		return c, err
	}
	s.meter.rebase()
	return s.meter.measure(packets, true)
}

// records reports whether c keeps more heap than any input of its kind before it.
func (s *search) records(k kind, c *cost) bool {
	hot := c.work.hottest()
	return slices.ContainsFunc(metrics, func(m metric) bool {
		return m.kept && m.score(c) > max(s.elites[place{m.name, hot, k}].score, s.seen[place{metric: m.name, function: hot}])
	})
}

// found notes a finding. It runs the input again to learn what is to blame.
func (s *search) found(m *metric, hot string, score float64, g *genome, packets []packet) error {
	if score <= s.seen[place{metric: m.name, function: hot}] {
		return nil
	}
	s.seen[place{metric: m.name, function: hot}] = score
	c, err := s.meter.explain(packets)
	if err != nil || m.score(&c) <= 1 {
		return err
	}
	p := place{metric: m.name, function: m.where(&c)}
	f := s.findings[p]
	if f == nil {
		f = &finding{metric: m, where: p.function, mutants: s.mutants, after: time.Since(s.begun)}
		s.findings[p] = f
		_, _ = fmt.Fprintf(s.out, "%6d mutants, %3.0f s: %s\n", s.mutants, time.Since(s.begun).Seconds(), describe(m, &c))
	}
	if m.score(&c) > f.score {
		f.genome, f.cost, f.score = g, c, m.score(&c)
	}
	return nil
}

// describe says what a metric is of a cost, in a line.
func describe(m *metric, c *cost) string {
	return fmt.Sprintf("%s: %.0f %s, %.2f times what %d octets with %d changes may take; most of it: %s",
		m.name, m.of(c), m.unit, m.score(c), c.octets, c.changes, m.where(c))
}

func (s *search) keep(p place, k kind, g *genome, score float64) {
	if e, is := s.elites[p]; !is || score > e.score {
		s.elites[p] = elite{g, k, score}
		if n := len(s.recent); n == 0 || s.recent[n-1] != g {
			s.recent = append(s.recent[max(0, n-15):], g)
		}
	}
}

// A family is the elites of one kind.
type family struct {
	all, best []*genome // best: of metrics, and of the functions with the most statements per octet
}

const (
	// functionsOfFamily is how many functions a family has among its best.
	functionsOfFamily = 16
	// parentsEvery is after how many mutants new elites become parents, beside those found last.
	parentsEvery = 32
)

// pick returns a parent: one of those that were found last, or one of a kind. Each kind has
// the same chance, however many elites it has, so that kinds that cost little for now are
// tried as often.
func (s *search) pick() *genome {
	if s.parents == nil || s.mutants%parentsEvery == 0 {
		s.parents = s.families()
	}
	if s.random.IntN(4) == 0 {
		return s.recent[s.random.IntN(len(s.recent))]
	}
	f := s.parents[s.random.IntN(len(s.parents))]
	if len(f.best) > 0 && s.random.IntN(3) > 0 {
		return f.best[s.random.IntN(len(f.best))]
	}
	return f.all[s.random.IntN(len(f.all))]
}

// families returns all elites by kind.
func (s *search) families() (out []family) {
	places := slices.SortedFunc(maps.Keys(s.elites), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), cmp.Compare(s.elites[b].score, s.elites[a].score),
			cmp.Compare(a.function, b.function), a.kind.compare(b.kind))
	})
	at := map[kind]int{}
	functions := map[kind]int{}
	for _, p := range places { // functions come first: their metric is empty
		g, k := s.elites[p].genome, s.elites[p].kind
		i, is := at[k]
		if !is {
			i = len(out)
			at[k], out = i, append(out, family{})
		}
		out[i].all = append(out[i].all, g)
		if p.metric == "" {
			functions[k]++
		}
		if p.metric != "" || functions[k] <= functionsOfFamily {
			out[i].best = append(out[i].best, g)
		}
	}
	return out
}

// sorted returns the findings in the order in which they were made.
func (s *search) sorted() []*finding {
	return slices.SortedFunc(maps.Values(s.findings), func(a, b *finding) int {
		return cmp.Or(cmp.Compare(a.mutants, b.mutants), cmp.Compare(a.metric.name, b.metric.name), cmp.Compare(a.where, b.where))
	})
}

// shrink makes the input of f smaller as long as it breaks the bound.
func (s *search) shrink(f *finding) error {
	for range 300 {
		g := mutate(s.random, f.genome, f.genome)
		packets := g.render()
		n := 0
		for i := range packets {
			n += len(packets[i].octets)
		}
		if n == 0 || uint64(n) >= f.cost.octets {
			continue
		}
		c, err := s.meter.measure(packets, f.metric.kept)
		if err != nil {
			return err
		}
		if f.metric.score(&c) <= 1 {
			continue
		}
		if c, err = s.meter.explain(packets); err != nil {
			return err
		}
		if f.metric.score(&c) > 1 && f.metric.where(&c) == f.where {
			f.genome, f.cost, f.score = g, c, f.metric.score(&c)
		}
	}
	return nil
}
