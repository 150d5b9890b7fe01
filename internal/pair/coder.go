package pair

import (
	"encoding/binary"

	"weir/internal/flowkey"
)

// A coder writes or reads an entry's value, field by field in one order for
// both: fixed width, network order.
type coder struct {
	b       []byte
	reading bool
	short   bool // reading: ran out
}

// take returns the next n octets to read, or n new ones to write.
func (c *coder) take(n int) []byte {
	if c.reading {
		if len(c.b) < n {
			c.short = true
			c.b = nil
			return make([]byte, n)
		}
		b := c.b[:n]
		c.b = c.b[n:]
		return b
	}
	c.b = append(c.b, make([]byte, n)...)
	return c.b[len(c.b)-n:]
}

func (c *coder) u64(v *uint64) {
	if b := c.take(8); c.reading {
		*v = binary.BigEndian.Uint64(b)
	} else {
		binary.BigEndian.PutUint64(b, *v)
	}
}

func (c *coder) u32(v *uint32) {
	if b := c.take(4); c.reading {
		*v = binary.BigEndian.Uint32(b)
	} else {
		binary.BigEndian.PutUint32(b, *v)
	}
}

func (c *coder) u16(v *uint16) {
	if b := c.take(2); c.reading {
		*v = binary.BigEndian.Uint16(b)
	} else {
		binary.BigEndian.PutUint16(b, *v)
	}
}

func (c *coder) u8(v *uint8) {
	if b := c.take(1); c.reading {
		*v = b[0]
	} else {
		b[0] = *v
	}
}

func (c *coder) i64(v *int64) {
	u := uint64(*v)
	c.u64(&u)
	*v = int64(u)
}

func (c *coder) flag(v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.u8(&u)
	*v = u != 0
}

func (c *coder) bytes(v []byte) {
	if b := c.take(len(v)); c.reading {
		copy(v, b)
	} else {
		copy(b, v)
	}
}

func (c *coder) key(k *flowkey.Key) {
	c.bytes(k.Lo[:])
	c.bytes(k.Hi[:])
	c.u16(&k.LoPort)
	c.u16(&k.HiPort)
	c.u8(&k.Proto)
	c.flag(&k.V6)
}

func (c *coder) endpoint(e *endpoint) {
	c.bytes(e.addr[:])
	c.u16(&e.port)
}

func (c *coder) state(k *stateKey) {
	c.key(&k.Key)
	c.u64(&k.scope)
}

// code writes or reads the value of an entry, whose sides and link are m's.
func (m *Machine) code(c *coder, e *entry) {
	c.state(&e.key)
	c.u64(&e.origin)
	c.i64(&e.deadline)
	c.u64(&e.seq)
	c.u32(&e.version)
	c.i64(&e.first)
	c.u32(&e.told)
	c.u64(&e.reported)
	q, i := uint16(e.quality), uint8(e.initiator)
	c.u16(&q)
	c.u8(&i)
	e.quality, e.initiator = quality(q), int8(i)
	c.u8(&e.icmpCode)
	c.u32(&e.asLo)
	c.u32(&e.asHi)
	linked := e.link != 0
	if c.flag(&linked); linked {
		if c.reading {
			e.link = m.links.alloc()
			*m.links.at(e.link) = link{}
		}
		l := m.links.at(e.link)
		c.endpoint(&l.natLo)
		c.endpoint(&l.natHi)
		c.u64(&l.macLo)
		c.u64(&l.macHi)
		for _, v := range []*uint32{&l.toHi.in, &l.toHi.out, &l.toLo.in, &l.toLo.out} {
			c.u32(v)
		}
		c.u64(&l.app.id)
		c.u8(&l.app.n)
	}
	c.u8(&e.identN)
	for i := range min(int(e.identN), keptIdents) {
		c.u64(&e.idents[i])
	}
	if !c.reading {
		n := uint16(0)
		for i := e.sides; i != 0; i = m.sides.at(i).next {
			n++
		}
		c.u16(&n)
		for i := e.sides; i != 0; i = m.sides.at(i).next {
			s := m.sides.at(i)
			v := m.vantages.of.at(s.vantage).vantage
			c.vantage(&v)
			s.code(c)
		}
		return
	}
	var n uint16
	c.u16(&n)
	for range n {
		var v vantage
		if c.vantage(&v); c.short {
			return
		}
		m.newSide(e, v).code(c)
	}
}

func (c *coder) vantage(v *vantage) {
	c.bytes(v.exporter[:])
	c.u32(&v.domain)
	c.u8(&v.iface)
}

func (s *side) code(c *coder) {
	c.flag(&s.toHi)
	c.u64(&s.octets)
	c.u64(&s.packets)
	c.u64(&s.octetsE)
	c.u64(&s.packsE)
	c.u32(&s.rateMin)
	c.u32(&s.rateMax)
	c.u32(&s.records)
	c.u16(&s.flags)
	c.i64(&s.start)
	c.i64(&s.end)
	c.u16((*uint16)(&s.resolution))
	c.u16((*uint16)(&s.fine))
	c.u64(&s.datagram)
	c.u8(&s.reason)
	c.u8((*uint8)(&s.state))
	c.u32(&s.inIf)
	c.u32(&s.outIf)
	c.u8(&s.tos)
	c.u16(&s.vlan)
}
