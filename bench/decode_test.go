package bench

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/netsampler/goflow2/v2/decoders/netflow"
	"github.com/netsampler/goflow2/v2/decoders/netflowlegacy"
	"github.com/netsampler/goflow2/v2/producer"
	protoproducer "github.com/netsampler/goflow2/v2/producer/proto"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

var (
	exporter = netip.MustParseAddrPort("192.0.2.1:40000")
	received = time.Unix(1_760_000_000, 0)
	versions = []string{"v5", "v9", "ipfix"}
)

// templatePacket returns the datagram with the templates of a version, or nil for a version without
// templates.
func templatePacket(b testing.TB, version string) []byte {
	if version == "v5" {
		return nil
	}
	return packet(b, version+"_template.hex")
}

// A subject decodes a datagram and returns the number of flows in it. It calls emit, unless nil,
// with each message.
type subject func(pkt []byte, emit func(msg []byte)) (flows int)

func weir(b testing.TB, version string) subject {
	return weirWith(b, version, templates.New(templates.Options{}))
}

func weirWith(b testing.TB, version string, store *templates.Store) subject {
	d := decode.Decoder{State: store}
	m := decode.Meta{Exporter: exporter.Addr(), Port: exporter.Port(), Received: received.UnixNano()}
	var r decode.Result
	if t := templatePacket(b, version); t != nil {
		d.Wire(t, &m, &r)
	}
	return func(pkt []byte, emit func([]byte)) int {
		d.Wire(pkt, &m, &r)
		if emit != nil {
			for _, s := range r.Flows {
				emit(r.Buf[s.Start:s.ValueEnd])
			}
		}
		return len(r.Flows)
	}
}

// goflow2 returns a subject that runs goflow2's pipeline: decode, produce, marshal, and return the
// messages to its pool.
func goflow2(b testing.TB, version string) subject {
	cfg, err := (&protoproducer.ProducerConfig{}).Compile()
	if err != nil {
		b.Fatal(err)
	}
	p, err := protoproducer.CreateProtoProducer(cfg, protoproducer.CreateSamplingSystem)
	if err != nil {
		b.Fatal(err)
	}
	known := netflow.CreateTemplateSystem()
	run := func(pkt []byte, emit func([]byte)) int {
		buf := bytes.NewBuffer(pkt)
		var v uint16
		if err := binary.Read(buf, binary.BigEndian, &v); err != nil {
			b.Fatal(err)
		}
		var msg any
		switch v {
		case 5:
			q := netflowlegacy.PacketNetFlowV5{Version: 5}
			err, msg = netflowlegacy.DecodeMessage(buf, &q), &q
		case 9:
			q := netflow.NFv9Packet{Version: 9}
			err, msg = netflow.DecodeMessageNetFlow(buf, known, &q), &q
		default:
			q := netflow.IPFIXPacket{Version: 10}
			err, msg = netflow.DecodeMessageIPFIX(buf, known, &q), &q
		}
		if err != nil {
			b.Fatal(err)
		}
		flows, err := p.Produce(msg, &producer.ProduceArgs{Src: exporter, TimeReceived: received, SamplerAddress: exporter.Addr()})
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range flows {
			out, err := f.(*protoproducer.ProtoProducerMessage).MarshalBinary()
			if err != nil {
				b.Fatal(err)
			}
			if emit != nil {
				emit(out)
			}
		}
		p.Commit(flows)
		return len(flows)
	}
	if t := templatePacket(b, version); t != nil {
		run(t, nil)
	}
	return run
}

var sum uint64

// A window holds a record with 8 octets before it, through which fields are read as in
// internal/decode.
type window [512 + 24]byte

