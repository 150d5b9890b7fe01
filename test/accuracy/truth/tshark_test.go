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
	const none = "\t\t\t\t\t\t" // columns of UDP's answers
	lines := strings.Join([]string{
		"1700000000.000001000\teth:ethertype:ip:tcp\t192.0.2.1\t192.0.2.2\t\t\t60\t\t40000\t80\t\t\t0\t0x0002\t0" + none,
		"1700000000.5\teth:ethertype:ip:tcp\t192.0.2.2\t192.0.2.1\t\t\t60\t\t80\t40000\t\t\t0\t0x0012\t0" + none,
		"1700000001.000000000\teth:ethertype:ipv6:ipv6.hopopts:udp:dns\t\t\t2001:db8::1\t2001:db8::2\t\t72\t\t\t53\t4000\t\t\t\t1\t\t\t\t\t",
		"1700000002.0\teth:ethertype:ip:icmp:ip:tcp\t192.0.2.9\t192.0.2.1\t\t\t60\t\t1\t2\t\t\t1\t0x0002\t0" + none,
		"1700000003.0\teth:ethertype:ip:ip:tcp\t192.0.2.9\t192.0.2.1\t\t\t60\t\t1\t2\t\t\t2\t0x0002\t0" + none,
		"1700000004.0\teth:ethertype:ip:tcp\t192.0.2.1\t192.0.2.2\t\t\t60\t\t\t\t\t\t\t\t" + none,
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
			Packets: []Packet{{Time: 1700000001000000000, FromA: true, Octets: 112, Answer: true}},
		},
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Error(diff)
	}
}

// tshark 4.0.17 gives SNMP's two directions streams of their own (Zeek's
// Traces/snmp/snmpwalk-short.pcap): its dissector expects the answer from another port.
func TestBothDirectionsOfUDPAreOneConversation(t *testing.T) {
	lines := "1700000000.0\teth:ethertype:ip:udp:snmp\t192.0.2.1\t192.0.2.2\t\t\t60\t\t\t\t40000\t161\t\t\t\t\t\t\t\t\t\n" +
		"1700000000.1\teth:ethertype:ip:udp:snmp\t192.0.2.2\t192.0.2.1\t\t\t90\t\t\t\t161\t40000\t\t\t\t\t\t\t\t\tget-response\n"
	got, err := parse(strings.NewReader(lines))
	if err != nil || len(got) != 1 || len(got[0].Packets) != 2 {
		t.Fatalf("%d conversations, %v; want one of two packets", len(got), err)
	}
	if p := got[0].Packets; !p[0].FromA || p[0].Answer || p[1].FromA || !p[1].Answer {
		t.Errorf("got %+v", p)
	}
}

// A captured answer of each protocol, by its own mark; an mDNS announcement is none.
func TestAnswers(t *testing.T) {
	unicast := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name   string
		column int
		value  string
		dst    netip.Addr
		want   bool
	}{
		{"DNS response", colDNSResponse, "1", unicast, true},
		{"DNS response of newer tshark", colDNSResponse, "True", unicast, true},
		{"DNS query", colDNSResponse, "0", unicast, false},
		{"mDNS announcement", colDNSResponse, "1", netip.MustParseAddr("224.0.0.251"), false},
		{"NetBIOS response", colNBNSResponse, "1", unicast, true},
		{"SSDP response", colHTTPResponse, "1", unicast, true},
		{"NTP client", colNTPMode, "3", unicast, false},
		{"NTP server", colNTPMode, "4", unicast, true},
		{"RADIUS Access-Request", colRADIUSCode, "1", unicast, false},
		{"RADIUS Access-Challenge", colRADIUSCode, "11", unicast, true},
		{"RADIUS Accounting-Request", colRADIUSCode, "4", unicast, false},
		{"SNMP GetResponse", colSNMPResponse, "get-response", unicast, true},
	} {
		columns := make([]string, len(fields))
		columns[c.column] = c.value
		if got := answers(columns, c.dst); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestParseRejectsOtherColumns(t *testing.T) {
	if _, err := parse(strings.NewReader("1\t2\n")); err == nil {
		t.Error("a line of two columns was read")
	}
}
