package pair

import (
	"encoding/binary"
	"math"

	"weir/internal/flowkey"
)

// A coder writes or reads the logged value of an entry. The same methods do both, so that the order of fields cannot
// differ between writing and reading. Numbers are varints, times are relative to the first record of the entry,
// hashes and addresses are octets in network order.
//
// While reading, an error sets short and empties b; later reads then set zero values. The caller must check short.
//
// Examples: the number 300 is AC 02 (7 bits per octet, the lowest first, the high bit set if another octet follows). A
// time 1 ns after base is 02, a time 1 ns before it is 01, and base is 00.
type coder struct {
	b       []byte
	reading bool
	short   bool  // reading: the input is too short, or a number too large
	base    int64 // of times, ns since the epoch
}

// octets writes or reads len(v) octets. While reading, v must have the expected length; on an error it is left
// unchanged.
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

// number writes v, or reads a number that must be at most most.
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

// u64, u32, u16 and u8 write or read a number. Reading a number that exceeds the type sets short.
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

// small writes a number below 0x80, if b has room for it. It returns false, without an effect, otherwise or when
// reading. It is the common case, inlined.
func (c *coder) small(v uint64) bool {
	if c.reading || v >= 0x80 || len(c.b) == cap(c.b) {
		return false
	}
	c.b = c.b[:len(c.b)+1]
	c.b[len(c.b)-1] = byte(v)
	return true
}

// time writes or reads a time relative to base, ns, as a zigzag varint.
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

// prefixed reads a length of 4 octets and returns a reader of the octets that it delimits. The reader shares the octets
// of c and skips them in c.
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

// blob reads a length and returns the octets that it delimits. They are a part of the input: the caller must copy
// them if it keeps them.
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

// hash writes or reads 8 octets.
func (c *coder) hash(v *uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], *v)
	c.octets(b[:])
	*v = binary.BigEndian.Uint64(b[:])
}

// flag writes or reads a bool as 0 or 1. It reads every number but 0 as true.
func (c *coder) flag(v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.u8(&u)
	*v = u != 0
}

// address writes or reads 16 octets, or 4 if v4. A caller that reads IPv4 must pass a zero address: address sets only
// the octets of the ::ffff:0:0/96 mapping.
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

// anyAddress writes or reads an address after a flag for IPv4.
func (c *coder) anyAddress(a *[16]byte) {
	v4 := flowkey.IsV4(a)
	c.flag(&v4)
	c.address(a, v4)
}

// state writes or reads a key: the addresses of IPv4 take 4 octets each, a global scope takes only its flag.
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

// endpoint writes or reads an address and a port; zero stands for an unset part.
func (c *coder) endpoint(e *endpoint) {
	c.anyAddress(&e.addr)
	c.u16(&e.port)
}

// code writes or reads the logged value of an entry. Reading allocates its sides and its link in the pools of m; after
// an error they are not released, so that the machine must not be used. The order of the fields is the format: a new
// field must be an extension (see FirstFormat), never an insertion here.
func (m *Machine) code(c *coder, e *entry) {
	c.state(&e.key)
	c.base = 0
	c.time(&e.first)
	c.base = e.first
	c.hash(&e.origin)
	c.time(&e.deadline)
	c.u64(&e.seq)
	c.u32(&e.version)
	c.u32(&e.reportTicks)
	c.u64(&e.reported)
	q, o := uint16(e.quality), uint8(e.opener)
	c.u16(&q)
	c.u8(&o)
	e.quality, e.opener = quality(q), opener(int8(o))
	c.u8(&e.icmpCode)
	c.u32(&e.asLo)
	c.u32(&e.asHi)
	linked := e.link != 0 && (c.reading || !m.links.ref(e.link).isEmpty())
	if c.flag(&linked); linked {
		if c.reading {
			e.link = m.links.alloc()
			*m.links.ref(e.link) = link{}
		}
		m.links.ref(e.link).code(c)
	}
	c.u8(&e.identN)
	for i := range min(int(e.identN), keptIdents) {
		c.hash(&e.idents[i])
	}
	n := uint16(0)
	for i := e.sides; i != 0; i = m.sides.ref(i).next {
		n++
	}
	c.u16(&n)
	if c.reading {
		m.readSides(c, e, n)
		return
	}
	for i := e.sides; i != 0; i = m.sides.ref(i).next {
		s := m.sides.ref(i)
		v := m.points.pool.ref(s.point).observationPoint
		c.observationPoint(&v)
		s.code(c, s.state == endSoft && m.heldIdle(e))
	}
}

// heldIdle reports whether an idle side of e must be written in the special form of endState: in format 2, for a TCP
// connection that stays open for PAIR_IDLE although its exporter reported it as idle. Versions that read only format 2
// treat a connection with two idle directions as complete. Its deadline, of PAIR_IDLE, would enter their queue of
// PAIR_LINGER and delay the reports of the connections behind it.
func (m *Machine) heldIdle(e *entry) bool {
	return m.c.format() == 2 && e.key.Proto == flowkey.TCP && !m.complete(e)
}

// endState writes or reads the end state of a direction. With held, endSoft is written as endOpen in an overlong
// varint of two octets, 0x81 0x00: older versions read endOpen from it, this version endSoft.
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

// readSides reads n sides into e. A version without maxSides may have written more: they are merged down to maxSides.
// The order of the sides is reversed by each restore. No result may depend on it.
func (m *Machine) readSides(c *coder, e *entry, n uint16) {
	var toHi, toLo int
	for range n {
		var v observationPoint
		if c.observationPoint(&v); c.short {
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

// observationPoint writes or reads the identity of an observation point. Numbers of observation points must not be
// logged: they differ between members.
func (c *coder) observationPoint(v *observationPoint) {
	c.anyAddress(&v.exporter)
	c.u32(&v.domain)
	c.u8(&v.iface)
}

// code writes or reads the logged value of a link, without events, which have an extension.
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

// code writes or reads the logged value of a side, without its observation point. For held see endState.
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
