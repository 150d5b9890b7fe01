package report

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/cli/console"
	"weir/pkg/flowpb"
)

// fields writes the present fields of m as JSON members: names as in the .proto file, addresses as text, enums by
// name, integers of 64 bits as flowpb.JSONString decides. Lists within a flow are decoded with the
// templates of of, which may be nil.
func (j *jsonLine) fields(m protoreflect.Message, of Templates) {
	list := m.Descriptor().Fields()
	for i := range list.Len() {
		fd := list.Get(i)
		if !m.Has(fd) {
			continue
		}
		j.key(string(fd.Name()))
		v := m.Get(fd)
		if !fd.IsList() {
			j.field(m, fd, v, of)
			continue
		}
		j.open('[')
		for k := range v.List().Len() {
			j.field(m, fd, v.List().Get(k), of)
		}
		j.close(']')
	}
	eachOperatorField(m, func(name string, v operatorValue) {
		j.key(name)
		v.json(j)
	})
}

func (j *jsonLine) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, v protoreflect.Value, of Templates) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		j.open('{')
		if e, ok := v.Message().Interface().(*flowpb.Element); ok {
			r := of.flow(m)
			j.element(e.GetPen(), uint16(e.GetId()), lookupDefined(r.v9, e), e.GetValue(), r)
			if e.GetName() != "" {
				j.key("type")
				j.uint(uint64(e.GetType()))
			}
		} else {
			j.fields(v.Message(), of)
		}
		j.close('}')
	case protoreflect.BoolKind:
		j.bool(v.Bool())
	case protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		switch {
		case flowpb.JSONString(fd):
			j.text(scalarText(fd, v))
		case fd.Kind() == protoreflect.Int64Kind:
			j.int(v.Int())
		default:
			j.uint(v.Uint())
		}
	case protoreflect.EnumKind:
		if fd.Enum().Values().ByNumber(v.Enum()) == nil {
			j.int(int64(v.Enum()))
			return
		}
		j.text(scalarText(fd, v))
	default:
		j.text(scalarText(fd, v))
	}
}

// scalarText formats the value of a scalar field as text.
func scalarText(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch fd.Kind() {
	case protoreflect.BytesKind:
		switch flowpb.FormOf(fd) {
		case flowpb.Address:
			return addressText(v.Bytes())
		case flowpb.MAC:
			return macText(v.Bytes())
		}
		return hex.EncodeToString(v.Bytes())
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return strconv.Itoa(int(v.Enum()))
	case protoreflect.Uint64Kind:
		if flowpb.FormOf(fd) == flowpb.MAC {
			return macText(binary.BigEndian.AppendUint64(nil, v.Uint())[2:])
		}
	}
	return v.String()
}

// isV9 reports whether m is a flow of NetFlow v9, whose field types have their own names (RFC 3954 section 8).
func isV9(m protoreflect.Message) bool {
	f, ok := m.Interface().(*flowpb.FlowMessage)
	return ok && f.GetType() == flowpb.FlowMessage_NETFLOW_V9
}

// element writes the number and name of an element, its octets as hexadecimal text, and their value by the data
// type of the element.
func (j *jsonLine) element(pen uint32, id uint16, x named, octets []byte, r listReader) {
	j.key("pen")
	j.uint(uint64(pen))
	j.key("id")
	j.uint(uint64(id))
	if x.known {
		j.key("name")
		j.text(x.name)
	}
	j.key("value")
	j.text(hex.EncodeToString(octets))
	if l := r.read(x, id, octets); l != nil {
		j.key("decoded")
		j.list(l, r.deeper())
	} else if v := readValue(x.typ, octets); !v.raw {
		j.key("decoded")
		v.json(j)
	}
}

// appendFields appends the present fields of m as " name=value" for people, except the fields in shown. Times are
// printed as instants.
func appendFields(b []byte, m protoreflect.Message, shown map[protoreflect.Name]bool, of Templates) []byte {
	list := m.Descriptor().Fields()
	for i := range list.Len() {
		fd := list.Get(i)
		if shown[fd.Name()] || !m.Has(fd) {
			continue
		}
		v := m.Get(fd)
		if !fd.IsList() {
			b = append(append(b, ' '), fd.Name()...)
			b = append(append(b, '='), pairText(fd, v)...)
			continue
		}
		if fd.Kind() == protoreflect.MessageKind {
			for k := range v.List().Len() {
				if e, ok := v.List().Get(k).Message().Interface().(*flowpb.Element); ok {
					r := of.flow(m)
					b = r.appendPair(append(b, ' '), lookupDefined(r.v9, e), uint16(e.GetId()), e.GetValue())
				}
			}
			continue
		}
		b = append(append(b, ' '), fd.Name()...)
		for k := range v.List().Len() {
			separator := byte(',')
			if k == 0 {
				separator = '='
			}
			b = append(append(b, separator), pairText(fd, v.List().Get(k))...)
		}
	}
	eachOperatorField(m, func(name string, v operatorValue) {
		b = append(append(append(append(b, ' '), name...), '='), v.String()...)
	})
	return b
}

func pairText(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if strings.HasSuffix(string(fd.Name()), "_ns") && fd.Kind() == protoreflect.Uint64Kind {
		return timeText(time.Unix(0, int64(v.Uint())))
	}
	return console.Quote(scalarText(fd, v))
}
