// Package workload makes flows whose connections are known, for tests of enrich:
// both directions close together, one-sided ones, late records that make a second
// version, records that come again.
package workload

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// Config is the pairing's settings as they are by default.
var Config = pair.Config{
	Idle: 75 * time.Second, Linger: 5 * time.Second, LateGrace: 60 * time.Second, ClockSkew: 2 * time.Second, MaxClockSkew: 10 * time.Second,
	UpdateInterval: 30 * time.Minute, ActiveTimeout: 60 * time.Second, InactiveTimeout: 15 * time.Second, MaxOpen: 4_000_000,
	Service: services.HasName,
}

// closing is the responder's port of the flows that end a workload.
const closing = 9

// Flows hands out the flows of n connections, 1000 of them a second of receive
// time from base on, in the order of their receive times; then enough to end all
// of them on every partition. A part is a share of the flows, from 0 on.
func Flows(n int, base time.Time, parts int, yield func(part int, key []byte, m *flowpb.FlowMessage)) {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	later := map[int][]*flowpb.FlowMessage{} // by ms after base
	at := func(ms int) uint64 { return uint64(base.UnixNano()) + uint64(ms)*1e6 }
	last := n
	put := func(ms int, m *flowpb.FlowMessage) {
		m = proto.CloneOf(m)
		m.TimeReceivedNs = at(ms)
		later[ms] = append(later[ms], m)
		last = max(last, ms)
	}
	for i := 0; i <= last; i++ {
		if i < n {
			start := at(i) - 2e9
			m := &flowpb.FlowMessage{
				Type: flowpb.FlowMessage_IPFIX, SrcAddr: binary.BigEndian.AppendUint32(nil, 10<<24|uint32(i)), DstAddr: []byte{192, 0, 2, byte(i)},
				SrcPort: 40000, DstPort: 443, Proto: 6, TcpFlags: 0x1b, Bytes: 900 + uint64(i%100), Packets: 9, SamplingRate: 1, FlowEndReason: 3,
				SamplerAddress: []byte{192, 0, 2, 1}, DatagramHash: uint64(i)*4 + 1, TimeFlowStartNs: start, TimeFlowEndNs: start + 1e9, TimeResolutionUs: 1000,
			}
			back := proto.CloneOf(m)
			back.SrcAddr, back.DstAddr, back.SrcPort, back.DstPort = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort
			back.Bytes, back.Packets, back.DatagramHash = 9000, 12, m.DatagramHash+1
			back.TimeFlowStartNs += 4e6
			put(i, m)
			switch rng.IntN(100) {
			case 0: // one-sided
			case 1: // the reply's record comes after the report
				put(i+75_000+rng.IntN(50_000), back)
			case 2: // a last ACK's record, late
				put(i+rng.IntN(50), back)
				trail := proto.CloneOf(m)
				trail.TcpFlags, trail.Bytes, trail.Packets, trail.DatagramHash = 0x10, 40, 1, m.DatagramHash+2
				trail.TimeFlowStartNs, trail.TimeFlowEndNs = m.TimeFlowEndNs+1e6, m.TimeFlowEndNs+1e6
				put(i+10_000+rng.IntN(50_000), trail)
			case 3: // a record that comes again
				put(i+rng.IntN(50), back)
				put(i+1000, m)
			default:
				put(i+rng.IntN(50), back)
			}
		}
		for _, m := range later[i] {
			yield(min(i*parts/max(n, 1), parts-1), key(m), m)
		}
		delete(later, i)
	}
	for i := range uint32(500) {
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: binary.BigEndian.AppendUint32(nil, 11<<24|i), DstAddr: []byte{192, 0, 2, 9}, SrcPort: 1, DstPort: closing, Proto: 17,
			SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 1, Packets: 9, DatagramHash: uint64(i), TimeReceivedNs: at(last + 600_000), TimeFlowStartNs: at(last), TimeFlowEndNs: at(last), TimeResolutionUs: 1000,
		}
		yield(parts-1, key(m), m)
	}
}

