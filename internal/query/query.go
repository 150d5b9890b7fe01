// Package query answers questions about flows and connections: it filters them by an expression. docs/filter.md
// describes the language.
//
// A Schema lists the fields of a message. A Reader scans the protobuf octets of a message once and notes in a Row the
// fields that a question needs. A Filter is a parsed expression; compiled for a Reader, it tells which Rows match.
package query

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/ie"
	"weir/pkg/flowpb"
)

// A Kind is the kind of a field's values.
type Kind uint8

// The kinds. A Number may be a counter, an enumeration or a boolean.
const (
	Number Kind = iota
	Signed
	Address // 4 or 16 octets
	MAC     // low 48 bits of a number, or 6 octets
	Text
	Octets
	Time // ns since the epoch
)

// A Field is a field of a Schema.
type Field struct {
	Name  string
	Kind  Kind
	path  path                        // of the field in the message; empty: derived
	enum  protoreflect.EnumDescriptor // of an enumeration; nil: none
	parts []string                    // inputs of a derived field
	from  func(parts []uint64) uint64 // the value of a derived field
	text  func(parts []uint64) string // the value of a derived text
	ie    *element                    // Information Element that the message carries as octets
}

// A path is the sequence of field numbers from the message to a field. The second is 0 for a field of the message
// itself.
type path [2]protowire.Number

// An element identifies an Information Element.
type element struct {
	pen uint32
	id  uint16
	typ ie.Type
}

// A Schema is the set of fields of a message.
type Schema struct {
	Name   string // "flow", "connection"
	fields map[string]*Field
	names  []string // of fields, in the order of the message
	ends   map[string]ends
}

// Names returns the names of the fields in the order of the message; derived fields come last.
func (s *Schema) Names() []string { return s.names }

// Lookup returns the field of the given name: that of the message's field, with a dot between a side and its field
// ("forward.octets"), of a derived field, or of an Information Element that flows carry as octets.
func (s *Schema) Lookup(name string) (f *Field, ok bool) {
	if f, ok = s.fields[strings.ToLower(name)]; ok {
		return f, true
	}
	if s != Flows() {
		return nil, false
	}
	return lookupElement(name)
}

// Flows returns the schema of FlowMessage.
var Flows = sync.OnceValue(func() *Schema {
	s := newSchema("flow", (&flowpb.FlowMessage{}).ProtoReflect().Descriptor())
	s.derive("duration", []string{"time_flow_start_ns", "time_flow_end_ns"}, duration)
	s.derive("bps", []string{"bytes", "time_flow_start_ns", "time_flow_end_ns"}, bitRate)
	s.derive("pps", []string{"packets", "time_flow_start_ns", "time_flow_end_ns"}, packetRate)
	s.derive("bpp", []string{"bytes", "packets"}, octetsPerPacket)
	s.deriveText("service", []string{"proto", "src_port", "dst_port"}, flowService)
	s.alias("octets", "bytes")
	s.alias("rate", "bps")
	s.alias("exporter", "sampler_address")
	s.ends = flowEnds
	return s
})

// Connections returns the schema of Connection.
var Connections = sync.OnceValue(func() *Schema {
	s := newSchema("connection", (&flowpb.Connection{}).ProtoReflect().Descriptor())
	s.derive("octets", []string{"forward.octets", "reverse.octets"}, sum)
	s.derive("packets", []string{"forward.packets", "reverse.packets"}, sum)
	s.derive("flows", []string{"forward.records", "reverse.records"}, sum)
	s.derive("tcp_flags", []string{"forward.tcp_flags", "reverse.tcp_flags"}, or)
	s.derive("sampling_rate", []string{"forward.sampling_rate_max", "reverse.sampling_rate_max"}, greatest)
	s.derive("duration", []string{"start_unix_ns", "end_unix_ns"}, duration)
	s.derive("bps", []string{"forward.octets", "reverse.octets", "start_unix_ns", "end_unix_ns"}, func(p []uint64) uint64 {
		return bitRate([]uint64{p[0] + p[1], p[2], p[3]})
	})
	both := []string{"forward.packets", "reverse.packets", "start_unix_ns", "end_unix_ns"}
	s.derive("pps", both, func(p []uint64) uint64 {
		return packetRate([]uint64{p[0] + p[1], p[2], p[3]})
	})
	both = []string{"forward.octets", "reverse.octets", "forward.packets", "reverse.packets"}
	s.derive("bpp", both, func(p []uint64) uint64 {
		return octetsPerPacket([]uint64{p[0] + p[1], p[2] + p[3]})
	})
	s.alias("bytes", "octets")
	s.alias("rate", "bps")
	s.alias("proto", "protocol")
	s.ends = connectionEnds
	return s
})

// newSchema returns the schema of a message: its scalar fields, and those of its sides.
func newSchema(name string, d protoreflect.MessageDescriptor) *Schema {
	s := &Schema{Name: name, fields: map[string]*Field{}}
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		switch {
		case fd.IsList():
		case fd.Kind() == protoreflect.MessageKind:
			sub := fd.Message().Fields()
			for k := range sub.Len() {
				if in := sub.Get(k); !in.IsList() && in.Kind() != protoreflect.MessageKind {
					s.add(newField(string(fd.Name())+"."+string(in.Name()), in, path{fd.Number(), in.Number()}))
				}
			}
		default:
			s.add(newField(string(fd.Name()), fd, path{fd.Number()}))
		}
	}
	return s
}

func newField(name string, fd protoreflect.FieldDescriptor, p path) *Field {
	f := &Field{Name: name, path: p}
	switch {
	case flowpb.FormOf(fd) == flowpb.Address:
		f.Kind = Address
	case flowpb.FormOf(fd) == flowpb.MAC:
		f.Kind = MAC
	case fd.Kind() == protoreflect.StringKind:
		f.Kind = Text
	case fd.Kind() == protoreflect.BytesKind:
		f.Kind = Octets
	case strings.HasSuffix(name, "_ns"):
		f.Kind = Time
	case fd.Kind() == protoreflect.EnumKind:
		f.enum = fd.Enum()
	}
	return f
}

func (s *Schema) add(f *Field) {
	s.fields[strings.ToLower(f.Name)] = f
	s.names = append(s.names, f.Name)
}

// alias gives a field a second name.
func (s *Schema) alias(name, of string) { s.fields[name] = s.fields[of] }

func (s *Schema) derive(name string, parts []string, from func([]uint64) uint64) {
	s.add(&Field{Name: name, Kind: Number, parts: parts, from: from})
}

func (s *Schema) deriveText(name string, parts []string, text func([]uint64) string) {
	s.add(&Field{Name: name, Kind: Text, parts: parts, text: text})
}
