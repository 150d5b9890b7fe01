package query

import (
	"encoding/binary"
	"errors"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
	"weir/pkg/flowpb"
)

// A Reader scans messages of a Schema. It is used by one goroutine at a time.
//
// Fields must be added by Slot before the first Read.
type Reader struct {
	schema   *Schema
	top      [maxNumber]int16             // by field number: index in Row.values + 1; 0: not needed
	nested   [maxNumber]*[maxNumber]int16 // likewise for messages within the message
	large    []largeField                 // fields with numbers from maxNumber on
	slots    map[*Field]Slot
	elements []wanted
	row      Row
}

// maxNumber bounds the field numbers of the messages.
const maxNumber = 512

// A largeField is a field with a number from maxNumber on: one that the operator added.
type largeField struct {
	number protowire.Number
	index  int16 // in Row.values + 1
}

// A wanted is an Information Element that the Reader looks for.
type wanted struct {
	element
	index int
}

// A Row holds the values of a message that were asked for. It and the octets that it refers to are valid until the next
// Read.
type Row struct {
	values []value
	parts  [maxParts]uint64 // of a derived field
}

// A value is a field's value: a number, or octets.
type value struct {
	number uint64
	octets []byte
	has    bool
}

// A Slot gives access to a field in a Row.
type Slot struct {
	Field *Field
	index int
	parts []int
}

// NewReader returns a Reader for messages of schema.
func NewReader(schema *Schema) *Reader { return &Reader{schema: schema, slots: map[*Field]Slot{}} }

// Slot adds a field, once, and returns its Slot.
func (r *Reader) Slot(f *Field) Slot {
	if s, ok := r.slots[f]; ok {
		return s
	}
	s := Slot{Field: f, index: -1}
	switch {
	case len(f.parts) > 0:
		for _, name := range f.parts {
			s.parts = append(s.parts, r.Slot(r.schema.fields[name]).index)
		}
	default:
		s.index = len(r.row.values)
		r.row.values = append(r.row.values, value{})
		switch {
		case f.ie != nil:
			r.elements = append(r.elements, wanted{*f.ie, s.index})
		case f.path[0] >= maxNumber:
			r.large = append(r.large, largeField{f.path[0], int16(s.index + 1)})
		case f.path[1] == 0:
			r.top[f.path[0]] = int16(s.index + 1)
		default:
			in := r.nested[f.path[0]]
			if in == nil {
				in = &[maxNumber]int16{}
				r.nested[f.path[0]] = in
			}
			in[f.path[1]] = int16(s.index + 1)
		}
	}
	r.slots[f] = s
	return s
}

var errMalformed = errors.New("not a protobuf message")

// Read scans a message. It fails if the octets are not a protobuf message; the Row then holds the fields before the
// error. It does not allocate.
func (r *Reader) Read(wire []byte) (*Row, error) {
	clear(r.row.values)
	return &r.row, r.read(wire, &r.top, true)
}

func (r *Reader) read(b []byte, indexes *[maxNumber]int16, outer bool) error {
	for i := 0; i < len(b); {
		tag, n := varint(b[i:])
		if n == 0 || tag>>3 == 0 || tag>>3 > uint64(protowire.MaxValidNumber) {
			return errMalformed
		}
		i += n
		number, typ := protowire.Number(tag>>3), protowire.Type(tag&7)
		if typ != protowire.BytesType {
			if n = r.readNumber(b[i:], number, typ, indexes); n < 0 {
				return errMalformed
			}
			i += n
			continue
		}
		length, n := varint(b[i:])
		i += n
		if n == 0 || length > uint64(len(b)-i) {
			return errMalformed
		}
		octets := b[i : i+int(length)]
		i += int(length)
		if index := r.index(number, indexes); index != 0 {
			r.row.values[index-1] = value{octets: octets, has: true}
		}
		if !outer || number >= maxNumber {
			continue
		}
		if in := r.nested[number]; in != nil {
			if err := r.read(octets, in, false); err != nil {
				return err
			}
		}
		if len(r.elements) > 0 && number == flowpb.FlowMessage_Elements_FieldNumber {
			if err := r.readElement(octets); err != nil {
				return err
			}
		}
	}
	return nil
}

// varint returns the number at the start of b and its length; length 0: there is none.
func varint(b []byte) (v uint64, length int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	}
	v, length = protowire.ConsumeVarint(b)
	return v, max(length, 0)
}

// index returns the index of a field in Row.values + 1; 0: it is not needed.
func (r *Reader) index(number protowire.Number, indexes *[maxNumber]int16) int16 {
	if number < maxNumber {
		return indexes[number]
	}
	for _, l := range r.large {
		if l.number == number && indexes == &r.top {
			return l.index
		}
	}
	return 0
}

