//go:build synctests

package simulation

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"weir/pkg/flowpb"
)

// recordsOfDatagram is the number of records in a datagram. The counters of dropped data count sets and
// records.
const recordsOfDatagram = 3

// A sentDatagram is an export datagram with the replica to which the balancer sent it.
type sentDatagram struct {
	octets   []byte
	hash     uint64
	from     netip.AddrPort
	records  []uint64 // numbers of its records, which are their octet counts too; empty: a template alone
	needs    template // that its records are decoded with
	template bool     // it carries needs
	to       *replica
	at       time.Time
}

// A template identifies a definition. Version 5 has none: its ID is 0.
type template struct {
	exporter int
	id       uint16
}

// A field is a field of a template: RFC 3954 section 8, and IANA's registry of IPFIX.
type field struct{ id, size uint16 }

const (
	ieOctets     = 1
	iePackets    = 2
	ieProtocol   = 4
	ieFlags      = 6
	ieSrcPort    = 7
	ieSrcAddr    = 8
	ieDstPort    = 11
	ieDstAddr    = 12
	ieLastUptime = 21
	ieFirstUp    = 22
	ieStartMs    = 152
	ieEndMs      = 153
)

// Policies of sending templates.
const (
	templateOnce  = -1 // with one datagram after their start
	templateEvery = 6  // with every so many
)

// An exporter makes datagrams. Its fields depend on the seed alone; its state depends on the steps.
type exporter struct {
	number  int
	version uint16
	from    netip.AddrPort
	policy  int // templateOnce, or templateEvery
	after   int // datagrams before the first template

	booted   time.Time
	id       uint16 // of the template
	layout   []field
	sent     int // datagrams since the start
	sequence uint32
}

// newExporters returns exporters of each kind.
func newExporters(rng *rand.Rand) (all []*exporter) {
	for i, kind := range []struct {
		version uint16
		policy  int
	}{{9, templateOnce}, {10, templateOnce}, {9, templateEvery}, {10, templateEvery}, {10, templateOnce}, {5, templateOnce}} {
		e := &exporter{number: i, version: kind.version, policy: kind.policy, from: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), 4000)}
		if e.version != 5 {
			e.id, e.after = 255, rng.IntN(4)
		}
		e.restart(rng, true)
		all = append(all, e)
	}
	return all
}

// restart restarts the exporting process. With anew, its data has another template.
func (e *exporter) restart(rng *rand.Rand, anew bool) {
	e.booted, e.sent, e.sequence = time.Now(), 0, 0
	if e.version == 5 || !anew {
		return
	}
	e.id++
	e.layout = []field{{ieSrcAddr, 4}, {ieDstAddr, 4}, {ieSrcPort, 2}, {ieDstPort, 2}, {ieProtocol, 1}, {ieFlags, 1}, {iePackets, 4}, {ieOctets, 8}}
	if e.version == 9 {
		e.layout = append(e.layout, field{ieFirstUp, 4}, field{ieLastUptime, 4})
	} else {
		e.layout = append(e.layout, field{ieStartMs, 8}, field{ieEndMs, 8})
	}
	rng.Shuffle(len(e.layout), func(i, j int) { e.layout[i], e.layout[j] = e.layout[j], e.layout[i] })
}

// datagram makes the next datagram. number is that of its first record.
func (e *exporter) datagram(number uint64, now time.Time) *sentDatagram {
	d := &sentDatagram{from: e.from, needs: template{e.number, e.id}}
	for i := range uint64(recordsOfDatagram) {
		d.records = append(d.records, number+i)
	}
	if e.policy == templateOnce {
		d.template = e.sent == e.after
	} else {
		d.template = e.sent%e.policy == e.after
	}
	d.template = d.template && e.version != 5
	switch e.version {
	case 5:
		d.octets = e.v5(d, now)
	case 9:
		d.octets = e.v9(d, now)
	default:
		d.octets = e.ipfix(d, now)
	}
	d.hash = xxhash.Sum64(d.octets)
	e.sent++
	return d
}

// flowOf returns the flow with a number, with the values that decoding with a wrong template would change. A
// few hosts talk to each other in both directions, and several exporters observe them.
func (e *exporter) flowOf(n uint64) *flowpb.FlowMessage {
	rng := rand.New(rand.NewPCG(n, streamExporters))
	f := &flowpb.FlowMessage{
		SrcAddr: []byte{10, 0, 0, byte(rng.IntN(8))}, DstAddr: []byte{198, 51, 100, byte(rng.IntN(3))},
		SrcPort: 1024 + uint32(rng.IntN(3)), DstPort: 443, Proto: 6, TcpFlags: uint32(rng.IntN(32)), Packets: 1 + n%100, Bytes: n,
		SamplerAddress: e.from.Addr().AsSlice(),
	}
	if rng.IntN(4) == 0 {
		f.Proto, f.DstPort, f.TcpFlags = 17, 53, 0
	}
	if rng.IntN(2) == 0 {
		f.SrcAddr, f.DstAddr, f.SrcPort, f.DstPort = f.DstAddr, f.SrcAddr, f.DstPort, f.SrcPort
	}
	return f
}

