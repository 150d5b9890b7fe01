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
	perBufferedOctet = 6 // per octet of a flow that waits for Kafka: the datagram's buffer and the client's record
	perSetOctet      = 2 // per octet of a buffered set: the octet and the set's description
	perConnection    = 160 << 10
	perDefinition    = 2 << 10

	// always is the memory that no setting bounds: program, Kafka clients, metrics, socket buffers,
	// exporters and accounts.
	always = 128 << 20
)

// A part is a part of the process whose memory a setting bounds.
//
// Of heapShare percent of MEMORY_MAX, fit reserves always and the parts that are set. It gives each other
// part its enough, and shares the rest up to full. If there is less, these parts shrink together towards
// least.
type part struct {
	name     string // label value
	variable string
	setting  *int
	chosen   bool // the operator set it
	per      int  // octets of memory per unit of the setting

	// Values of the setting if it is not chosen: full if memory suffices; at least enough as long as other
	// parts can be smaller instead; never less than least.
	full, enough, least int
}

// octets returns the memory that the part may take. Example: PRODUCE_MAX_OCTETS of 64 MiB gives 384 MiB,
// since each octet of a flow takes perBufferedOctet octets of memory.
func (p *part) octets() int { return product(p.per, *p.setting) }

// product and total return math.MaxInt on overflow.
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

// parts returns the parts of the process whose memory a setting bounds. Their setting points into c. The
// slice is made anew for each call.
func (c *Config) parts() []part {
	all := []part{
		{
			name: "flows", variable: "PRODUCE_MAX_OCTETS", setting: &c.MaxOctets,
			per: perBufferedOctet, full: 64 << 20, enough: 64 << 20, least: 512 << 10,
		},
		{
			name: "parked_sets", variable: "PARK_MAX_OCTETS", setting: &c.ParkMax,
			per: perSetOctet, full: 64 << 20, enough: 64 << 20, least: 512 << 10,
		},
		{
			name: "undecoded_sets", variable: "UNDECODED_BURST", setting: &c.Undecoded.Burst,
			per: perSetOctet, full: 64 << 20, enough: 64 << 20, least: 512 << 10,
		},
		{
			name: "templates", variable: "TEMPLATES_MAX_OCTETS", setting: &c.Templates.Octets,
			per: 1, full: 640 << 20, enough: 160 << 20, least: 8 << 20,
		},
	}
	if len(c.Streams.TCP)+len(c.Streams.TLS) > 0 {
		all = append(all,
			part{
				name: "connections", variable: "TCP_MAX_CONNECTIONS", setting: &c.Streams.Max,
				per: perConnection, full: 1024, enough: 256, least: 16,
			},
			part{
				name: "connection_templates", variable: "TCP_MAX_OCTETS", setting: &c.Streams.Octets,
				per: 1, full: 64 << 20, enough: 16 << 20, least: 2 << 20,
			})
	}
	if c.isChosen("TEMPLATES_MAX", c.Templates.Max) { // that many definitions cannot use more octets
		// all[3] is the part templates, whatever the transport.
		t := &all[3]
		t.full = max(t.least, min(t.full, product(perDefinition, c.Templates.Max)))
		t.enough = min(t.full, t.enough)
	}
	for i := range all {
		p := &all[i]
		// UNDECODED_BURST=0 allows nothing at once.
		p.chosen = c.isChosen(p.variable, *p.setting) ||
			p.setting == &c.Undecoded.Burst && (c.Chosen == nil || c.Chosen[p.variable])
	}
	return all
}

// isChosen reports whether the operator set a variable to a value other than 0, which means the default. In
// a Config that was not read from the environment, every value counts as chosen. A program that fills a
// Config itself, such as weir up, thereby keeps its values.
func (c *Config) isChosen(variable string, value int) bool {
	return value != 0 && (c.Chosen == nil || c.Chosen[variable])
}

// leastMemory returns the least valid MEMORY_MAX, octets: the memory of the chosen settings, and always.
// Validate compares it with MEMORY_MAX, so that a service with contradictory settings does not start.
func leastMemory(parts []part) int {
	sum := always
	for i := range parts {
		if parts[i].chosen {
			sum = total(sum, parts[i].octets())
		}
	}
	return sum
}

// heapShare is the part of MEMORY_MAX that the Go heap may take, in percent. The rest is for memory that
// the runtime does not count, and for allocations during a garbage collection.
const heapShare = 75

