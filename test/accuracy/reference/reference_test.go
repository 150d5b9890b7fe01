package reference

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/test/accuracy/truth"
)

var (
	client = netip.MustParseAddrPort("192.0.2.1:40000")
	server = netip.MustParseAddrPort("192.0.2.2:80")
)

const second = int64(time.Second)

// start is 2023-11-14 22:13:20 UTC, ns since the epoch.
const start = 1700000000 * second

// packet is one of 100 octets, at seconds after start.
func packet(at int64, fromA bool, flags uint8) truth.Packet {
	return truth.Packet{Time: start + at*second, FromA: fromA, Octets: 100, Flags: flags}
}

// A record is what is compared of a flow; times are s after start.
type record struct {
	FromClient           bool
	First, Last, Expired int64
	Packets, Octets      uint64
	Flags, Reason        uint8
}

func recordsOf(m Meter, packets ...truth.Packet) (out []record) {
	c := &truth.Conversation{Proto: truth.TCP, A: client, B: server, Packets: packets}
	at := func(t int64) int64 { return (t - start) / second }
	for _, f := range m.flows([]*truth.Conversation{c}) {
		out = append(out, record{f.src == client, at(f.first), at(f.last), at(f.expired), f.packets, f.octets, f.flags, f.reason})
	}
	return out
}

// Each case was calculated by hand for an active timeout of 60 s and an inactive
// one of 15 s.
func TestFlows(t *testing.T) {
	const syn, ack, fin = truth.FlagSYN, truth.FlagACK, truth.FlagFIN
	meter := Meter{Active: 60 * time.Second, Inactive: 15 * time.Second, EndOnFIN: true, Rate: 1}
	noFIN := meter
	noFIN.EndOnFIN = false
	for _, c := range []struct {
		name    string
		meter   Meter
		packets []truth.Packet
		want    []record
	}{
		{
			"directions are flows of their own, and end idle", meter,
			[]truth.Packet{packet(0, true, syn), packet(1, false, syn|ack), packet(2, true, ack)},
			[]record{{false, 1, 1, 16, 1, 100, syn | ack, 1}, {true, 0, 2, 17, 2, 200, syn | ack, 1}},
		},
		{
			"a pause of the inactive timeout begins another flow", meter,
			[]truth.Packet{packet(0, true, ack), packet(14, true, ack), packet(29, true, ack)},
			[]record{{true, 0, 14, 29, 2, 200, ack, 1}, {true, 29, 29, 44, 1, 100, ack, 1}},
		},
		{
			"the first packet after the active timeout begins another flow", meter,
			[]truth.Packet{
				packet(0, true, ack), packet(12, true, ack), packet(24, true, ack), packet(36, true, ack), packet(48, true, ack),
				packet(60, true, ack), packet(61, true, ack),
			},
			[]record{{true, 0, 48, 60, 5, 500, ack, 2}, {true, 60, 61, 76, 2, 200, ack, 1}},
		},
		{
			"a FIN ends the flow of its direction", meter,
			[]truth.Packet{packet(0, true, ack), packet(1, true, fin|ack), packet(2, true, ack), packet(3, false, ack)},
			[]record{{true, 0, 1, 1, 2, 200, fin | ack, 3}, {true, 2, 2, 17, 1, 100, ack, 1}, {false, 3, 3, 18, 1, 100, ack, 1}},
		},
		{
			"unless it is not looked for", noFIN,
			[]truth.Packet{packet(0, true, ack), packet(1, true, fin|ack), packet(2, true, ack)},
			[]record{{true, 0, 2, 17, 3, 300, fin | ack, 1}},
		},
	} {
		if diff := cmp.Diff(c.want, recordsOf(c.meter, c.packets...)); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.name, diff)
		}
	}
}

// Of 100 000 packets, 1 in 10 is seen within five standard deviations (474.3).
func TestSampling(t *testing.T) {
	m := Meter{Active: time.Hour, Inactive: time.Hour, Rate: 10}
	packets := make([]truth.Packet, 100_000)
	for i := range packets {
		packets[i] = packet(0, true, truth.FlagACK)
	}
	got := recordsOf(m, packets...)
	if len(got) != 1 || got[0].Packets < 9526 || got[0].Packets > 10474 {
		t.Errorf("got %+v", got)
	}
}

// The octets were written by hand, after Cisco's table of NetFlow v5 and RFC 3954
// and 7011. The flow began at 0 s of 1700000000 and ended at 2 s, the exporter
// started 10 s before.
func TestDatagrams(t *testing.T) {
	f := flow{
		key:   key{truth.TCP, client, server},
		first: start, last: start + 2*second, octets: 300, packets: 3, flags: 0x1b, reason: endOfFlow,
	}
	for _, c := range []struct {
		name string
		form Form
		want string
	}{
		{
			"v5", V5, `
0005 0001 000036b0 6553f104 00000000 00000000 00 00 800a
c0000201 c0000202 00000000 0001 0002 00000003 0000012c 00002710 00002ee0
9c40 0050 00 1b 06 00 0000 0000 00 00 0000`,
		},
		{
			"v9", V9, `
0009 0003 000036b0 6553f104 00000000 00000007
0000 0064
0100 000b 0008 0004 000c 0004 0007 0002 000b 0002 0004 0001 0006 0001 0001 0004 0002 0004 0016 0004 0015 0004 0022 0004
0101 000b 001b 0010 001c 0010 0007 0002 000b 0002 0004 0001 0006 0001 0001 0004 0002 0004 0016 0004 0015 0004 0022 0004
0100 0026 c0000201 c0000202 9c40 0050 06 1b 0000012c 00000003 00002710 00002ee0 0000000a`,
		},
		{
			"IPFIX", IPFIX, `
000a 00b3 6553f104 00000000 00000007
0002 006c
0100 000c 0008 0004 000c 0004 0007 0002 000b 0002 0004 0001 0006 0001 0001 0008 0002 0008 0098 0008 0099 0008 0088 0001 0022 0004
0101 000c 001b 0010 001c 0010 0007 0002 000b 0002 0004 0001 0006 0001 0001 0008 0002 0008 0098 0008 0099 0008 0088 0001 0022 0004
0100 0037 c0000201 c0000202 9c40 0050 06 1b 000000000000012c 0000000000000003 0000018bcfe56800 0000018bcfe56fd0 03 0000000a`,
		},
	} {
		e := encoder{form: c.form, rate: 10, boot: start - 10*second}
		want := strings.Join(strings.Fields(c.want), "")
		if got := hex.EncodeToString(e.datagram(start+4*second, []flow{f})); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, want)
		}
	}
}