// readNumber reads a value that is not of the type bytes, and returns its length; negative: it is malformed.
func (r *Reader) readNumber(b []byte, number protowire.Number, typ protowire.Type, indexes *[maxNumber]int16) int {
	i := r.index(number, indexes)
	v, n := uint64(0), 0
	switch typ {
	case protowire.VarintType:
		if i == 0 {
			return skipVarint(b)
		}
		if v, n = varint(b); n == 0 {
			n = -1
		}
	case protowire.Fixed64Type:
		v, n = protowire.ConsumeFixed64(b)
	case protowire.Fixed32Type:
		var v32 uint32
		v32, n = protowire.ConsumeFixed32(b)
		v = uint64(v32)
	default:
		return protowire.ConsumeFieldValue(number, typ, b)
	}
	if n >= 0 && i != 0 {
		r.row.values[i-1] = value{number: v, has: true}
	}
	return n
}

// skipVarint returns the length of the number at the start of b; negative: there is none.
func skipVarint(b []byte) int {
	for n := range min(len(b), 10) {
		if b[n] < 0x80 {
			if n == 9 && b[n] > 1 {
				return -1 // beyond 64 bits
			}
			return n + 1
		}
	}
	return -1
}

// readElement notes the value of an Information Element that is wanted. The first of several values counts.
func (r *Reader) readElement(b []byte) error {
	var pen, id uint64
	var octets []byte
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		switch {
		case number == flowpb.Element_Pen_FieldNumber && typ == protowire.VarintType:
			pen, n = protowire.ConsumeVarint(b)
		case number == flowpb.Element_Id_FieldNumber && typ == protowire.VarintType:
			id, n = protowire.ConsumeVarint(b)
		case number == flowpb.Element_Value_FieldNumber && typ == protowire.BytesType:
			octets, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, typ, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
	}
	for _, w := range r.elements {
		if v := &r.row.values[w.index]; uint64(w.pen) == pen && uint64(w.id) == id && !v.has {
			*v = elementValue(w.typ, octets)
		}
	}
	return nil
}

// elementValue returns the value of an element from its octets. Numbers may be encoded in fewer octets than their type
// has (RFC 7011 section 6.2).
func elementValue(typ ie.Type, octets []byte) value {
	v := value{octets: octets, has: true}
	switch typ {
	case ie.Unsigned, ie.Signed, ie.Boolean, ie.MacAddress, ie.Seconds, ie.Milliseconds, ie.Microseconds, ie.Nanoseconds:
		if len(octets) > 8 {
			return value{}
		}
		for _, o := range octets {
			v.number = v.number<<8 | uint64(o)
		}
		if typ == ie.Signed && len(octets) > 0 && len(octets) < 8 && octets[0]&0x80 != 0 {
			v.number |= math.MaxUint64 << (8 * len(octets))
		}
	}
	return v
}

// maxParts bounds the number of inputs of a derived field.
const maxParts = 4

// Uint returns the number of a slot; 0 if the message does not have it. A MAC address is a number, too.
func (r *Row) Uint(s Slot) uint64 {
	if s.index >= 0 {
		v := &r.values[s.index]
		if s.Field.Kind == MAC && len(v.octets) == 6 {
			return uint64(binary.BigEndian.Uint16(v.octets))<<32 | uint64(binary.BigEndian.Uint32(v.octets[2:]))
		}
		return v.number
	}
	if s.Field.from == nil {
		return 0
	}
	return s.Field.from(r.partsOf(s))
}

// partsOf returns the inputs of a derived field. They are valid until its next call.
func (r *Row) partsOf(s Slot) []uint64 {
	for i, index := range s.parts {
		r.parts[i] = r.values[index].number
	}
	return r.parts[:len(s.parts)]
}

// Octets returns the octets of an address, a text or octets; nil if the message does not have them. They must not be
// changed.
func (r *Row) Octets(s Slot) []byte {
	if s.index >= 0 {
		return r.values[s.index].octets
	}
	return nil
}

// Text returns a text. That of a derived field is not copied.
func (r *Row) Text(s Slot) string {
	if s.index >= 0 || s.Field.text == nil {
		return string(r.Octets(s))
	}
	return s.Field.text(r.partsOf(s))
}

// Has reports whether the message has the field. A derived field is there if one of its parts is.
func (r *Row) Has(s Slot) bool {
	if s.index >= 0 {
		return r.values[s.index].has
	}
	for _, index := range s.parts {
		if r.values[index].has {
			return true
		}
	}
	return false
}
