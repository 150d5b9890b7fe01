package templates

import (
	"bytes"
	"cmp"
	"slices"
	"sync/atomic"

	"weir/internal/decode"
)

// A definition is a layout of a template id. The lock of its shard guards all fields that
// are not atomic. Decoding reads plan without a lock; it must not change.
type definition struct {
	shard   *shard
	records [recordKinds]definitionRecord
	id      definitionID
	domain  *domain
	plan    *decode.Plan
	sources []source // newest first, at most maxSources

	lives      atomic.Pointer[[]life] // clocks of its exporters at their last receipt, newest first; nil: not v9
	settled    atomic.Bool            // in use although it is doubtful, see Settle
	received   atomic.Int64           // greatest receive time, ns; read without lock
	first      int64                  // least receive time, ns
	local      int64                  // last receive time of this replica, ns; 0: none
	static     bool                   // stated by the operator in a file
	removed    int64                  // time of removal by an operator, ns; a later receipt revokes it
	confirmed  bool                   // a replica decoded a data set with it
	place      place                  // in the order of eviction
	usage      usage                  // by this replica
	noted      atomic.Bool            // a use waits in trust.uses
	pins       atomic.Pointer[[]*pin] // ports of data, at most maxPins; the slice is immutable
	octets     int64                  // accounted octets, without the plan
	planOctets int64
	compiled   bool // the plan was compiled for this definition
	say        bool // the confirmation must be published
	sayAt      int64
	origin     origin
}

// A source is a port from which a definition was received.
type source struct {
	port     uint16
	received int64 // last receive time of any replica, ns
	local    int64 // last receive time of this replica, ns; 0: none

	spared   bool               // kept in place of newer sources, since data of the port was decoded
	onTopic  [recordKinds]int64 // receive time in the topic's last record of the kind, ns; 0: none
	recorded [recordKinds]bool  // a record of the kind had this source at some time
}

// An origin holds header fields of the latest message that contained an entry.
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

// newer reports whether a, received at the time at, is newer than b, received at the time than.
// Equal times are ordered by hash and digest, so that all replicas agree. Replicas of
// older versions, which know no digest, agree unless the hashes collide.
func newer(at int64, a *definition, than int64, b *definition) bool {
	return cmp.Or(
		cmp.Compare(at, than), cmp.Compare(a.id.hash, b.id.hash), bytes.Compare(a.id.digest[:], b.id.digest[:]),
	) > 0
}

// from returns the source of d for a port and raises its receive time to at. It adds the
// source if needed. Beyond maxSources it drops the oldest source from whose port no data
// was decoded, else the oldest; it returns nil if it dropped the added source.
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
		if d.pinned(d.sources[goes].port) { // all sources are pinned
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

// layouts holds the definitions of a template id, at most maxLayouts.
type layouts struct{ defs []*definition }

// byLayout returns the definition with the layout of t, nil if there is none. It compares
// layouts, since hashes may collide.
func (l *layouts) byLayout(t *decode.Template) *definition {
	for _, d := range l.defs {
		if d.plan.Template().SameLayout(t) {
			return d
		}
	}
	return nil
}

// newest returns the definition with the latest receipt, nil if none was received.
func (l *layouts) newest() *definition {
	var best *definition
	for _, d := range l.defs {
		if at := d.received.Load(); at > 0 && (best == nil || newer(at, d, best.received.Load(), best)) {
			best = d
		}
	}
	return best
}

// leastUsed returns the definition to evict for a new definition from a port. Definitions that only this port uses are
// evicted before all others, so that a sender cannot evict the definitions of others.
func (l *layouts) leastUsed(port uint16) *definition {
	own := slices.DeleteFunc(slices.Clone(l.defs), func(d *definition) bool { return !d.ofPortAlone(port) })
	if len(own) > 0 {
		return slices.MinFunc(own, evictBefore)
	}
	return slices.MinFunc(l.defs, evictBefore)
}

// ofPortAlone reports whether all templates and data of d came from this port.
func (d *definition) ofPortAlone(port uint16) bool {
	if d.static || len(d.sources) != 1 || d.sources[0].port != port {
		return false
	}
	pins := d.pins.Load()
	return pins == nil || !slices.ContainsFunc(*pins, func(p *pin) bool { return p.port != port })
}

// evictBefore orders the definitions of an exporter for eviction: by level, that is
// unconfirmed definitions first and then by the number of decoded sets; within a level by
// the last data set, then by the last receipt. Static definitions come last.
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

// level returns the level of d in the order of eviction.
func (d *definition) level() int {
	n := levelOf(d.usage.sets())
	if d.confirmed {
		return max(n, 1)
	}
	return n
}

// A choice holds the definitions in force of a template id. It is immutable, except for
// the receive times of the definitions. Readers use it without a lock.
type choice struct {
	defs  []*definition // in force; never empty
	ports []portChoice  // for ports that sent a definition, ascending
	data  []portChoice  // for ports that sent only data
}

// A portChoice is the definition in force for a source port.
type portChoice struct {
	port uint16
	def  *definition
}

// of returns the definition for datagrams from a port, nil if c is nil. A port that is not
// in the choice gets the newest definition of the exporter.
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

// choose returns the definitions in force for each port, nil if none is in force.
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

// choosePins chooses the definition for ports that send only data: the definition with
// which data of the port was decoded, as long as a port that sent its template keeps
// sending it. Another port's template does not replace it.
func (c *choice) choosePins() {
	var since []int64 // pin.since of the elements of c.data
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

// holds reports whether d is in force for a port that sent it within sourceLife before
// the newest receipt of all definitions.
func (c *choice) holds(d *definition) bool {
	var newest int64
	for _, o := range c.defs {
		newest = max(newest, o.received.Load())
	}
	return slices.ContainsFunc(d.sources, func(s source) bool {
		return c.fromPort(s.port) == d && newest-s.received <= int64(sourceLife)
	})
}

// fromPort returns the definition that a port itself sent last, nil if it sent none.
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

// receivedFrom returns the last receive time of d from a port, 0 if there is none.
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

// spares reports whether the source of a port is kept only because of its data. Other
// replicas may have dropped it, so it must not be a reason to publish d again.
func (d *definition) spares(port uint16) bool {
	return slices.ContainsFunc(d.sources, func(s source) bool { return s.port == port && s.spared })
}
