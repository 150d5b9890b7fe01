package flowpb_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/weirtest/messages"
	"weir/pkg/flowpb"
)

// ReadPairingFields must set the fields that it reads to the values of proto.Unmarshal. internal/enrich tests
// that these fields are sufficient.
func FuzzReadFlowGivesWhatProtobufGives(f *testing.F) {
	seed := make([]byte, 100)
	for i := range seed {
		seed[i] = byte(i*37 + 1)
	}
	f.Add(seed, []byte{})
	f.Add([]byte{}, []byte{0xff})
	f.Add(seed[:40], []byte("\x08\x02\x0d\x01\x02\x03\x04"))
	f.Fuzz(func(t *testing.T, seed, more []byte) {
		b, err := proto.Marshal(messages.Filled(seed))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, more...)
		var want, got flowpb.FlowMessage
		wantErr, gotErr := proto.Unmarshal(b, &want), flowpb.ReadPairingFields(b, &got)
		if gotErr != nil && wantErr == nil {
			t.Fatalf("%x: %v, but proto.Unmarshal accepts it", b, gotErr)
		}
		if wantErr != nil {
			return // the error may be in a field that ReadPairingFields skips
		}
		// Every field that ReadPairingFields sets must equal that of proto.Unmarshal.
		r, w := got.ProtoReflect(), want.ProtoReflect()
		r.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if !v.Equal(w.Get(f)) {
				t.Errorf("%s: want %v, got %v", f.Name(), w.Get(f), v)
			}
			return true
		})
	})
}
