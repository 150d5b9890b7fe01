package ingest

import (
	"fmt"
	"log/slog"
	"math"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/loss"
)

// Memory that a part takes per unit of its setting, as measured: docs/receiving.md.
const (
	perBufferedOctet = 6 // of a flow that waits for Kafka: its datagram's buffer, the client's records
	perParkedOctet   = 2 // of a set: what describes it
	perConnection    = 160 << 10
	perDefinition    = 2 << 10

	// always is the program, its clients, metrics, socket buffers, the exporters seen
	// and the accounting.
	always = 128 << 20
)

// A part is a part of the process whose memory a setting bounds.
type part struct {
	name     string // label value
	variable string
	setting  *int
	chosen   bool // the operator set it
	per      int  // octets of memory per unit of the setting

	// What the setting is where it is not chosen: full where there is room, at least
	// enough where other parts can be smaller instead, never below least.
	full, enough, least int
}

// octets is the memory that the part may take, octets.
func (p *part) octets() int { return product(p.per, *p.setting) }

// product and total saturate.
func product(a, b int) int {
	if a > 0 && b > math.MaxInt/a {
		return math.MaxInt
	}
	return a * b
}

func total(a, b int) int {
	if a > math.MaxInt-b {
		return math.MaxInt
	}
	return a + b
}

// parts are the parts whose memory settings bound.
func (c *Config) parts() []part {
	all := []part{
		{name: "flows", variable: "PRODUCE_MAX_OCTETS", setting: &c.MaxOctets, per: perBufferedOctet, full: 64 << 20, enough: 64 << 20, least: 512 << 10},
		{name: "parked_sets", variable: "PARK_MAX_OCTETS", setting: &c.ParkMax, per: perParkedOctet, full: 64 << 20, enough: 64 << 20, least: 512 << 10},
		{name: "undecoded_sets", variable: "UNDECODED_BURST", setting: &c.Undecoded.Burst, per: perParkedOctet, full: 64 << 20, enough: 64 << 20, least: 512 << 10},
		{name: "templates", variable: "TEMPLATES_MAX_OCTETS", setting: &c.Templates.Octets, per: 1, full: 640 << 20, enough: 160 << 20, least: 8 << 20},
	}
	if len(c.Streams.TCP)+len(c.Streams.TLS) > 0 {
		all = append(all,
			part{name: "connections", variable: "TCP_MAX_CONNECTIONS", setting: &c.Streams.Max, per: perConnection, full: 1024, enough: 256, least: 16},
			part{name: "connection_templates", variable: "TCP_MAX_OCTETS", setting: &c.Streams.Octets, per: 1, full: 64 << 20, enough: 16 << 20, least: 2 << 20})
	}
	if c.isChosen("TEMPLATES_MAX", c.Templates.Max) { // more octets than so many take are of no use
		t := &all[3]
		t.full = max(t.least, min(t.full, product(perDefinition, c.Templates.Max)))
		t.enough = min(t.full, t.enough)
	}
	for i := range all {
		p := &all[i]
		// UNDECODED_BURST=0 allows nothing at once.
		p.chosen = c.isChosen(p.variable, *p.setting) || p.setting == &c.Undecoded.Burst && (c.Chosen == nil || c.Chosen[p.variable])
	}
	return all
}

// isChosen reports whether a variable is set to something else than 0, which means
// the default. Of a Config that was not read from the environment every value is.
func (c *Config) isChosen(variable string, value int) bool {
	return value != 0 && (c.Chosen == nil || c.Chosen[variable])
}

// leastMemory is what MEMORY_MAX has to be at least: what the chosen settings allow,
// and what is always needed.
func leastMemory(parts []part) int {
	sum := always
	for i := range parts {
		if parts[i].chosen {
			sum = total(sum, parts[i].octets())
		}
	}
	return sum
}

// heapShare is the part of MEMORY_MAX that the Go heap may take, in percent: the
// rest is for what the runtime does not count, and for what is allocated while it
// collects garbage.
const heapShare = 75

// fit sets the settings of memory that are not chosen: to their defaults, or to
// less so that all parts fit into MEMORY_MAX.
func (c *Config) fit() {
	parts := c.parts()
	room := math.MaxInt
	if c.MemoryMax > 0 {
		room = c.MemoryMax/100*heapShare - leastMemory(parts)
	}
	sum := func(of func(*part) int) (n int) {
		for i := range parts {
			if p := &parts[i]; !p.chosen {
				n += p.per * of(p)
			}
		}
		return n
	}
	full, enough, least := sum(func(p *part) int { return p.full }), sum(func(p *part) int { return p.enough }), sum(func(p *part) int { return p.least })
	for i := range parts {
		switch p := &parts[i]; {
		case p.chosen:
		case room >= full:
			*p.setting = p.full
		case room >= enough:
			*p.setting = between(p.enough, p.full, room-enough, full-enough)
		default:
			*p.setting = between(p.least, p.enough, max(0, room-least), enough-least)
		}
	}
}

