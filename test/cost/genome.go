package main

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// A genome describes a sequence of datagrams; render gives their octets. Mutation works
// on the description, so that lengths, counts and templates stay consistent with each
// other unless a mutation breaks them on purpose.
type genome struct{ messages []message }

// A message describes a datagram, or several that differ by the steps.
type message struct {
	source, sourceStep uint8 // last octet of the exporter's address
	port, portStep     uint8 // added to 40000
	stream             bool  // of a TCP session of source and port, else UDP
	version            uint8 // 5, 9 or 10
	domain, domainStep uint8
	gap                uint16 // ms since the previous datagram
	repeat             uint16 // datagrams
	uptime, sequence   uint32
	sets               []set
	flips              []flip
}

// A set is a flow set of version 9 or a set of IPFIX, or the records of version 5.
type set struct {
	kind   setKind
	id     uint16 // of the template
	idStep uint8  // added for each template record
	fields []field
	widen  uint16 // times that fields are repeated in a template
	scopes uint8
	count  uint16 // records
	fill   uint8  // value of octets that do not vary
	vary   uint64 // bit i: field i of a record holds its number
	rest   uint8  // octets behind the records
	record []byte // nil: a data record is made from the fields; else these octets, not changed
}

type setKind uint8

const (
	templateSet setKind = iota
	optionsSet
	dataSet
	rawSet
	setKinds
)

// A field is a field of a template. The steps are added for each template record.
type field struct {
	pen            uint32
	id, length     uint16
	idStep, lenInc uint8
}

// A flip changes an octet of each datagram of a message.
type flip struct {
	at  uint16 // modulo the length
	xor uint8
}

// A packet is a datagram, or an IPFIX message of a TCP session.
type packet struct {
	from   netip.AddrPort
	stream bool
	gap    uint16 // ms
	octets []byte
}

const (
	maxSequence = 4 << 10 // octets of all datagrams of a genome
	maxMessage  = 4 << 10 // octets of a datagram
	variable    = 65535   // length of a field of variable length, RFC 7011 section 7
)

// render returns the datagrams of g, at most maxSequence octets.
func (g *genome) render() []packet {
	var out []packet
	layouts := map[uint16][]field{} // last rendered, by template id
	total := 0
	for i := range g.messages {
		m := &g.messages[i]
		for n := range int(m.repeat) {
			b := m.datagram(n, layouts)
			if total += len(b); total > maxSequence || len(out) >= 4096 {
				return out
			}
			addr := netip.AddrFrom4([4]byte{192, 0, 2 + byte(n*int(m.sourceStep)>>8), m.source + byte(n*int(m.sourceStep))})
			out = append(out, packet{
				from:   netip.AddrPortFrom(addr, 40000+uint16(m.port)+uint16(n*int(m.portStep))),
				stream: m.stream, gap: m.gap, octets: b,
			})
		}
	}
	return out
}

// datagram returns the n-th datagram of m.
func (m *message) datagram(n int, layouts map[uint16][]field) []byte {
	be := binary.BigEndian
	domain := uint32(m.domain) + uint32(n*int(m.domainStep))
	seconds := uint32(start.Unix())
	b := be.AppendUint16(make([]byte, 0, 512), uint16(m.version))
	switch m.version {
	case 5:
		b = be.AppendUint16(b, 0)
		b = be.AppendUint32(b, m.uptime)
		b = be.AppendUint32(be.AppendUint32(b, seconds), 0)
		b = append(be.AppendUint32(b, m.sequence), 0, byte(domain), 0, 0)
	case 9:
		b = be.AppendUint16(b, 0)
		b = be.AppendUint32(b, m.uptime)
		b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, seconds), m.sequence), domain)
	default:
		b = be.AppendUint16(b, 0)
		b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, seconds), m.sequence), domain)
	}
	records := 0
	for i := range m.sets {
		s := &m.sets[i]
		var k int
		if b, k = s.append(b, m.version, n, layouts); len(b) > maxMessage {
			b = b[:maxMessage]
			break
		}
		records += k
	}
	if m.version == 10 {
		be.PutUint16(b[2:], uint16(len(b)))
	} else {
		be.PutUint16(b[2:], uint16(records))
	}
	for _, f := range m.flips {
		b[int(f.at)%len(b)] ^= f.xor
	}
	return b
}