// fit sets the memory settings that are not chosen to their defaults, or to smaller values with which all
// parts fit into MEMORY_MAX. New calls it before it uses the settings.
func (c *Config) fit() {
	parts := c.parts()
	room := math.MaxInt
	if c.MemoryMax > 0 {
		// Divide first: the product of octets and percent could overflow.
		room = c.MemoryMax/100*heapShare - leastMemory(parts)
	}
	// sum returns the memory of the parts that fit may set, with the given values.
	sum := func(of func(*part) int) (n int) {
		for i := range parts {
			if p := &parts[i]; !p.chosen {
				n += p.per * of(p)
			}
		}
		return n
	}
	full := sum(func(p *part) int { return p.full })
	enough := sum(func(p *part) int { return p.enough })
	least := sum(func(p *part) int { return p.least })
	for i := range parts {
		switch p := &parts[i]; {
		case p.chosen:
		case room >= full:
			*p.setting = p.full
		case room >= enough:
			*p.setting = interpolate(p.enough, p.full, room-enough, full-enough)
		default:
			*p.setting = interpolate(p.least, p.enough, max(0, room-least), enough-least)
		}
	}
}

// interpolate returns the value at part/whole of the distance from low to high. It uses float64, which
// cannot overflow: products of octets can exceed an int64.
func interpolate(low, high, part, whole int) int {
	if part >= whole {
		return high
	}
	return low + int(float64(high-low)*float64(part)/float64(whole))
}

// memory returns the memory that the process may take, octets: MEMORY_MAX, or the sum of all parts.
func (c *Config) memory() int {
	if c.MemoryMax > 0 {
		return c.MemoryMax
	}
	return c.allowed()
}

// allowed returns the memory that the settings allow all parts together, octets.
func (c *Config) allowed() int {
	fitted := *c
	fitted.fit()
	sum := always
	for _, p := range fitted.parts() {
		sum = total(sum, p.octets())
	}
	return sum
}

// heapMax returns the limit of the Go heap, octets. It must not be below the memory that the parts may
// take: the garbage collector would run continuously once they are full. Chosen settings beyond the heap's
// share therefore raise it.
func (c *Config) heapMax() int {
	if c.MemoryMax > 0 {
		return min(c.MemoryMax, max(c.MemoryMax/100*heapShare, c.allowed()))
	}
	return c.memory()
}

// logMemory logs the settings that were made to fit into MEMORY_MAX. c must have been fitted.
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
		log.Info("unset settings are reduced to fit into MEMORY_MAX", append(made, "MEMORY_MAX", c.MemoryMax)...)
	}
	// Such settings are accepted, since they were valid in earlier versions; heapMax gives them their memory.
	if heap := c.MemoryMax / 100 * heapShare; leastMemory(parts) > heap {
		log.Warn("the settings that are set leave less than a quarter of MEMORY_MAX to the runtime: the process may "+
			"exceed it; lower them or raise MEMORY_MAX",
			"set", leastMemory(parts), "heap", heap, "MEMORY_MAX", c.MemoryMax)
	}
}

// validateMemory returns an error if the settings that the operator chose do not fit into MEMORY_MAX. Unset settings do
// not count: fit can always reduce them.
func (c *Config) validateMemory() error {
	if c.MemoryMax < 0 {
		return fmt.Errorf("MEMORY_MAX=%d: want 0 (the sum of all parts) or a number of octets", c.MemoryMax)
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
	return fmt.Errorf("MEMORY_MAX=%d (%d MiB): the settings that are set may need %d MiB: "+
		"lower them, leave them unset so that they are made to fit, or raise it (%s)",
		c.MemoryMax, c.MemoryMax>>20, least>>20, strings.Join(chosen, ", "))
}

// accounted returns the octets that the parts take at present, by name. The figures are estimates by the
// same factors as the limits, so that both can be compared. It may be called from any goroutine.
// The names must be those of parts, except accounting: Collect looks them up.
func (r *Replica) accounted() map[string]int64 {
	_, buffered := r.buffer.held()
	m := map[string]int64{
		"parked_sets":          perSetOctet * int64(buffered),
		"templates":            r.store.Stats().Octets,
		"connections":          perConnection * int64(r.streams.Open()),
		"connection_templates": r.sessions.octets.Load(),
		"accounting":           r.accounts.book.Octets() + r.accounts.cluster.Octets(),
	}
	if run := r.run.Load(); run != nil {
		_, octets := run.producer.Buffered()
		m["flows"] = perBufferedOctet * octets
		_, octets = run.undecoded.producer.Buffered()
		m["undecoded_sets"] = perSetOctet * octets
	}
	return m
}

// memoryMetrics exports the memory of the parts of the process, and its bounds.
type memoryMetrics struct {
	r         *Replica
	used, max *prometheus.Desc
}

// newMemoryMetrics returns a collector of the memory of the parts and of its limits.
func newMemoryMetrics(r *Replica) *memoryMetrics {
	return &memoryMetrics{
		r: r,
		used: prometheus.NewDesc("weir_ingest_memory_octets",
			"estimated memory of the parts of the process, see MEMORY_MAX", []string{"area"}, nil),
		max: prometheus.NewDesc("weir_ingest_memory_max_octets",
			"memory limits of the parts of the process", []string{"area"}, nil),
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