// between returns the value that lies part/whole of the way from low to high.
func between(low, high, part, whole int) int {
	if part >= whole {
		return high
	}
	return low + int(float64(high-low)*float64(part)/float64(whole))
}

// memory is what the process may take, octets: MEMORY_MAX, or what the parts come to.
func (c *Config) memory() int {
	if c.MemoryMax > 0 {
		return c.MemoryMax
	}
	return c.allowed()
}

// allowed is what the parts may take, octets.
func (c *Config) allowed() int {
	fitted := *c
	fitted.fit()
	sum := always
	for _, p := range fitted.parts() {
		sum = total(sum, p.octets())
	}
	return sum
}

// heapMax is the limit of the Go heap, octets. Below what the parts may take it would
// make the garbage collector run without end once they are full, so settings that are
// set to more than the heap's share raise it.
func (c *Config) heapMax() int {
	if c.MemoryMax > 0 {
		return min(c.MemoryMax, max(c.MemoryMax/100*heapShare, c.allowed()))
	}
	return c.memory()
}

// logMemory says how MEMORY_MAX is divided. c is fitted.
func (c *Config) logMemory(log *slog.Logger) {
	if c.MemoryMax == 0 {
		return
	}
	parts := c.parts()
	var made []any
	for i := range parts {
		if p := &parts[i]; !p.chosen && *p.setting < p.full {
			made = append(made, p.variable, *p.setting)
		}
	}
	if len(made) > 0 {
		log.Info("settings that are not set are made to fit into MEMORY_MAX", append(made, "MEMORY_MAX", c.MemoryMax)...)
	}
	if heap := c.MemoryMax / 100 * heapShare; leastMemory(parts) > heap {
		log.Warn("the settings that are set leave less than a quarter of MEMORY_MAX to the runtime: the process may exceed it; lower them or raise MEMORY_MAX",
			"set", leastMemory(parts), "heap", heap, "MEMORY_MAX", c.MemoryMax)
	}
}

// validateMemory refuses chosen settings that do not fit into MEMORY_MAX.
func (c *Config) validateMemory() error {
	if c.MemoryMax < 0 {
		return fmt.Errorf("MEMORY_MAX=%d: want 0 (what the parts come to) or more octets", c.MemoryMax)
	}
	parts := c.parts()
	least := leastMemory(parts)
	if c.MemoryMax == 0 || least <= c.MemoryMax {
		return nil
	}
	var chosen []string
	for i := range parts {
		if p := &parts[i]; p.chosen {
			chosen = append(chosen, fmt.Sprintf("%s %d MiB", p.variable, p.octets()>>20))
		}
	}
	chosen = append(chosen, fmt.Sprintf("everything else %d MiB", always>>20))
	return fmt.Errorf("MEMORY_MAX=%d (%d MiB): the settings that are set may need %d MiB: lower them, leave them unset so that they are made to fit, or raise it (%s)",
		c.MemoryMax, c.MemoryMax>>20, least>>20, strings.Join(chosen, ", "))
}

// accounted returns the octets that the parts take now, by name.
func (r *Replica) accounted() map[string]int64 {
	_, buffered := r.buffer.held()
	m := map[string]int64{
		"parked_sets":          perParkedOctet * int64(buffered),
		"templates":            r.store.Stats().Octets,
		"connections":          perConnection * int64(r.streams.Open()),
		"connection_templates": r.sessions.octets.Load(),
		"accounting":           r.accounts.book.Octets() + r.accounts.cluster.Octets(),
	}
	if run := r.run.Load(); run != nil {
		_, octets := run.producer.Buffered()
		m["flows"] = perBufferedOctet * octets
		_, octets = run.undecoded.producer.Buffered()
		m["undecoded_sets"] = perParkedOctet * octets
	}
	return m
}

// memoryMetrics shows what the parts of the process take and may take.
type memoryMetrics struct {
	r         *Replica
	used, max *prometheus.Desc
}

func newMemoryMetrics(r *Replica) *memoryMetrics {
	return &memoryMetrics{
		r:    r,
		used: prometheus.NewDesc("weir_ingest_memory_octets", "memory that the parts of the process are reckoned to take, see MEMORY_MAX", []string{"area"}, nil),
		max:  prometheus.NewDesc("weir_ingest_memory_max_octets", "memory that the parts of the process may take", []string{"area"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *memoryMetrics) Describe(c chan<- *prometheus.Desc) { c <- m.used; c <- m.max }

// Collect implements prometheus.Collector.
func (m *memoryMetrics) Collect(c chan<- prometheus.Metric) {
	used := m.r.accounted()
	for _, p := range m.r.c.parts() {
		c <- prometheus.MustNewConstMetric(m.used, prometheus.GaugeValue, float64(used[p.name]), p.name)
		c <- prometheus.MustNewConstMetric(m.max, prometheus.GaugeValue, float64(p.octets()), p.name)
	}
	c <- prometheus.MustNewConstMetric(m.used, prometheus.GaugeValue, float64(used["accounting"]), "accounting")
	c <- prometheus.MustNewConstMetric(m.max, prometheus.GaugeValue, loss.MaxOctets, "accounting")
}
