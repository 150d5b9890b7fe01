package main

import (
	"math/rand/v2"
	"slices"
)

// mutate returns a changed copy of g, sometimes crossed with other.
func mutate(r *rand.Rand, g, other *genome) *genome {
	c := g.clone()
	for range 1 + r.IntN(4) {
		c.change(r, other)
	}
	if len(c.messages) == 0 {
		c.messages = append(c.messages, randomMessage(r))
	}
	return c
}

// change makes one change.
func (g *genome) change(r *rand.Rand, other *genome) {
	if len(g.messages) == 0 {
		g.messages = append(g.messages, randomMessage(r))
		return
	}
	i := r.IntN(len(g.messages))
	m := &g.messages[i]
	switch r.IntN(22) {
	case 0: // duplicate
		if len(g.messages) < 12 {
			g.messages = slices.Insert(g.messages, i, genomeOf(*m).messages[0])
		}
	case 1: // remove
		if len(g.messages) > 1 {
			g.messages = slices.Delete(g.messages, i, i+1)
		}
	case 2: // splice
		if len(other.messages) > 0 && len(g.messages) < 12 {
			g.messages = slices.Insert(g.messages, r.IntN(len(g.messages)+1), genomeOf(other.messages[r.IntN(len(other.messages))]).messages[0])
		}
	case 3: // a new set
		if len(g.messages) < 12 {
			g.messages = append(g.messages, randomMessage(r))
		}
	case 4: // a session, or none
		stream := !m.stream
		for j := range g.messages {
			g.messages[j].stream = stream
		}
	case 5, 6, 7, 8:
		m.change(r)
	case 9, 10:
		g.fill(r)
	default:
		if len(m.sets) == 0 {
			m.sets = append(m.sets, randomSet(r))
		}
		if j := r.IntN(len(m.sets)); r.IntN(4) > 0 {
			m.sets[j].change(r)
		} else {
			m.changeSets(r, j, other)
		}
	}
}

// fill turns a data set into a set of many records that differ: as many as fit, or twice the
// present number. Its template may lose a field, so that more records fit.
func (g *genome) fill(r *rand.Rand) {
	var data []*set
	for i := range g.messages {
		for j := range g.messages[i].sets {
			if s := &g.messages[i].sets[j]; s.kind == dataSet && g.messages[i].version != 5 {
				data = append(data, s)
			}
		}
	}
	if len(data) == 0 {
		return
	}
	s := data[r.IntN(len(data))]
	if r.IntN(3) == 0 {
		g.narrow(r, s.id)
	}
	record := max(1, g.layouts()[s.id].octets)
	fits := maxMessage * 7 / 8 / record
	s.record = nil
	if s.vary == 0 || r.IntN(2) == 0 {
		s.vary = 1<<64 - 1
	}
	if r.IntN(2) == 0 {
		s.count = uint16(max(1, fits>>r.IntN(3)))
	} else {
		s.count = uint16(max(1, min(2*int(s.count), fits)))
	}
}

// narrow makes the records of the template with this id shorter.
func (g *genome) narrow(r *rand.Rand, id uint16) {
	for i := range g.messages {
		for j := range g.messages[i].sets {
			s := &g.messages[i].sets[j]
			if s.id != id || s.kind != templateSet && s.kind != optionsSet || len(s.fields) == 0 {
				continue
			}
			f := r.IntN(len(s.fields))
			switch n := s.fields[f].length; {
			case len(s.fields) > 2 && r.IntN(2) == 0:
				s.fields = slices.Delete(s.fields, f, f+1)
			case n == variable:
				s.fields[f].length = 2
			default:
				s.fields[f].length = n / 2
			}
		}
	}
}

func genomeOf(m message) *genome { return (&genome{messages: []message{m}}).clone() }

