package templates

import (
	"bytes"
	"cmp"
	"slices"
	"sync/atomic"

	"weir/internal/decode"
)

// A definition is one layout of a template id. What is not atomic is guarded by
// its shard's lock.
type definition struct {
	shard   *shard
	records [recordKinds]definitionRecord
	id      definitionID
	domain  *domain
	plan    *decode.Plan
	sources []source // newest first, at most maxSources

	lives      atomic.Pointer[[]life] // of its exporters when they sent this last, newest first; nil: not v9
	settled    atomic.Bool            // used in doubt
	received   atomic.Int64           // greatest receive time, ns; read without lock
	first      int64                  // least receive time, ns
	local      int64                  // receive time of this replica's last own reception, ns; 0: none
	static     bool                   // an operator's, not received
	removed    int64                  // removed by an operator at, ns; counts only if received later
	confirmed  bool                   // a replica decoded a data set with it
	place      place                  // in the order of eviction
	usage      usage                  // by this replica
	noted      atomic.Bool            // a use is noted and not taken yet
	pins       atomic.Pointer[[]*pin] // ports of data; at most maxPins
	octets     int64                  // accounted, without the plan
	planOctets int64
	compiled   bool // the plan was compiled for this definition
	say        bool // it is time to say so there
	sayAt      int64
	origin     origin
}

// A source is a port that a definition came from.
type source struct {
	port     uint16
	received int64 // ns
	local    int64 // own reception, ns; 0: none

	spared   bool               // older than others that went: data of the port was decoded
	onTopic  [recordKinds]int64 // as the topic's last record of the kind says, ns; 0: not there
	recorded [recordKinds]bool  // a record of the kind had it once
}

// An origin is the header of the datagram that brought something last.
type origin struct {
	export   int64 // ns since the epoch
	uptime   uint32
	sequence uint32
}

// activeAt implements evictable.
func (d *definition) activeAt() int64 { return d.usage.at() }

// home implements evictable.
func (d *definition) home() *shard { return d.shard }

// inForce reports whether d was received after its removal, if any.
func (d *definition) inForce() bool { return d.received.Load() > d.removed }

// newer orders definitions by time, then by hash and digest, so that all replicas
// agree. Replicas that know no digest agree too, unless the hashes collide.
func newer(at int64, a *definition, than int64, b *definition) bool {
	return cmp.Or(cmp.Compare(at, than), cmp.Compare(a.id.hash, b.id.hash), bytes.Compare(a.id.digest[:], b.id.digest[:])) > 0
}

// from returns d's source for port, adding it if needed. When there are too many
// the oldest goes of those without data, else the oldest; nil when that is the new
// one.
func (d *definition) from(port uint16, at int64) *source {
	i := slices.IndexFunc(d.sources, func(s source) bool { return s.port == port })
	if i < 0 {
		d.sources = append(d.sources, source{port: port})
		i = len(d.sources) - 1
	}
	if at > d.sources[i].received {
		d.sources[i].received, d.sources[i].spared = at, false
	}
	slices.SortFunc(d.sources, func(a, b source) int { // few, and nearly sorted
		return cmp.Or(cmp.Compare(b.received, a.received), cmp.Compare(a.port, b.port))
	})
	if n := len(d.sources); n > maxSources {
		goes := n - 1
		for goes > 0 && d.pinned(d.sources[goes].port) {
			goes--
		}
		if d.pinned(d.sources[goes].port) { // all are
			goes = n - 1
		}
		for i := goes + 1; i < n; i++ {
			d.sources[i].spared = true
		}
		d.sources = slices.Delete(d.sources, goes, goes+1)
	}
	if i = slices.IndexFunc(d.sources, func(s source) bool { return s.port == port }); i < 0 {
		return nil
	}
	return &d.sources[i]
}

// layouts are the definitions of one template id.
type layouts struct{ defs []*definition }

// byLayout returns the definition with t's layout, nil when there is none. It
// compares layouts, not hashes.
func (l *layouts) byLayout(t *decode.Template) *definition {
	for _, d := range l.defs {
		if d.plan.Template().SameLayout(t) {
			return d
		}
	}
	return nil
}

// newest returns the definition that was received last; nil when none was yet.
func (l *layouts) newest() *definition {
	var best *definition
	for _, d := range l.defs {
		if at := d.received.Load(); at > 0 && (best == nil || newer(at, d, best.received.Load(), best)) {
			best = d
		}
	}
	return best
}

// leastUsed returns the definition to evict for one from a port: those that this
// port alone sent go first, so that it does not displace what others use.
func (l *layouts) leastUsed(port uint16) *definition {
	own := slices.DeleteFunc(slices.Clone(l.defs), func(d *definition) bool { return !d.ofPortAlone(port) })
	if len(own) > 0 {
		return slices.MinFunc(own, evictBefore)
	}
	return slices.MinFunc(l.defs, evictBefore)
}

