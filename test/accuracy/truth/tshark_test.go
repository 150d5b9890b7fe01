package truth

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A handshake, a DNS answer, and packets that are not taken: an ICMP error that
// quotes TCP, a tunnel, and a header that is cut.
func TestParse(t *testing.T) {
	lines := strings.Join([]string{
		"1700000000.000001000\teth:ethertype:ip:tcp\t192.0.2.1\t192.0.2.2\t\t\t60\t\t40000\t80\t\t\t0\t\t0x0002\t0\t",
		"1700000000.5\teth:ethertype:ip:tcp\t192.0.2.2\t192.0.2.1\t\t\t60\t\t80\t40000\t\t\t0\t\t0x0012\t0\t",
		"1700000001.000000000\teth:ethertype:ipv6:ipv6.hopopts:udp:dns\t\t\t2001:db8::1\t2001:db8::2\t\t72\t\t\t53\t4000\t\t0\t\t\t1",
		"1700000002.0\teth:ethertype:ip:icmp:ip:tcp\t192.0.2.9\t192.0.2.1\t\t\t60\t\t1\t2\t\t\t1\t\t0x0002\t0\t",
		"1700000003.0\teth:ethertype:ip:ip:tcp\t192.0.2.9\t192.0.2.1\t\t\t60\t\t1\t2\t\t\t2\t\t0x0002\t0\t",
		"1700000004.0\teth:ethertype:ip:tcp\t192.0.2.1\t192.0.2.2\t\t\t60\t\t\t\t\t\t\t\t\t\t",
	}, "\n")
	got, err := parse(strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	want := []*Conversation{
		{
			Proto: TCP, A: netip.MustParseAddrPort("192.0.2.1:40000"), B: netip.MustParseAddrPort("192.0.2.2:80"),
			Packets: []Packet{
				{Time: 1700000000000001000, FromA: true, Octets: 60, Flags: FlagSYN},
				{Time: 1700000000500000000, Octets: 60, Flags: FlagSYN | FlagACK},
			},
		},
		{
			Proto: UDP, A: netip.MustParseAddrPort("[2001:db8::1]:53"), B: netip.MustParseAddrPort("[2001:db8::2]:4000"),
			Packets: []Packet{{Time: 1700000001000000000, FromA: true, Octets: 112, DNSAnswer: true}},
		},
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Error(diff)
	}
}

func TestParseRejectsOtherColumns(t *testing.T) {
	if _, err := parse(strings.NewReader("1\t2\n")); err == nil {
		t.Error("a line of two columns was read")
	}
}
