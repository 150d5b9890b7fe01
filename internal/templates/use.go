package templates

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"weir/internal/decode"
)

const (
	// maxPins bounds the ports of data that a definition remembers.
	maxPins = 8
	// pinLife is the time after its last data set for which a pin keeps its place.
	pinLife = time.Hour
	// pinRefresh is the resolution of pin.at: a hot definition writes it rarely.
	pinRefresh = 10 * time.Minute
	// sourceLife is the time after its last template for which a port keeps a layout in
	// force for ports that send only data.
	sourceLife = 2 * time.Hour
)

// A usage counts the data sets decoded with a definition: their number up to maxSets, a
// recent port, and the time of the last. It is a single word, so that decoding updates it
// without a lock. At maxSets it is written only every 8.6 s. Octet 0 is the number, octets
// 1 and 2 are the port, octets 3 to 7 the receive time in units of 2^33 ns.
type usage struct{ word atomic.Uint64 }

const usageUnit = 33 // 2^33 ns are 8.6 s

func (u *usage) sets() uint8 { return uint8(u.word.Load()) }

// at returns the receive time of the last data set in ns, rounded down to 8.6 s; 0: never.
func (u *usage) at() int64 { return int64(u.word.Load()>>24) << usageUnit }

// current reports whether a data set would not change u.
func (u *usage) current(m *decode.Meta) bool {
	w := u.word.Load()
	return uint8(w) == maxSets && uint16(w>>8) == m.Port && int64(w>>24) >= m.Received>>usageUnit
}

// add counts a data set and returns the number of sets before and after.
func (u *usage) add(m *decode.Meta) (before, now uint8) {
	for {
		w := u.word.Load()
		before, now = uint8(w), min(uint8(w)+1, maxSets)
		at := max(w>>24, uint64(max(m.Received, 0))>>usageUnit)
		if before == now && at == w>>24 {
			return before, now // only the port differs: several ports send data
		}
		if u.word.CompareAndSwap(w, at<<24|uint64(m.Port)<<8|uint64(now)) {
			return before, now
		}
	}
}

// A pin is a source port from which data was decoded with a definition.
type pin struct {
	port  uint16
	since int64        // receive time of the first data set, ns
	at    atomic.Int64 // receive time of the last data set, up to pinRefresh late, ns
}

// pinned reports whether data of a port was decoded with d.
func (d *definition) pinned(port uint16) bool {
	pins := d.pins.Load()
	return pins != nil && slices.ContainsFunc(*pins, func(p *pin) bool { return p.port == port })
}

// pinFor reports whether d has a pin for the port of a data set, and if not, whether there
// is room for it. It needs no lock.
func (d *definition) pinFor(m *decode.Meta) (pinned, room bool) {
	pins := d.pins.Load()
	if pins == nil {
		return false, true
	}
	room = len(*pins) < maxPins
	for _, p := range *pins {
		at := p.at.Load()
		if p.port == m.Port {
			if m.Received-at > int64(pinRefresh) {
				p.at.Store(m.Received)
			}
			return true, true
		}
		room = room || m.Received-at > int64(pinLife)
	}
	return false, room
}

// pin adds a pin for the port of a data set. At maxPins it replaces the pin with the
// longest silence. The shard's lock must be held.
func (d *definition) pin(m *decode.Meta) {
	if pinned, room := d.pinFor(m); pinned || !room {
		return
	}
	var pins []*pin
	if all := d.pins.Load(); all != nil {
		pins = slices.Clone(*all)
	}
	if len(pins) >= maxPins {
		oldest := slices.MinFunc(pins, func(a, b *pin) int { return cmp.Compare(a.at.Load(), b.at.Load()) })
		pins = slices.DeleteFunc(pins, func(p *pin) bool { return p == oldest })
	}
	p := &pin{port: m.Port, since: m.Received}
	p.at.Store(m.Received)
	pins = slices.Clip(append(pins, p))
	d.pins.Store(&pins)
}

// A noted is a use that is not applied to the order of eviction yet.
type noted struct {
	d *definition
	m decode.Meta
}

// use counts a data set that is being decoded with d. Decoding calls it for every data
// set; no lock may be held.
func (s *Store) use(d *definition, m *decode.Meta) {
	if !d.usage.current(m) {
		s.note(d, m)
	}
}

// note counts a data set, and queues the use if it changes the level or the pins of d.
func (s *Store) note(d *definition, m *decode.Meta) {
	before, now := d.usage.add(m)
	pinned, room := d.pinFor(m)
	if levelOf(before) == levelOf(now) && (pinned || !room) || !d.noted.CompareAndSwap(false, true) {
		return
	}
	s.trust.mu.Lock()
	s.trust.uses = append(s.trust.uses, noted{d, *m})
	s.trust.mu.Unlock()
	s.trust.noted.Add(1)
}

// takeUses applies the queued uses: it confirms and ranks their definitions. No lock may
// be held.
func (s *Store) takeUses() {
	s.trust.mu.Lock()
	uses := s.trust.uses
	s.trust.uses = nil
	s.trust.mu.Unlock()
	s.trust.noted.Add(-int64(len(uses)))
	now := s.now()
	for _, u := range uses {
		d := u.d
		d.shard.mu.Lock()
		d.noted.Store(false)
		if d.known() {
			s.takeUse(d, &u.m, now)
		}
		d.shard.mu.Unlock()
	}
}

// takeUse applies a use of a definition that the store holds. The shard's lock must be
// held.
func (s *Store) takeUse(d *definition, m *decode.Meta, now int64) {
	d.pin(m)
	if len(d.domain.templates[d.id.template].defs) > 1 {
		d.domain.choose(d.id.template)
	}
	if !d.confirmed {
		s.confirm(d)
		s.publishHeld(d.shard, d.domain.scope.exporter)
		if !s.o.Local {
			d.sayAt = now + d.records[digestRecord].spread(s.o.Replica, confirmWithin)
			s.trust.sayLater(d)
		}
	} else {
		s.rank(d)
	}
	s.accountDefinition(d)
}

// credit counts a data set for a confirmed definition that other replicas keep receiving,
// up to youngLevel. The shard's lock must be held.
func (s *Store) credit(d *definition) {
	w := d.usage.word.Load()
	if levelOf(uint8(w)) <= youngLevel && d.usage.word.CompareAndSwap(w, w+1) {
		s.rank(d)
	}
}
