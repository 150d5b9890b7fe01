package pair

import (
	"encoding/binary"
	"math"

	"weir/internal/flowkey"
)

// A coder writes or reads an entry's value, field by field in one order for
// both. Numbers are varints, times relative to the entry's first record, hashes
// and addresses octets.
type coder struct {
	b       []byte
	reading bool
	short   bool // reading: ran out, or a number is too large
	base    int64
}

// octets writes or reads len(v) octets.
func (c *coder) octets(v []byte) {
	if !c.reading {
		c.b = append(c.b, v...)
		return
	}
	if len(c.b) < len(v) {
		c.short, c.b = true, nil
		return
	}
	copy(v, c.b)
	c.b = c.b[len(v):]
}

// number writes v, or reads a number of at most most.
func (c *coder) number(v, most uint64) uint64 {
	if !c.reading {
		c.b = binary.AppendUvarint(c.b, v)
		return v
	}
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > most {
		c.short, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *coder) u64(v *uint64) {
	if !c.small(*v) {
		*v = c.number(*v, math.MaxUint64)
	}
}

func (c *coder) u32(v *uint32) {
	if !c.small(uint64(*v)) {
		*v = uint32(c.number(uint64(*v), math.MaxUint32))
	}
}

func (c *coder) u16(v *uint16) {
	if !c.small(uint64(*v)) {
		*v = uint16(c.number(uint64(*v), math.MaxUint16))
	}
}

func (c *coder) u8(v *uint8) {
	if !c.small(uint64(*v)) {
		*v = uint8(c.number(uint64(*v), math.MaxUint8))
	}
}

// small writes a number of one octet, in place: the usual case.
func (c *coder) small(v uint64) bool {
	if c.reading || v >= 0x80 || len(c.b) == cap(c.b) {
		return false
	}
	c.b = c.b[:len(c.b)+1]
	c.b[len(c.b)-1] = byte(v)
	return true
}

// time is a number of ns relative to base, either sign.
func (c *coder) time(v *int64) {
	d := *v - c.base
	u := uint64(d)<<1 ^ uint64(d>>63)
	c.u64(&u)
	*v = c.base + (int64(u>>1) ^ -int64(u&1))
}

// octet reads one octet.
func (c *coder) octet(v *uint8) {
	var b [1]byte
	c.octets(b[:])
	*v = b[0]
}

// fixed32 reads a number of 4 octets.
func (c *coder) fixed32(v *uint32) {
	var b [4]byte
	c.octets(b[:])
	*v = binary.BigEndian.Uint32(b[:])
}

// prefixed returns a reader of what has its length (4 octets) before it.
func (c *coder) prefixed() (v coder, ok bool) {
	var n uint32
	c.fixed32(&n)
	if c.short || uint64(n) > uint64(len(c.b)) {
		return v, false
	}
	v = coder{b: c.b[:n], reading: true}
	c.b = c.b[n:]
	return v, true
}

// blob reads a length and as many octets, which are a part of the input.
func (c *coder) blob() []byte {
	n := c.number(0, uint64(len(c.b)))
	if uint64(len(c.b)) < n {
		c.short, c.b = true, nil
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

// putBlob writes the length of v and v.
func (c *coder) putBlob(v []byte) {
	c.b = binary.AppendUvarint(c.b, uint64(len(v)))
	c.b = append(c.b, v...)
}

// hash is 8 octets.
func (c *coder) hash(v *uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], *v)
	c.octets(b[:])
	*v = binary.BigEndian.Uint64(b[:])
}

func (c *coder) flag(v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.u8(&u)
	*v = u != 0
}

// address is 16 octets, or 4 when v4.
func (c *coder) address(a *[16]byte, v4 bool) {
	if v4 {
		if c.reading {
			a[10], a[11] = 0xff, 0xff
		}
		c.octets(a[12:])
		return
	}
	c.octets(a[:])
}

// anyAddress is an address and of which kind it is.
func (c *coder) anyAddress(a *[16]byte) {
	v4 := flowkey.IsV4(a)
	c.flag(&v4)
	c.address(a, v4)
}

func (c *coder) state(k *stateKey) {
	c.flag(&k.V6)
	c.address(&k.Lo, !k.V6)
	c.address(&k.Hi, !k.V6)
	c.u16(&k.LoPort)
	c.u16(&k.HiPort)
	c.u8(&k.Proto)
	scoped := k.scope != 0
	if c.flag(&scoped); scoped {
		c.hash(&k.scope)
	}
}

func (c *coder) endpoint(e *endpoint) {
	c.anyAddress(&e.addr)
	c.u16(&e.port)
}

// code writes or reads the value of an entry, whose sides and link are m's.
func (m *Machine) code(c *coder, e *entry) {
	c.state(&e.key)
	c.base = 0
	c.time(&e.first)
	c.base = e.first
	c.hash(&e.origin)
	c.time(&e.deadline)
	c.u64(&e.seq)
	c.u32(&e.version)
	c.u32(&e.told)
	c.u64(&e.reported)
	q, o := uint16(e.quality), uint8(e.opener)
	c.u16(&q)
	c.u8(&o)
	e.quality, e.opener = quality(q), opener(int8(o))
	c.u8(&e.icmpCode)
	c.u32(&e.asLo)
	c.u32(&e.asHi)
	linked := e.link != 0 && (c.reading || !m.links.at(e.link).isEmpty())
	if c.flag(&linked); linked {
		if c.reading {
			e.link = m.links.alloc()
			*m.links.at(e.link) = link{}
		}
		m.links.at(e.link).code(c)
	}
	c.u8(&e.identN)
	for i := range min(int(e.identN), keptIdents) {
		c.hash(&e.idents[i])
	}
	n := uint16(0)
	for i := e.sides; i != 0; i = m.sides.at(i).next {
		n++
	}
	c.u16(&n)
	if c.reading {
		m.readSides(c, e, n)
		return
	}
	for i := e.sides; i != 0; i = m.sides.at(i).next {
		s := m.sides.at(i)
		v := m.vantages.of.at(s.vantage).vantage
		c.vantage(&v)
		s.code(c, s.state == endSoft && m.heldIdle(e))
	}
}

// heldIdle reports whether e is held for PAIR_IDLE though an exporter says that it is
// idle, and is written in format 2. The version that reads format 2 alone takes a
// connection of two idle directions for complete: its deadline of PAIR_IDLE would stand
// before those of PAIR_LINGER in one queue, and keep them from being reported.
func (m *Machine) heldIdle(e *entry) bool {
	return m.c.format() == 2 && e.key.Proto == flowkey.TCP && !m.complete(e)
}

// endState is how a direction stands. Of a connection that is held, idle is written as
// endOpen, in a varint that is longer than it must be: a version that takes such a
// connection for complete reads that it goes on.
func (c *coder) endState(v *end, held bool) {
	const first, second = 0x80 | byte(endOpen), 0
	switch {
	case held:
		c.b = append(c.b, first, second)
	case c.reading && len(c.b) >= 2 && c.b[0] == first && c.b[1] == second:
		*v, c.b = endSoft, c.b[2:]
	default:
		c.u8((*uint8)(v))
	}
}

// readSides reads n sides. A version without maxSides wrote more than that.
func (m *Machine) readSides(c *coder, e *entry, n uint16) {
	var toHi, toLo int
	for range n {
		var v vantage
		if c.vantage(&v); c.short {
			return
		}
		s := m.newSide(e, v)
		s.code(c, false)
		of := &toLo
		if s.toHi {
			of = &toHi
		}
		if *of++; *of > maxSides {
			m.mergeFirst(e)
			*of = maxSides
		}
	}
}

func (c *coder) vantage(v *vantage) {
	c.anyAddress(&v.exporter)
	c.u32(&v.domain)
	c.u8(&v.iface)
}

func (l *link) code(c *coder) {
	c.endpoint(&l.natLo)
	c.endpoint(&l.natHi)
	c.u64(&l.macLo)
	c.u64(&l.macHi)
	for _, v := range [...]*uint32{&l.toHi.in, &l.toHi.out, &l.toLo.in, &l.toLo.out} {
		c.u32(v)
	}
	c.u64(&l.app.id)
	c.u8(&l.app.n)
}

func (s *side) code(c *coder, held bool) {
	c.flag(&s.toHi)
	c.u64(&s.octets)
	c.u64(&s.packets)
	c.u64(&s.octetsE)
	c.u64(&s.packsE)
	c.u32(&s.rateMin)
	c.u32(&s.rateMax)
	c.u32(&s.records)
	c.u16(&s.flags)
	c.time(&s.start)
	c.time(&s.end)
	c.u16((*uint16)(&s.resolution))
	c.u16((*uint16)(&s.fine))
	c.hash(&s.datagram)
	c.u8(&s.reason)
	c.endState(&s.state, held)
	c.u32(&s.inIf)
	c.u32(&s.outIf)
	c.u8(&s.tos)
	c.u16(&s.vlan)
}
