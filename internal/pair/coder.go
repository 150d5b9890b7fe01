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

// code writes or reads the value of an entry.
func (e *entry) code(c *coder) {
	c.key(&e.key)
	c.bytes(e.id[:])
	c.i64(&e.deadline)
	c.u64(&e.seq)
	c.u32(&e.version)
	c.i64(&e.first)
	c.i64(&e.told)
	q, i := uint16(e.quality), uint8(e.initiator)
	c.u16(&q)
	c.u8(&i)
	e.quality, e.initiator = quality(q), int8(i)
	c.u8(&e.icmpCode)
	nat := e.natLo != endpoint{} || e.natHi != endpoint{}
	if c.flag(&nat); nat {
		c.endpoint(&e.natLo)
		c.endpoint(&e.natHi)
	}
	link := e.macLo|e.macHi != 0 || e.asLo|e.asHi != 0
	if c.flag(&link); link {
		c.u64(&e.macLo)
		c.u64(&e.macHi)
		c.u32(&e.asLo)
		c.u32(&e.asHi)
	}
	c.u8(&e.identN)
	for i := range min(int(e.identN), keptIdents) {
		c.u64(&e.idents[i])
	}
	n := uint16(len(e.sides))
	c.u16(&n)
	for i := range int(n) {
		if c.short {
			return
		}
		if c.reading {
			e.sides = append(e.sides, side{})
		}
		e.sides[i].code(c)
	}
}

func (s *side) code(c *coder) {
	c.flag(&s.toHi)
	c.bytes(s.exporter[:])
	c.u32(&s.domain)
	c.u8(&s.iface)
	for _, v := range []*uint64{&s.octets, &s.packets, &s.octetsE, &s.packsE, &s.rateMin, &s.rateMax} {
		c.u64(v)
	}
	c.u32(&s.records)
	c.u16(&s.flags)
	for _, v := range []*int64{&s.start, &s.end, &s.resolution, &s.fine} {
		c.i64(v)
	}
	c.u64(&s.datagram)
	c.u8(&s.reason)
	c.u8((*uint8)(&s.state))
	c.u32(&s.inIf)
	c.u32(&s.outIf)
	c.u8(&s.tos)
	c.u16(&s.vlan)
}