// lasted returns the duration of the flow with a number that is exported at now. It is at most the time since
// the exporter's start.
func (e *exporter) lasted(n uint64, now time.Time) time.Duration {
	return min(time.Duration(n*2_654_435_761%5000)*time.Millisecond, now.Sub(e.booted))
}

// v5 returns a datagram of version 5: a header of 24 octets, records of 48.
func (e *exporter) v5(d *sentDatagram, now time.Time) []byte {
	b := binary.BigEndian.AppendUint16(nil, 5)
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.records)))
	b = binary.BigEndian.AppendUint32(b, e.uptime(now))
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(now.Nanosecond()))
	b = binary.BigEndian.AppendUint32(b, e.sequence)
	b = append(b, 0, 0, 0, 0)
	e.sequence += uint32(len(d.records))
	for _, n := range d.records {
		f := e.flowOf(n)
		b = slices.Concat(b, f.SrcAddr, f.DstAddr, make([]byte, 8))
		b = binary.BigEndian.AppendUint32(b, uint32(f.Packets))
		b = binary.BigEndian.AppendUint32(b, uint32(f.Bytes))
		b = binary.BigEndian.AppendUint32(b, e.uptime(now.Add(-e.lasted(n, now))))
		b = binary.BigEndian.AppendUint32(b, e.uptime(now))
		b = binary.BigEndian.AppendUint16(b, uint16(f.SrcPort))
		b = binary.BigEndian.AppendUint16(b, uint16(f.DstPort))
		b = append(b, 0, uint8(f.TcpFlags), uint8(f.Proto), 0)
		b = append(b, make([]byte, 8)...)
	}
	return b
}

// v9 returns a datagram of version 9: RFC 3954 section 5.
func (e *exporter) v9(d *sentDatagram, now time.Time) []byte {
	count, sets := e.sets(d, now, 0)
	b := binary.BigEndian.AppendUint16(nil, 9)
	b = binary.BigEndian.AppendUint16(b, uint16(count))
	b = binary.BigEndian.AppendUint32(b, e.uptime(now))
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.BigEndian.AppendUint32(b, e.sequence)
	b = binary.BigEndian.AppendUint32(b, 7)
	e.sequence++
	return append(b, sets...)
}

// ipfix returns a message: RFC 7011 section 3.
func (e *exporter) ipfix(d *sentDatagram, now time.Time) []byte {
	_, sets := e.sets(d, now, 2)
	b := binary.BigEndian.AppendUint16(nil, 10)
	b = binary.BigEndian.AppendUint16(b, uint16(16+len(sets)))
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.BigEndian.AppendUint32(b, e.sequence)
	b = binary.BigEndian.AppendUint32(b, 7)
	e.sequence += uint32(len(d.records))
	return append(b, sets...)
}

// sets returns the template set, if there is one, and the data set. count is the number of records in both.
func (e *exporter) sets(d *sentDatagram, now time.Time, templateSet uint16) (count int, b []byte) {
	if d.template {
		b = binary.BigEndian.AppendUint16(b, templateSet)
		b = binary.BigEndian.AppendUint16(b, uint16(8+4*len(e.layout)))
		b = binary.BigEndian.AppendUint16(b, e.id)
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.layout)))
		for _, f := range e.layout {
			b = binary.BigEndian.AppendUint16(b, f.id)
			b = binary.BigEndian.AppendUint16(b, f.size)
		}
		count++
	}
	var data []byte
	for _, n := range d.records {
		for _, f := range e.layout {
			data = append(data, e.value(f, n, now)...)
		}
	}
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	b = binary.BigEndian.AppendUint16(b, e.id)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(data)))
	return count + len(d.records), append(b, data...)
}

// value returns a field of the record with a number.
func (e *exporter) value(f field, n uint64, now time.Time) []byte {
	flow := e.flowOf(n)
	switch f.id {
	case ieSrcAddr:
		return flow.SrcAddr
	case ieDstAddr:
		return flow.DstAddr
	}
	v := map[uint16]uint64{
		ieSrcPort: uint64(flow.SrcPort), ieDstPort: uint64(flow.DstPort), ieProtocol: uint64(flow.Proto), ieFlags: uint64(flow.TcpFlags), iePackets: flow.Packets, ieOctets: flow.Bytes,
		ieFirstUp: uint64(e.uptime(now.Add(-e.lasted(n, now)))), ieLastUptime: uint64(e.uptime(now)), ieStartMs: uint64(now.Add(-e.lasted(n, now)).UnixMilli()), ieEndMs: uint64(now.UnixMilli()),
	}[f.id]
	return binary.BigEndian.AppendUint64(nil, v)[8-f.size:]
}

// uptime returns the uptime in milliseconds.
func (e *exporter) uptime(now time.Time) uint32 {
	return uint32(now.Sub(e.booted)/time.Millisecond) + 1000
}
