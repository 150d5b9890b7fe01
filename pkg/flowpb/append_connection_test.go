package flowpb_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// stuff sets fields of a message, and of the messages in it, to values derived from seed.
func stuff(r protoreflect.Message, seed *[]byte) {
	next := func() uint64 {
		if len(*seed) == 0 {
			return 1
		}
		v := uint64((*seed)[0])
		*seed = (*seed)[1:]
		return v
	}
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		v := next()
		if v%5 == 0 {
			continue
		}
		big := v << (v % 56)
		switch {
		case f.IsList():
			l := r.Mutable(f).List()
			for q := range v % 12 {
				l.Append(protoreflect.ValueOfEnum(protoreflect.EnumNumber(q + 1)))
			}
		case f.Kind() == protoreflect.MessageKind:
			stuff(r.Mutable(f).Message(), seed)
		case f.Kind() == protoreflect.BoolKind:
			r.Set(f, protoreflect.ValueOfBool(v%2 == 0))
		case f.Kind() == protoreflect.EnumKind:
			r.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(v%9)))
		case f.Kind() == protoreflect.Uint32Kind:
			r.Set(f, protoreflect.ValueOfUint32(uint32(big)))
		case f.Kind() == protoreflect.Uint64Kind:
			r.Set(f, protoreflect.ValueOfUint64(big))
		case f.Kind() == protoreflect.Int64Kind:
			r.Set(f, protoreflect.ValueOfInt64(int64(big)-3))
		case f.Kind() == protoreflect.StringKind:
			r.Set(f, protoreflect.ValueOfString(strings.Repeat("ä", int(v))))
		case f.Kind() == protoreflect.BytesKind:
			r.Set(f, protoreflect.ValueOfBytes([]byte(strings.Repeat("x", int(v%17)))))
		default:
			panic("a kind of field that the encoder may not know: " + string(f.FullName()))
		}
	}
}

// proto.Unmarshal must read an equal message from the appended octets, for every content.
func FuzzAppendConnectionIsRead(f *testing.F) {
	all := make([]byte, 100)
	for i := range all {
		all[i] = byte(i*5 + 1)
	}
	f.Add(all)
	f.Add([]byte{})
	f.Add([]byte{255, 254, 253, 252, 251, 0, 249})
	f.Fuzz(func(t *testing.T, seed []byte) {
		want := &flowpb.Connection{}
		stuff(want.ProtoReflect(), &seed)
		b := flowpb.AppendConnection([]byte("before"), want)
		got := &flowpb.Connection{}
		if err := proto.Unmarshal(b[len("before"):], got); err != nil || !proto.Equal(want, got) {
			t.Fatalf("%v\nwant %v\ngot  %v", err, want, got)
		}
		if len(want.ConnectionId) > 0 && b[len("before")] != 1<<3|2 {
			t.Error("field 1 is not the first")
		}
	})
}

func TestEveryFieldOfAConnectionIsWritten(t *testing.T) {
	var seed []byte // all ones: every field has a value
	c := &flowpb.Connection{}
	stuff(c.ProtoReflect(), &seed)
	var none func(r protoreflect.Message)
	none = func(r protoreflect.Message) {
		fields := r.Descriptor().Fields()
		for i := range fields.Len() {
			if f := fields.Get(i); f.Kind() == protoreflect.MessageKind {
				none(r.Get(f).Message())
			} else if f.Kind() != protoreflect.BoolKind && !r.Has(f) && !f.IsList() && f.Kind() != protoreflect.Int64Kind {
				t.Errorf("%s has no value: the test does not cover it", f.FullName())
			}
		}
	}
	none(c.ProtoReflect())
	got := &flowpb.Connection{}
	if err := proto.Unmarshal(flowpb.AppendConnection(nil, c), got); err != nil || !proto.Equal(c, got) {
		t.Errorf("%v\nwant %v\ngot  %v", err, c, got)
	}
}