// append appends the set to b. The second result is the number of its records.
func (s *set) append(b []byte, version uint8, n int, layouts map[uint16][]field) (out []byte, records int) {
	be := binary.BigEndian
	begin := len(b)
	if version != 5 {
		id := s.id
		switch {
		case s.kind == templateSet && version == 9:
			id = 0
		case s.kind == templateSet:
			id = 2
		case s.kind == optionsSet && version == 9:
			id = 1
		case s.kind == optionsSet:
			id = 3
		}
		b = be.AppendUint16(be.AppendUint16(b, id), 0)
	}
	for i := range int(s.count) {
		if len(b) > maxMessage {
			break
		}
		at := n*int(s.count) + i
		switch {
		case version == 5:
			b = appendPattern(b, 48, s.fill, s.vary&1 != 0, at)
		case s.kind == rawSet:
			b = appendPattern(b, 4, s.fill, s.vary&1 != 0, at)
		case s.kind == dataSet && s.record != nil:
			b = append(b, s.record...)
		case s.kind == dataSet:
			b = s.appendRecord(b, layouts[s.id], at)
		default:
			b = s.appendTemplate(b, version, at, layouts)
		}
		records++
	}
	for range int(s.rest) {
		b = append(b, s.fill)
	}
	if version != 5 {
		be.PutUint16(b[begin+2:], uint16(len(b)-begin))
	}
	return b, records
}

// appendTemplate appends the template record with number at.
func (s *set) appendTemplate(b []byte, version uint8, at int, layouts map[uint16][]field) []byte {
	be := binary.BigEndian
	id := s.id + uint16(at*int(s.idStep))
	var fields []field
	for range max(1, int(s.widen)) {
		for _, f := range s.fields {
			f.id += uint16(at * int(f.idStep))
			if f.length != variable {
				f.length += uint16(at * int(f.lenInc))
			}
			fields = append(fields, f)
		}
		if len(fields) > 4000 {
			break
		}
	}
	layouts[id] = fields
	b = be.AppendUint16(b, id)
	scopes := min(int(s.scopes), len(fields))
	switch {
	case s.kind == optionsSet && version == 9:
		b = be.AppendUint16(be.AppendUint16(b, uint16(4*scopes)), uint16(4*(len(fields)-scopes)))
	case s.kind == optionsSet:
		b = be.AppendUint16(be.AppendUint16(b, uint16(len(fields))), uint16(scopes))
	default:
		b = be.AppendUint16(b, uint16(len(fields)))
	}
	for _, f := range fields {
		if f.pen != 0 && version == 10 {
			b = be.AppendUint16(be.AppendUint16(b, f.id|0x8000), f.length)
			b = be.AppendUint32(b, f.pen)
			continue
		}
		b = be.AppendUint16(be.AppendUint16(b, f.id&0x7fff), f.length)
	}
	return b
}

// appendRecord appends the data record with number at.
func (s *set) appendRecord(b []byte, fields []field, at int) []byte {
	if len(fields) == 0 { // the template is not known
		return appendPattern(b, 8, s.fill, s.vary&1 != 0, at)
	}
	for i, f := range fields {
		vary := s.vary>>(i%64)&1 != 0
		switch {
		case len(b) > maxMessage:
			return b
		case f.length == variable:
			n := int(s.fill % 32)
			b = appendPattern(append(b, byte(n)), n, s.fill, vary, at)
		case f.pen == 0 && f.id >= 291 && f.id <= 293 && f.length > 4: // structured data, RFC 6313
			list := appendPattern(nil, int(min(f.length, 1500)), s.fill, vary, at)
			copy(list, []byte{3, byte(s.id >> 8), byte(s.id), 0, 1})
			b = append(b, list...)
		default:
			b = appendPattern(b, int(f.length), s.fill, vary, at)
		}
	}
	return b
}

// appendPattern appends n octets: all equal to fill, or the number at.
func appendPattern(b []byte, n int, fill uint8, vary bool, at int) []byte {
	n = min(n, maxMessage)
	from := len(b)
	for range n {
		b = append(b, fill)
	}
	if vary {
		for i, v := len(b)-1, at; i >= from && i >= len(b)-4; i, v = i-1, v>>8 {
			b[i] = byte(v)
		}
	}
	return b
}

// A kind describes the purpose of most octets of a sequence.
type kind struct {
	of     setKind
	knows  templateKind // for data: the kind of its template
	stream bool
}

