package score

import (
	"net/netip"
	"testing"
	"time"

	"weir/test/accuracy/truth"
)

const (
	syn = truth.FlagSYN
	ack = truth.FlagACK
)

// rec is a record of ms since the epoch.
func rec(src, dst netip.AddrPort, start, end int64, packets uint64, flags uint8) Record {
	ms := int64(time.Millisecond)
	return Record{
		Proto: truth.TCP, Src: src, Dst: dst, Start: start * ms, End: end * ms, Resolution: ms, Packets: packets, Flags: flags,
	}
}

func noService(uint8, uint16) bool { return false }

// Two conversations of three packets use the same ports; of each, a sends two. An
// exporter that ends its records with the first keeps them apart. One that puts the last
// ACK of the first and the SYN of the second into one record does not.
func TestKeptApart(t *testing.T) {
	all := []*truth.Conversation{conversation(0, 3), conversation(9, 3)}
	for _, test := range []struct {
		name    string
		records []Record
		want    bool
	}{
		{"a record each", []Record{
			rec(a, b, 0, 0, 2, syn|ack), rec(b, a, 0, 0, 1, syn|ack), rec(a, b, 9000, 9000, 2, syn|ack), rec(b, a, 9000, 9000, 1, syn|ack),
		}, true},
		{"several records", []Record{
			rec(a, b, 0, 0, 1, syn), rec(a, b, 0, 0, 1, ack), rec(b, a, 0, 0, 1, syn|ack), rec(a, b, 9000, 9000, 2, syn|ack),
			rec(b, a, 9000, 9000, 1, syn|ack),
		}, true},
		{"one record", []Record{rec(a, b, 0, 9000, 4, syn|ack), rec(b, a, 0, 9000, 2, syn|ack)}, false},
		{"one record of a direction", []Record{
			rec(a, b, 0, 0, 2, syn|ack), rec(a, b, 9000, 9000, 2, syn|ack), rec(b, a, 0, 9000, 2, syn|ack),
		}, false},
		{"a record across", []Record{
			rec(a, b, 0, 0, 1, syn), rec(a, b, 0, 9000, 2, syn|ack), rec(a, b, 9000, 9000, 1, ack),
			rec(b, a, 0, 0, 1, syn|ack), rec(b, a, 9000, 9000, 1, syn|ack),
		}, false},
	} {
		x := NewExport(test.records, false, noService)
		for i, c := range all {
			if got := x.keptApart(c, all); got != test.want {
				t.Errorf("%s: conversation %d: %v, want %v", test.name, i, got, test.want)
			}
		}
	}
}

// high is another host of a, with a high port: ports hint at nobody.
var high = netip.MustParseAddrPort("192.0.2.4:50000")

// What hints at a as the opener of a conversation of two high ports: the cases are those
// of a hand-made table.
func TestHints(t *testing.T) {
	c := conversation(0, 3)
	c.B = high
	server := conversation(0, 3) // to port 80
	for _, test := range []struct {
		name         string
		conversation *truth.Conversation
		records      []Record
		sampled      bool
		want         bool
	}{
		{"equal starts, flags of both", c, []Record{rec(a, high, 0, 5, 2, syn|ack), rec(high, a, 0, 5, 2, syn|ack)}, false, false},
		{"an earlier start", c, []Record{rec(a, high, 0, 5, 2, syn|ack), rec(high, a, 1, 5, 2, syn|ack)}, false, true},
		{"a later start", c, []Record{rec(a, high, 1, 5, 2, syn|ack), rec(high, a, 0, 5, 2, syn|ack)}, false, false},
		{"an earlier start, sampled", c, []Record{rec(a, high, 0, 5, 2, syn|ack), rec(high, a, 1, 5, 2, syn|ack)}, true, false},
		{"a SYN", c, []Record{rec(a, high, 0, 5, 2, syn), rec(high, a, 0, 5, 2, syn|ack)}, true, true},
		{"the SYN+ACK of one packet", c, []Record{rec(high, a, 0, 5, 1, syn|ack)}, true, true},
		{"SYN+ACK of more packets", c, []Record{rec(high, a, 0, 5, 2, syn|ack)}, true, false},
		{"one side, no flags of a handshake", c, []Record{rec(a, high, 0, 5, 2, ack)}, false, false},
		{"a service port", server, []Record{rec(b, a, 0, 5, 2, ack)}, true, true},
		{"records of another time", c, []Record{rec(a, high, 60_000, 60_005, 2, syn)}, false, false},
	} {
		if got := NewExport(test.records, test.sampled, noService).hints(test.conversation); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// The only private address of a sampled conversation hints at the opener: the networks
// are those of RFC 1918, RFC 4193 and RFC 6598. A client of a private server has no hint.
func TestAPrivateAddressHintsAtTheOpener(t *testing.T) {
	for _, test := range []struct {
		opener, other string
		sampled       bool
		want          bool
	}{
		{"10.255.0.1", "192.0.2.4", true, true},
		{"172.31.0.1", "192.0.2.4", true, true},
		{"172.32.0.1", "192.0.2.4", true, false},
		{"192.168.0.1", "192.0.2.4", true, true},
		{"100.64.0.1", "192.0.2.4", true, true},
		{"::ffff:100.64.0.1", "::ffff:192.0.2.4", true, true},
		{"100.128.0.1", "192.0.2.4", true, false},
		{"fd00::1", "2001:db8::1", true, true},
		{"fe80::1", "2001:db8::1", true, false},
		{"192.0.2.4", "10.0.0.1", true, false},
		{"10.0.0.1", "192.168.0.1", true, false},
		{"10.0.0.1", "192.0.2.4", false, false},
	} {
		c := conversation(0, 3)
		c.A = netip.AddrPortFrom(netip.MustParseAddr(test.opener), 50000)
		c.B = netip.AddrPortFrom(netip.MustParseAddr(test.other), 40000)
		records := []Record{rec(c.A, c.B, 0, 5, 2, ack)}
		if got := NewExport(records, test.sampled, noService).hints(c); got != test.want {
			t.Errorf("%s to %s, sampled %v: %v, want %v", test.opener, test.other, test.sampled, got, test.want)
		}
	}
}
