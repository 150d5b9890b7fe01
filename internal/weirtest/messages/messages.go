// Package messages fills messages with values for tests.
package messages

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// Filled returns a message with a value in each field that is not repeated. An octet of seed decides each; 0 leaves the
// field unset.
func Filled(seed []byte) *flowpb.FlowMessage {
	m := &flowpb.FlowMessage{}
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	next := func() uint64 {
		if len(seed) == 0 {
			return 0
		}
		v := uint64(seed[0])
		seed = seed[1:]
		return v * v * v * 977 % 70_001
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() {
			continue
		}
		v := next()
		if v == 0 {
			continue
		}
		switch f.Kind() {
		case protoreflect.BoolKind:
			r.Set(f, protoreflect.ValueOfBool(true))
		case protoreflect.EnumKind:
			r.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(v%8)))
		case protoreflect.Uint32Kind:
			r.Set(f, protoreflect.ValueOfUint32(uint32(v)))
		case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
			r.Set(f, protoreflect.ValueOfUint64(v<<(v%40)))
		case protoreflect.StringKind:
			r.Set(f, protoreflect.ValueOfString(string(rune('a'+v%26))))
		case protoreflect.BytesKind:
			b := make([]byte, []int{4, 16}[v%2])
			b[len(b)-1], b[0] = byte(v), 10
			r.Set(f, protoreflect.ValueOfBytes(b))
		}
	}
	return m
}