// compare orders kinds.
func (k kind) compare(o kind) int {
	if k.stream != o.stream {
		if k.stream {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(k.of, o.of), cmp.Compare(k.knows, o.knows))
}

type templateKind uint8

const (
	noTemplate templateKind = iota
	flowTemplate
	optionsTemplate
)

// A layout is a template of a genome, for the data sets that use it.
type layout struct {
	known  templateKind
	octets int // of a record; fields of variable length count as 1
}

// layouts returns the templates of g, by id.
func (g *genome) layouts() map[uint16]layout {
	out := map[uint16]layout{}
	for i := range g.messages {
		for j := range g.messages[i].sets {
			s := &g.messages[i].sets[j]
			if s.kind != templateSet && s.kind != optionsSet || g.messages[i].version == 5 {
				continue
			}
			l := layout{known: flowTemplate}
			if s.kind == optionsSet {
				l.known = optionsTemplate
			}
			for _, f := range s.fields {
				if f.length == variable {
					f.length = 1
				}
				l.octets += int(f.length) * max(1, int(s.widen))
			}
			out[s.id] = l
		}
	}
	return out
}

// octets returns the approximate size of a set in octets.
func (s *set) octets(known map[uint16]layout) int {
	record := 4
	switch {
	case s.kind == dataSet && s.record != nil:
		record = len(s.record)
	case s.kind == dataSet:
		if record = known[s.id].octets; record == 0 {
			record = 8
		}
	case s.kind != rawSet:
		record += 4 * len(s.fields) * max(1, int(s.widen))
	}
	return 4 + record*int(s.count)
}

// kind returns the kind that accounts for the most octets of g.
func (g *genome) kind() kind {
	known := g.layouts()
	octets := map[kind]int{}
	var most kind
	for i := range g.messages {
		m := &g.messages[i]
		for j := range m.sets {
			s := &m.sets[j]
			k := kind{of: s.kind, stream: m.stream}
			switch {
			case m.version == 5:
				k.of = rawSet
			case s.kind == dataSet:
				k.knows = known[s.id].known
			}
			octets[k] += min(s.octets(known), maxMessage) * int(m.repeat)
			if octets[k] > octets[most] {
				most = k
			}
		}
	}
	return most
}

func (g *genome) clone() *genome {
	c := &genome{messages: slices.Clone(g.messages)}
	for i := range c.messages {
		m := &c.messages[i]
		m.flips = slices.Clone(m.flips)
		m.sets = slices.Clone(m.sets)
		for j := range m.sets {
			m.sets[j].fields = slices.Clone(m.sets[j].fields)
		}
	}
	return c
}

// elements lists the elements that decoding interprets: keys, counters, times, sampling, names,
// structured data (IANA's IPFIX registry; RFC 3954 section 8).
var elements = []uint16{
	1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17, 21, 22, 23, 24, 27, 28, 32, 34, 35, 40, 41, 42, 48, 49, 50, 52, 56, 58, 61,
	70, 80, 82, 83, 85, 86, 95, 96, 130, 131, 136, 139, 143, 144, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160,
	161, 176, 192, 225, 226, 227, 228, 230, 231, 232, 233, 234, 235, 236, 239, 252, 253, 256, 281, 291, 292, 293, 298, 299, 302,
	303, 305, 306, 309, 310, 311, 315, 322, 323, 324, 325,
}

var lengths = []uint16{0, 1, 1, 2, 2, 4, 4, 4, 8, 8, 16, 3, 6, 32, 100, variable}

func randomField(r *rand.Rand) field {
	f := field{id: elements[r.IntN(len(elements))], length: lengths[r.IntN(len(lengths))]}
	switch r.IntN(12) {
	case 4, 5:
		f.id = said[r.IntN(len(said))]
	case 0:
		f.id = uint16(r.IntN(512))
	case 1:
		f.pen = []uint32{29305, 9, 1, 35632}[r.IntN(4)]
	case 2:
		f.idStep = 1
	case 3:
		f.lenInc = 1
	}
	return f
}

// said lists the elements of options data that describe the exporter: sampling, names, times (RFC
// 5476, RFC 7270, IANA's IPFIX registry).
var said = []uint16{34, 35, 48, 49, 50, 302, 304, 305, 306, 309, 310, 311, 10, 14, 82, 83, 95, 96, 160, 234, 236, 40, 41, 42}

func randomFields(r *rand.Rand) []field {
	out := make([]field, 1+r.IntN(8))
	for i := range out {
		out[i] = randomField(r)
	}
	return out
}

func randomSet(r *rand.Rand) set {
	return set{
		kind: setKind(r.IntN(int(setKinds))), id: 256 + uint16(r.IntN(8)), idStep: uint8(r.IntN(2)), fields: randomFields(r),
		widen: 1, scopes: uint8(r.IntN(2)), count: 1 + uint16(r.IntN(8)), fill: uint8(r.Uint32()), vary: r.Uint64(),
	}
}

func randomMessage(r *rand.Rand) message {
	m := message{
		source: 1 + uint8(r.IntN(3)), version: []uint8{9, 10, 10, 5}[r.IntN(4)], domain: uint8(r.IntN(3)),
		stream: r.IntN(4) == 0, repeat: 1, uptime: 3_600_000, sequence: r.Uint32N(1000),
	}
	for range 1 + r.IntN(2) {
		m.sets = append(m.sets, randomSet(r))
	}
	if r.IntN(2) == 0 { // a template, and data of it
		t := randomSet(r)
		t.kind, t.count = setKind(r.IntN(2)), 1
		data := set{kind: dataSet, id: t.id, count: 1 << r.IntN(10), fill: t.fill, vary: r.Uint64()}
		if t.kind == optionsSet {
			for i := range t.fields {
				t.fields[i] = field{id: said[r.IntN(len(said))], length: lengths[r.IntN(len(lengths))]}
			}
		}
		m.sets = []set{t, data}
	}
	return m
}
