package retime_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/cli/capture"
	"weir/internal/cli/retime"
	"weir/internal/decode"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// A reader decodes datagrams and collects their flows.
type reader struct {
	d decode.Decoder
	r decode.Result
}

func newReader() *reader {
	return &reader{d: decode.Decoder{State: templates.New(templates.Options{Now: func() time.Time { return time.Unix(1, 0) }})}}
}

func (r *reader) read(b []byte, from netip.AddrPort) []*flowpb.FlowMessage {
	r.d.Read(b, &decode.Meta{Exporter: from.Addr(), Port: from.Port(), Received: 1_790_000_000_000_000_000}, &r.r)
	return r.r.Messages
}

// Every time of every flow must move by the same amount, and no other field may change.
func TestTimesOfFlowsMove(t *testing.T) {
	files, err := filepath.Glob("../../../testdata/captures/*.pcap")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	if more, err := filepath.Glob("../../../../shared/corpus/pcap/*"); err == nil {
		files = append(files, more...)
	}
	const seconds = 3*86400 + 17
	flows := 0
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := capture.Open(f, capture.Options{})
		if err != nil {
			t.Fatal(err)
		}
		before, after := newReader(), newReader()
		m := retime.New(templates.New(templates.Options{Now: func() time.Time { return time.Unix(1, 0) }}))
		for {
			var d capture.Datagram
			if err := c.Next(&d); errors.Is(err, io.EOF) || errors.Is(err, capture.ErrCut) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			moved := bytes.Clone(d.Payload)
			m.Move(moved, d.Src, d.Time, seconds)
			want, got := before.read(d.Payload, d.Src), after.read(moved, d.Src)
			for _, w := range want {
				add(w.ProtoReflect(), seconds)
			}
			if len(want) != len(got) {
				t.Fatalf("%s: %d flows, want %d", file, len(got), len(want))
			}
			for i, w := range want {
				g := got[i]
				for _, m := range []*flowpb.FlowMessage{w, g} { // an element may be a time without a field in FlowMessage
					m.DatagramHash, m.Elements = 0, nil
				}
				if !proto.Equal(w, g) && valid(w) {
					t.Fatalf("%s: -want +got\n%.2000s", file, cmp.Diff(w, g, protocmp.Transform()))
				}
			}
			flows += len(want)
		}
		_ = f.Close()
	}
	t.Logf("%d flows of %d captures", flows, len(files))
}

// valid reports whether the texts of m are UTF-8. Messages with other texts cannot be compared.
func valid(m *flowpb.FlowMessage) bool {
	_, err := proto.Marshal(m)
	return err == nil
}

// add adds seconds to the present times of a flow, except to the time of receipt.
func add(m protoreflect.Message, seconds uint64) {
	list := m.Descriptor().Fields()
	for i := range list.Len() {
		fd := list.Get(i)
		if strings.HasSuffix(string(fd.Name()), "_ns") && fd.Name() != "time_received_ns" && m.Has(fd) {
			m.Set(fd, protoreflect.ValueOfUint64(m.Get(fd).Uint()+seconds*1e9))
		}
	}
}

func FuzzMove(f *testing.F) {
	for _, v := range []byte{1, 5, 7, 9, 10} {
		f.Add(append([]byte{0, v, 0, 24}, make([]byte, 40)...))
	}
	from := netip.MustParseAddrPort("192.0.2.1:1")
	f.Fuzz(func(t *testing.T, b []byte) {
		m := retime.New(templates.New(templates.Options{Now: func() time.Time { return time.Unix(1, 0) }}))
		c := bytes.Clone(b)
		m.Move(c, from, 1, 60)
		if len(c) != len(b) {
			t.Error("the length changed")
		}
	})
}
