package enrich

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/annotate"
	"weir/internal/flowkey"
	"weir/internal/pair"
	"weir/pkg/flowpb"
)

// filled is a message with a value in every field that is not repeated, by octets.
func filled(seed []byte) *flowpb.FlowMessage {
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

// Whatever is in a message: what is read of it is as proto.Unmarshal reads it, and
// it is all that pairing and the metrics look at.
func FuzzReadFlowGivesWhatProtobufGives(f *testing.F) {
	seed := make([]byte, 100)
	for i := range seed {
		seed[i] = byte(i*37 + 1)
	}
	f.Add(seed, []byte{})
	f.Add([]byte{}, []byte{0xff})
	f.Add(seed[:40], []byte("\x08\x02\x0d\x01\x02\x03\x04"))
	f.Fuzz(func(t *testing.T, seed, more []byte) {
		b, err := proto.Marshal(filled(seed))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, more...)
		var want, got flowpb.FlowMessage
		wantErr, gotErr := proto.Unmarshal(b, &want), readFlow(b, &got)
		if gotErr != nil && wantErr == nil {
			t.Fatalf("%x: %v, and protobuf takes it", b, gotErr)
		}
		if wantErr != nil {
			return // a field that is not looked at is wrong
		}
		// What is read is right: nothing is there that protobuf does not read.
		r, w := got.ProtoReflect(), want.ProtoReflect()
		r.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if !v.Equal(w.Get(f)) {
				t.Errorf("%s: want %v, got %v", f.Name(), w.Get(f), v)
			}
			return true
		})
		// And it is enough.
		for _, c := range []pair.Config{pairing, {Scope: pair.ScopeVRF, MaxClockSkew: pairing.MaxClockSkew, DedupContent: true}} {
			a, aOK := pair.FromMessage(&want, &c)
			z, zOK := pair.FromMessage(&got, &c)
			if a != z || aOK != zOK {
				t.Errorf("pairing sees %+v, want %+v", z, a)
			}
		}
		var x, y tally
		x.flow(&want)
		y.flow(&got)
		for k, v := range x.crossings {
			if y.crossings[k] != v {
				t.Errorf("traffic: want %+v %+v, got %+v", k, v, y.crossings)
			}
		}
		l, o := annotate.NewLearned(nil), annotate.NewLearned(nil)
		l.Learn(&want)
		o.Learn(&got)
		application := uint64(0)
		for _, b := range want.ApplicationId {
			application = application<<8 | uint64(b)
		}
		exporter, domain := flowkey.AddressOrZero(want.SamplerAddress), want.ObservationDomainId
		for _, k := range []annotate.NameKey{
			{Exporter: exporter},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(want.InIf)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(want.OutIf)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_VRF_NAME, ID: uint64(want.IngressVrfId)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_VRF_NAME, ID: uint64(want.EgressVrfId)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_APPLICATION_NAME, ID: application},
		} {
			if v := l.Name(k); o.Name(k) != v {
				t.Errorf("name of %v: want %q, got %q", k, v, o.Name(k))
			}
		}
		fl := newFacts()
		fl.complete(&want)
		fl.complete(&got)
		if want.SamplingRate != got.SamplingRate || want.SamplerId != got.SamplerId || want.Type != got.Type {
			t.Errorf("rate, sampler, type: want %v, got %v", &want, &got)
		}
	})
}

func BenchmarkReadFlow(b *testing.B) {
	seed := make([]byte, 40)
	for i := range seed {
		seed[i] = byte(i*37 + 1)
	}
	value, err := proto.Marshal(filled(seed))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("enrich", func(b *testing.B) {
		b.ReportAllocs()
		var m flowpb.FlowMessage
		for b.Loop() {
			if err := readFlow(value, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(value, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