// key is the record key of a flow.
func key(m *flowpb.FlowMessage) []byte {
	t := flowkey.Tuple{SrcPort: uint16(m.SrcPort), DstPort: uint16(m.DstPort), Proto: uint8(m.Proto)}
	t.Src, _ = flowkey.Address(m.SrcAddr)
	t.Dst, _ = flowkey.Address(m.DstAddr)
	k, _ := t.Canon()
	return k.Append(nil)
}

// An ID is a report: a connection and its version.
type ID [20]byte

// Reports are what is said of connections, as a hash, names and their status
// excepted, and how often.
type Reports map[ID]Report

// A Report is what one report says, and how often it was read.
type Report struct {
	Hash  uint64
	Times int
}

// Add takes one report; those of the flows that end a workload are passed over.
func (r Reports) Add(c *flowpb.Connection) {
	if c.GetResponder().GetPort() == closing {
		return
	}
	for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
		e.Name, e.NameStatus, e.NameVerified, e.NameSource = "", 0, false, 0
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		panic(err) // a message that was read is written
	}
	id := ID(binary.BigEndian.AppendUint32(append([]byte(nil), c.GetConnectionId()...), c.GetVersion()))
	x := r[id]
	if x.Times > 0 && x.Hash != xxhash.Sum64(b) {
		x.Hash = 0 // two that differ are like none
	} else {
		x.Hash = xxhash.Sum64(b)
	}
	x.Times++
	r[id] = x
}

// Compare counts how got differs from want.
func Compare(want, got Reports) (missing, duplicate, wrong int) {
	for id, w := range want {
		switch g, is := got[id]; {
		case !is:
			missing++
		case g.Hash != w.Hash:
			wrong++
		case g.Times > w.Times:
			duplicate++
		}
	}
	for id := range got {
		if _, is := want[id]; !is {
			wrong++
		}
	}
	return missing, duplicate, wrong
}

// An Undisturbed is what enrich makes of flows when nothing happens to it: one
// machine a partition.
type Undisturbed struct {
	partitions int
	machines   map[int32]*pair.Machine
	Reports    Reports
	Versions   map[uint32]int // how many reports have which version
}

// NewUndisturbed returns one for a topic of so many partitions.
func NewUndisturbed(partitions int) *Undisturbed {
	return &Undisturbed{partitions: partitions, machines: map[int32]*pair.Machine{}, Reports: Reports{}, Versions: map[uint32]int{}}
}

// Publish puts a flow on a topic, and takes it once it is there.
func (u *Undisturbed) Publish(ctx context.Context, t testing.TB, cl *kgo.Client, topic string, key []byte, m *flowpb.FlowMessage) {
	value, err := proto.Marshal(m)
	if err != nil {
		t.Error(err)
	}
	cl.Produce(ctx, &kgo.Record{Topic: topic, Key: key, Value: value, Timestamp: time.Unix(0, int64(m.TimeReceivedNs))}, func(r *kgo.Record, err error) {
		if err != nil {
			t.Errorf("producing: %v", err)
			return
		}
		u.Take(r.Partition, m)
	})
}

// Take takes a flow of a partition, in the order of the partition.
func (u *Undisturbed) Take(partition int32, m *flowpb.FlowMessage) {
	x := u.machines[partition]
	if x == nil {
		x = pair.New(Config, u.partitions, func(e *pair.Emission) {
			c := e.Connection
			c.CommunityId = pair.CommunityID(c)
			c.Service = services.Name(uint8(c.Protocol), uint16(c.Responder.Port))
			u.Reports.Add(c)
			u.Versions[c.Version]++
		})
		u.machines[partition] = x
	}
	if f, ok := pair.FromMessage(m, &Config); ok {
		x.Observe(&f)
	}
}