// change changes the header or the number of repetitions of the message.
func (m *message) change(r *rand.Rand) {
	switch r.IntN(12) {
	case 0:
		m.source = 1 + uint8(r.IntN(3))
	case 1:
		m.sourceStep = uint8(r.IntN(2))
	case 2:
		m.port = uint8(r.IntN(3))
	case 3:
		m.portStep = uint8(r.IntN(2))
	case 4:
		m.domain = uint8(r.IntN(3))
	case 5:
		m.domainStep = uint8(r.IntN(2))
	case 6:
		m.gap = []uint16{0, 1, 100, 2000}[r.IntN(4)]
	case 7, 8:
		m.repeat = uint16(resize(r, int(m.repeat), 2048))
	case 9:
		m.uptime = []uint32{0, 1000, 3_600_000, 1<<32 - 1}[r.IntN(4)]
	case 10:
		if len(m.flips) < 8 {
			m.flips = append(m.flips, flip{at: uint16(r.IntN(64)), xor: uint8(1 << r.IntN(8))})
		} else {
			m.flips = m.flips[:0]
		}
	case 11:
		m.version = []uint8{5, 9, 10}[r.IntN(3)]
	}
}

// changeSets adds, removes or moves sets.
func (m *message) changeSets(r *rand.Rand, i int, other *genome) {
	c := m.sets[i]
	c.fields = slices.Clone(c.fields)
	switch r.IntN(5) {
	case 0:
		if len(m.sets) < 8 {
			m.sets = slices.Insert(m.sets, i, c)
		}
	case 1:
		if len(m.sets) > 1 {
			m.sets = slices.Delete(m.sets, i, i+1)
		}
	case 2:
		if len(m.sets) < 8 {
			m.sets = append(m.sets, randomSet(r))
		}
	case 3: // data of the template, with all its fields or a single field
		if len(m.sets) < 8 {
			c.kind, c.count, c.vary, c.record = dataSet, 1+uint16(r.IntN(16)), r.Uint64(), nil
			m.sets = append(m.sets, c)
		}
	case 4: // a set from another genome
		if len(other.messages) > 0 {
			if o := other.messages[r.IntN(len(other.messages))]; len(o.sets) > 0 && len(m.sets) < 8 {
				c = o.sets[r.IntN(len(o.sets))]
				c.fields = slices.Clone(c.fields)
				m.sets = append(m.sets, c)
			}
		}
	}
}

// change changes a set.
func (s *set) change(r *rand.Rand) {
	switch r.IntN(14) {
	case 0:
		s.kind = setKind(r.IntN(int(setKinds)))
	case 1:
		s.id = 256 + uint16(r.IntN(8))
	case 2:
		s.idStep = uint8(r.IntN(2))
	case 3, 4, 5:
		s.count = uint16(resize(r, int(s.count), 8192))
	case 6:
		s.vary, s.record = r.Uint64(), nil
	case 7:
		s.fill = []uint8{0, 1, 0xff, uint8(r.Uint32())}[r.IntN(4)]
	case 8:
		s.rest = uint8(r.IntN(4))
	case 9:
		s.scopes = uint8(r.IntN(3))
	case 10:
		s.widen = uint16(resize(r, max(1, int(s.widen)), 4000))
	default:
		s.changeFields(r)
	}
}

func (s *set) changeFields(r *rand.Rand) {
	if len(s.fields) == 0 {
		s.fields = randomFields(r)
		return
	}
	i := r.IntN(len(s.fields))
	switch f := &s.fields[i]; r.IntN(7) {
	case 0:
		if len(s.fields) < 32 {
			s.fields = slices.Insert(s.fields, i, randomField(r))
		}
	case 1, 2:
		if len(s.fields) > 1 {
			s.fields = slices.Delete(s.fields, i, i+1)
		}
	case 3:
		f.length = lengths[r.IntN(len(lengths))]
	case 4:
		*f = randomField(r)
	case 5:
		f.id = elements[r.IntN(len(elements))]
	case 6:
		f.idStep, f.lenInc = uint8(r.IntN(2)), uint8(r.IntN(2))
	}
}

// resize returns a different number from 1 to most.
func resize(r *rand.Rand, n, most int) int {
	switch r.IntN(6) {
	case 0, 1:
		n *= 2
	case 2:
		n /= 2
	case 3:
		n *= 8
	case 4:
		n++
	default:
		n--
	}
	return max(1, min(n, most))
}