// bound returns a subject that loads and sums up every field of every record. It is a lower bound
// of the cost of any decoder that reads all fields.
func bound(_ testing.TB, version string) subject {
	type load struct {
		mask uint64
		end  uint16
	}
	type set struct {
		off, records, octets int
		loads                []load
	}
	var sets []set
	for _, s := range layouts[version].sets {
		out, end := set{off: s.off, records: s.records, octets: s.record()}, 0
		for _, f := range s.fields {
			end += f.octets
			switch {
			case f.id == 0: // padding
			case f.octets == 16:
				out.loads = append(out.loads, load{^uint64(0), uint16(end - 8)}, load{^uint64(0), uint16(end)})
			default:
				out.loads = append(out.loads, load{^uint64(0) >> (64 - 8*f.octets), uint16(end)})
			}
		}
		sets = append(sets, out)
	}
	return func(pkt []byte, _ func([]byte)) (flows int) {
		var t uint64
		pkt = pkt[:cap(pkt)]
		for i := range sets {
			s := &sets[i]
			for r := range s.records {
				in := (*window)(pkt[s.off+r*s.octets-8:])
				for j := range s.loads {
					l := &s.loads[j]
					t += binary.BigEndian.Uint64(in[l.end&511:]) & l.mask
				}
			}
			flows += s.records
		}
		sum += t
		return flows
	}
}

var subjects = []struct {
	name string
	make func(testing.TB, string) subject
}{{"weir", weir}, {"goflow2", goflow2}, {"bound", bound}}

// BenchmarkDecode measures, on one core, the decoding of 512 different datagrams to protobuf
// messages. Weir's subject computes the partition keys too.
func BenchmarkDecode(b *testing.B) {
	for _, s := range subjects {
		for _, version := range versions {
			b.Run(s.name+"/"+version, func(b *testing.B) {
				run, pkts := s.make(b, version), vary(b, version, 512)
				b.ReportAllocs()
				flows := 0
				for i := 0; b.Loop(); i++ {
					flows += run(pkts[i%len(pkts)], nil)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(flows), "ns/flow")
			})
		}
	}
}

// BenchmarkDecodeParallel measures as many goroutines as there are cores. Each has its own decoder;
// the template store is shared.
func BenchmarkDecodeParallel(b *testing.B) {
	for _, version := range versions {
		b.Run(version, func(b *testing.B) {
			store, pkts := templates.New(templates.Options{}), vary(b, version, 512)
			var flows atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				run, n := weirWith(b, version, store), 0
				for i := 0; pb.Next(); i++ {
					n += run(pkts[i%len(pkts)], nil)
				}
				flows.Add(int64(n))
			})
			b.ReportMetric(float64(flows.Load())/b.Elapsed().Seconds()/1e6, "Mflows/s")
		})
	}
}

// The subjects of a comparison must do the same work.
func TestAllSeeTheSameFlows(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			want := 0
			for _, s := range layouts[version].sets {
				want += s.records
			}
			ours, theirs, least := weir(t, version), goflow2(t, version), bound(t, version)
			for _, pkt := range vary(t, version, 16) {
				var a, b []*flowpb.FlowMessage
				into := func(list *[]*flowpb.FlowMessage) func([]byte) {
					return func(msg []byte) {
						if msg[0] != 1<<3 {
							_, n := binary.Uvarint(msg)
							msg = msg[n:]
						}
						m := &flowpb.FlowMessage{}
						if err := proto.Unmarshal(msg, m); err != nil {
							t.Fatal(err)
						}
						*list = append(*list, m)
					}
				}
				n, m, k := ours(pkt, into(&a)), theirs(pkt, into(&b)), least(pkt, nil)
				if n != want || m != want || k != want {
					t.Fatalf("flows: want %d, weir %d, goflow2 %d, bound %d", want, n, m, k)
				}
				for i := range a {
					if a[i].Bytes != b[i].Bytes || a[i].SrcPort != b[i].SrcPort || !bytes.Equal(a[i].DstAddr, b[i].DstAddr) || a[i].TimeFlowEndNs/1e6 != b[i].TimeFlowEndNs/1e6 {
						t.Fatalf("flow %d: weir %v, goflow2 %v", i, a[i], b[i])
					}
				}
			}
		})
	}
}