// ofPortAlone reports whether d came from a port, and neither templates nor data
// of d from another.
func (d *definition) ofPortAlone(port uint16) bool {
	if d.static || len(d.sources) != 1 || d.sources[0].port != port {
		return false
	}
	pins := d.pins.Load()
	return pins == nil || !slices.ContainsFunc(*pins, func(p *pin) bool { return p.port != port })
}

// evictBefore orders definitions of one exporter: an operator's last, unconfirmed
// ones first, then by the sets decoded, then by the last data set, and unconfirmed
// ones by their last reception.
func evictBefore(a, b *definition) int {
	if a.static != b.static {
		if a.static {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(a.level(), b.level()), cmp.Compare(a.usage.at(), b.usage.at()),
		cmp.Compare(a.received.Load(), b.received.Load()), cmp.Compare(a.id.hash, b.id.hash))
}

// level is d's level in the order of eviction.
func (d *definition) level() int {
	n := levelOf(d.usage.sets())
	if d.confirmed {
		return max(n, 1)
	}
	return n
}

// A choice says which definition of a template id is in force. It is immutable,
// but for the definitions' receive times.
type choice struct {
	defs  []*definition // in force; at least one
	ports []portChoice  // by port that definitions came from
	data  []portChoice  // by port that data alone comes from
}

type portChoice struct {
	port uint16
	def  *definition
}

// of returns the definition for datagrams from port, nil when there is none.
func (c *choice) of(port uint16) *definition {
	switch {
	case c == nil:
		return nil
	case len(c.defs) == 1:
		return c.defs[0]
	}
	if d := c.fromPort(port); d != nil {
		return d
	}
	for i := range c.data {
		if c.data[i].port == port {
			return c.data[i].def
		}
	}
	best := c.defs[0]
	for _, d := range c.defs[1:] {
		if newer(d.received.Load(), d, best.received.Load(), best) {
			best = d
		}
	}
	return best
}

// choose decides from what is known which definition is in force for each port;
// nil when none is.
func (l *layouts) choose() *choice {
	c := &choice{}
	for _, d := range l.defs {
		if d.inForce() {
			c.defs = append(c.defs, d)
		}
	}
	if len(c.defs) == 0 {
		return nil
	}
	for _, d := range c.defs {
		for _, s := range d.sources {
			i := slices.IndexFunc(c.ports, func(p portChoice) bool { return p.port == s.port })
			switch {
			case s.received <= d.removed:
			case i < 0:
				c.ports = append(c.ports, portChoice{s.port, d})
			case newer(s.received, d, c.ports[i].def.receivedFrom(s.port), c.ports[i].def):
				c.ports[i].def = d
			}
		}
	}
	slices.SortFunc(c.ports, func(a, b portChoice) int { return cmp.Compare(a.port, b.port) })
	if len(c.defs) > 1 {
		c.choosePins()
	}
	return c
}

// choosePins decides which definition is in force for ports that send data alone:
// the one confirmed by data of the port, while a port that sent its template goes
// on sending it. Another port's template does not displace it.
func (c *choice) choosePins() {
	var since []int64 // of c.data
	for _, d := range c.defs {
		pins := d.pins.Load()
		if pins == nil || !c.holds(d) {
			continue
		}
		for _, p := range *pins {
			i := slices.IndexFunc(c.data, func(o portChoice) bool { return o.port == p.port })
			switch {
			case c.fromPort(p.port) != nil:
			case i < 0:
				c.data, since = append(c.data, portChoice{p.port, d}), append(since, p.since)
			case p.since > since[i]:
				c.data[i].def, since[i] = d, p.since
			}
		}
	}
}

// holds reports whether d is in force for a port that sent it lately, as measured
// by the newest of all.
func (c *choice) holds(d *definition) bool {
	var newest int64
	for _, o := range c.defs {
		newest = max(newest, o.received.Load())
	}
	return slices.ContainsFunc(d.sources, func(s source) bool {
		return c.fromPort(s.port) == d && newest-s.received <= int64(sourceLife)
	})
}

// fromPort returns the definition last received from port itself, nil if none was.
func (c *choice) fromPort(port uint16) *definition {
	if c == nil {
		return nil
	}
	for i := range c.ports {
		if c.ports[i].port == port {
			return c.ports[i].def
		}
	}
	return nil
}

func (d *definition) receivedFrom(port uint16) int64 {
	for _, s := range d.sources {
		if s.port == port {
			return s.received
		}
	}
	return 0
}

func (c *choice) equal(o *choice) bool {
	if c == nil || o == nil {
		return c == o
	}
	return slices.Equal(c.defs, o.defs) && slices.Equal(c.ports, o.ports) && slices.Equal(c.data, o.data)
}

// spares reports whether the source of a port is kept for its data alone. Other
// replicas may not keep it, so that it must not be a reason to publish d again.
func (d *definition) spares(port uint16) bool {
	return slices.ContainsFunc(d.sources, func(s source) bool { return s.port == port && s.spared })
}
