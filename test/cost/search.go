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

// A metric is a kind of cost with a bound. The permitted cost of a sequence depends on its octets
// and on its changes: new or changed definitions and options facts, for which an exporter and all
// exporters have a budget (internal/templates/budget.go).
type metric struct {
	name  string
	unit  string
	kept  bool                // it takes a measurement of the heap
	of    func(*cost) float64 // the cost of the sequence
	may   func(*cost) float64 // the permitted cost
	where func(*cost) string  // the function responsible, from an explained cost
}

// score returns the cost in relation to the bound; above 1 the bound is broken.
func (m *metric) score(c *cost) float64 { return m.of(c) / m.may(c) }

// Bounds of the cost of sequences.
const (
	timesHonest        = 20   // statements, for each statement of honest datagrams of the same sizes
	workPerChange      = 2500 // statements, on the replica that receives and on a replica that reads the topic
	allocatedPerOctet  = 300  // octets
	allocatedPerChange = 5000
	kafkaPerOctet      = 12
	kafkaPerChange     = 150
	kafkaPerReport     = 400 // of accounting: one report for each stream and minute with datagrams
	keptPerOctet       = 16
	keptPerAccounted   = 2
	fixed              = 32 << 10 // octets, independent of the input
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

// A place identifies the group of inputs among which an elite is the most expensive: by a metric,
// the inputs of the same kind with the same hottest function; or, if metric is empty, by the
// statements of that function per octet.
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

// A finding is the most expensive input that breaks the bound of a metric, among the inputs for
// which the same function is responsible.
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
	hangs    func(*genome) // called in a goroutine of its own if an input takes longer than endless
	begun    time.Time
	mutants  int
	elites   map[place]elite
	parents  []family           // of all elites, by kind; made anew every parentsEvery mutants
	recent   []*genome          // the genomes found last
	findings map[place]*finding // by metric and responsible function
	seen     map[place]float64  // greatest explained score, by metric and hottest function
	worst    map[string]float64 // by metric, within the bound
}

func newSearch(m *meter, seed uint64, out io.Writer) *search {
	return &search{
		meter: m, random: rand.New(rand.NewPCG(seed, 0)), out: out, begun: time.Now(),
		elites: map[place]elite{}, findings: map[place]*finding{}, seen: map[place]float64{}, worst: map[string]float64{},
	}
}

// endless is the time after which an input of a few kilobytes counts as endless.
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

// try measures g and stores it in every place where it is the most expensive.
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

// measure also measures the heap if it may show a new record: octets in use were allocated before.
// A record is measured twice, the second time with a fresh base.
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

// found records a finding. It runs the input again to determine the responsible function.
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

// describe returns a line of text about the value of a metric for a cost.
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

// A family holds the elites of a kind.
type family struct {
	all, best []*genome // best: of metrics, and of the functions with the most statements per octet
}

const (
	// functionsOfFamily is the number of functions of a family among its best.
	functionsOfFamily = 16
	// parentsEvery is the number of mutants after which new elites become parents, beside the
	// genomes found last.
	parentsEvery = 32
)

// pick returns a parent: a genome found last, or an elite. Each kind has the same chance,
// independent of its number of elites, so that kinds that are still cheap are tried as often.
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

// sorted returns the findings in the order of their discovery.
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
