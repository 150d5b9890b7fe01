package templates

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"weir/internal/decode"
)

const (
	// maxPins is how many ports of data a definition remembers.
	maxPins = 8
	// pinLife is how long a port of data keeps its place after its last data set.
	pinLife = time.Hour
	// pinRefresh is how often the time of a port's last data set is written.
	pinRefresh = 10 * time.Minute
	// sourceLife is how long after its last template a port holds a layout for
	// ports that send data alone.
	sourceLife = 2 * time.Hour
)

// A usage counts the data sets decoded with a definition: their number up to
// maxSets, the port of one of the last, and when. Once the number is reached it is
// written every 8.6 s only. Octet 0 is the number, 1 and 2 are the port, the rest
// is the receive time in 2^33 ns.
type usage struct{ word atomic.Uint64 }

const usageUnit = 33 // 2^33 ns are 8.6 s

func (u *usage) sets() uint8 { return uint8(u.word.Load()) }

// at returns when the last data set was received, in steps of 8.6 s, ns; 0: never.
func (u *usage) at() int64 { return int64(u.word.Load()>>24) << usageUnit }

// current reports whether a data set adds nothing to u.
func (u *usage) current(m *decode.Meta) bool {
	w := u.word.Load()
	return uint8(w) == maxSets && uint16(w>>8) == m.Port && int64(w>>24) >= m.Received>>usageUnit
}

// add counts a data set and returns how many were counted before, and are now.
func (u *usage) add(m *decode.Meta) (before, now uint8) {
	for {
		w := u.word.Load()
		before, now = uint8(w), min(uint8(w)+1, maxSets)
		at := max(w>>24, uint64(max(m.Received, 0))>>usageUnit)
		if before == now && at == w>>24 {
			return before, now // only the port differs: several send
		}
		if u.word.CompareAndSwap(w, at<<24|uint64(m.Port)<<8|uint64(now)) {
			return before, now
		}
	}
}

// A pin is a port from which data was decoded with a definition.
type pin struct {
	port  uint16
	since int64        // receive time of the first data set, ns
	at    atomic.Int64 // receive time of the last, in steps of pinRefresh, ns
}

// pinned reports whether d is confirmed by data of a port.
func (d *definition) pinned(port uint16) bool {
	pins := d.pins.Load()
	return pins != nil && slices.ContainsFunc(*pins, func(p *pin) bool { return p.port == port })
}

// pinFor looks for the port of a data set among d's, and whether it would get a
// place there.
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

// pin notes a port of data, in the place of the one longest without data if there
// are many. The shard's lock is held.
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

// A noted is a use that the order of eviction does not show yet.
type noted struct {
	d *definition
	m decode.Meta
}

// use notes that a data set is being decoded with d. No lock is held.
func (s *Store) use(d *definition, m *decode.Meta) {
	if !d.usage.current(m) {
		s.note(d, m)
	}
}

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

// takeUses confirms the definitions that decoding used, and ranks them. No lock
// is held.
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

// takeUse takes a use of a known definition. The shard's lock is held.
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

// credit counts a confirmed definition that other replicas go on receiving as if
// a data set had been decoded, up to those of youngLevel. The shard's lock is held.
func (s *Store) credit(d *definition) {
	w := d.usage.word.Load()
	if levelOf(uint8(w)) <= youngLevel && d.usage.word.CompareAndSwap(w, w+1) {
		s.rank(d)
	}
}
