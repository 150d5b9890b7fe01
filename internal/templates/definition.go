package templates

import (
	"bytes"
	"cmp"
	"container/list"
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

	lives       atomic.Pointer[[]life] // of its exporters when they sent this last, newest first; nil: not v9
	settled     atomic.Bool            // used in doubt
	received    atomic.Int64           // greatest receive time, ns; read without lock
	first       int64                  // least receive time, ns
	local       int64                  // receive time of this replica's last own reception, ns; 0: none
	static      bool                   // an operator's, not received
	removed     int64                  // removed by an operator at, ns; counts only if received later
	confirmed   bool                   // a replica decoded a data set with it
	used        atomic.Bool            // this replica did, or knows that another did
	unconfirmed *list.Element          // in trust; nil: confirmed, or gone
	say         bool                   // it is time to say so there
	sayAt       int64
	origin      origin
}

// A source is a port that a definition came from.
type source struct {
	port     uint16
	received int64 // ns
	local    int64 // own reception, ns; 0: none

	onTopic  [recordKinds]int64 // as the topic's last record of the kind says, ns; 0: not there
	recorded [recordKinds]bool  // a record of the kind had it once
}

// An origin is the header of the datagram that brought something last.
type origin struct {
	export   int64 // ns since the epoch
	uptime   uint32
	sequence uint32
}

// inForce reports whether d was received after its removal, if any.
func (d *definition) inForce() bool { return d.received.Load() > d.removed }

// newer orders definitions by time, then by hash and digest, so that all replicas
// agree. Replicas that know no digest agree too, unless the hashes collide.
func newer(at int64, a *definition, than int64, b *definition) bool {
	return cmp.Or(cmp.Compare(at, than), cmp.Compare(a.id.hash, b.id.hash), bytes.Compare(a.id.digest[:], b.id.digest[:])) > 0
}

// from returns d's source for port, adding it if needed. The oldest goes when
// there are too many; nil when that is the new one.
func (d *definition) from(port uint16, at int64) *source {
	i := slices.IndexFunc(d.sources, func(s source) bool { return s.port == port })
	if i < 0 {
		d.sources = append(d.sources, source{port: port})
		i = len(d.sources) - 1
	}
	d.sources[i].received = max(d.sources[i].received, at)
	slices.SortFunc(d.sources, func(a, b source) int { // few, and nearly sorted
		return cmp.Or(cmp.Compare(b.received, a.received), cmp.Compare(a.port, b.port))
	})
	d.sources = d.sources[:min(len(d.sources), maxSources)]
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

// oldest returns the definition that was received the longest ago.
func (l *layouts) oldest() *definition {
	return slices.MinFunc(l.defs, func(a, b *definition) int {
		if a.static != b.static { // an operator's go last
			if a.static {
				return 1
			}
			return -1
		}
		if newer(b.received.Load(), b, a.received.Load(), a) {
			return -1
		}
		return 1
	})
}

// A choice says which definition of a template id is in force. It is immutable,
// but for the definitions' receive times.
type choice struct {
	defs  []*definition // in force; at least one
	ports []portChoice
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
	return c
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
	return slices.Equal(c.defs, o.defs) && slices.Equal(c.ports, o.ports)
}
