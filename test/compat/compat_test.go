// Package compat checks that a consumer written for goflow2 v2 reads Weir's flows: it decodes them
// with goflow2's own message and compares field by field. It is a module of its own, so that
// goflow2 is not a dependency of the product.
package compat

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	goflow "github.com/netsampler/goflow2/v2/pb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/cli/capture"
	"weir/internal/decode"
	"weir/internal/templates"
)

// ours is the first field number beyond goflow2's fields.
const ours = 200

func TestGoflow2ReadsOurFlowsFieldByField(t *testing.T) {
	files, err := filepath.Glob("../../testdata/captures/*.pcap")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	flows, fields := 0, map[protoreflect.Name]int{}
	for _, path := range files {
		d := decode.Decoder{State: templates.New(templates.Options{})}
		for _, in := range datagrams(t, path) {
			var wire, readable decode.Result
			d.Wire(in.Payload, &in.meta, &wire)
			(&decode.Decoder{State: d.State}).Read(in.Payload, &in.meta, &readable)
			for i, s := range wire.Flows {
				var theirs goflow.FlowMessage
				if err := proto.Unmarshal(wire.Buf[s.Start:s.ValueEnd], &theirs); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				same(t, readable.Messages[i].ProtoReflect(), theirs.ProtoReflect(), fields)
				flows++
			}
		}
	}
	if flows < 1000 {
		t.Errorf("%d flows prove nothing", flows)
	}
	for _, f := range []protoreflect.Name{"type", "src_addr", "dst_addr", "bytes", "packets", "proto", "src_port", "dst_port", "sampler_address", "time_received_ns", "time_flow_start_ns", "time_flow_end_ns", "icmp_type", "tcp_flags", "sequence_num", "etype"} {
		if fields[f] == 0 {
			t.Errorf("no flow had %s: it was not compared", f)
		}
	}
	t.Logf("%d flows, %d fields compared", flows, len(fields))
}

// same checks that every field of ours below 200 has the same name, kind and value in goflow2's
// message.
func same(t *testing.T, our, their protoreflect.Message, fields map[protoreflect.Name]int) {
	t.Helper()
	our.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Number() >= ours {
			return true
		}
		td := their.Descriptor().Fields().ByNumber(fd.Number())
		if td == nil || td.Name() != fd.Name() || td.Kind() != fd.Kind() || td.IsList() != fd.IsList() {
			t.Fatalf("field %d: ours is %v, goflow2's %v", fd.Number(), fd, td)
		}
		w := their.Get(td)
		if fd.IsList() {
			if v.List().Len() != w.List().Len() {
				t.Fatalf("%s: ours %v, read as %v", fd.Name(), v, w)
			}
		} else if fd.Kind() == protoreflect.BytesKind && !bytes.Equal(v.Bytes(), w.Bytes()) ||
			fd.Kind() != protoreflect.BytesKind && v.Interface() != w.Interface() {
			t.Fatalf("%s: ours %v, read as %v", fd.Name(), v, w)
		}
		fields[fd.Name()]++
		return true
	})
	their.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f := our.Descriptor().Fields().ByNumber(fd.Number()); f == nil || !our.Has(f) {
			t.Fatalf("goflow2 reads %s = %v, which is not ours", fd.Name(), v)
		}
		return true
	})
}

type datagram struct {
	Payload []byte
	meta    decode.Meta
}

func datagrams(t *testing.T, path string) (out []datagram) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capture.Open(f, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		var d capture.Datagram
		if err := r.Next(&d); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, datagram{bytes.Clone(d.Payload), decode.Meta{Exporter: d.Src.Addr(), Port: d.Src.Port(), Received: d.Time}})
	}
}
