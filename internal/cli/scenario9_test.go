package cli

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unordered returns the protocol and endpoints of a conversation, independent of its initiator.
func unordered(s string) string {
	f := strings.Fields(s)
	return f[0] + " " + min(f[1], f[2]) + " " + max(f[1], f[2])
}

// The same traffic through other exporters must give the same connections, except for fields that an exporter does
// not report.
func TestScenario9OtherExportersGiveTheSameConnections(t *testing.T) {
	ipv4Only := map[string]string{
		"6 2001:db8::10:41000 2001:db8:1::443:443 2/620 2/1020": "",
		"58 2001:db8::10:0 2001:db8:1::443:0 1/56 1/56":         "",
	}
	pmacct := map[string]string{
		// excludes MPLS labels, and both directions have the same start: the lower port is the responder
		"17 10.4.4.4:6000 10.5.5.5:6001 1/136 1/96": "17 10.5.5.5:6001 10.4.4.4:6000 1/88 1/128",
		// counts a later fragment with the first fragment
		"17 10.1.1.10:7000 192.0.2.80:7001 1/1420 none": "17 10.1.1.10:7000 192.0.2.80:7001 2/1640 none",
		"17 10.1.1.10:0 192.0.2.80:0 1/220 none":        "",
	}
	for _, x := range []struct {
		name   string
		differ []map[string]string // "": not reported
		more   bool                // the capture has further traffic
	}{
		{"pmacct_nfprobe_v5", []map[string]string{pmacct, ipv4Only}, false},
		{"pmacct_nfprobe_v9", []map[string]string{pmacct}, false},
		{"pmacct_nfprobe_v10", []map[string]string{pmacct}, false},
		{"nfreplay_v5", []map[string]string{ipv4Only}, true},
		{"nfreplay_v9", nil, true},
	} {
		path := filepath.Join("..", "..", "..", "shared", "captures", x.name+".pcap")
		if _, err := os.Stat(path); err != nil {
			t.Skipf("SKIPPED: no captures in ../shared: %v", err)
		}
		var want []string
		known := map[string]bool{}
		for _, s := range synth {
			known[unordered(s)] = true
			for _, d := range x.differ {
				if other, is := d[s]; is {
					s = other
				}
			}
			if s != "" {
				want = append(want, s)
			}
		}
		slices.Sort(want)
		list, _ := connectionsOf(t, "--pcap", path)
		got := texts(list)
		if x.more {
			got = slices.DeleteFunc(got, func(s string) bool { return !known[unordered(s)] })
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", x.name, d)
		}
	}
}

// synSenders returns the senders of SYN segments without ACK in a pcap file of Ethernet frames, by the endpoints
// of the conversation.
func synSenders(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("SKIPPED: no captures in ../shared: %v", err)
	}
	senders := map[string]string{}
	for b = b[24:]; len(b) >= 16; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		frame := b[16 : 16+n]
		b = b[16+n:]
		kind, p := binary.BigEndian.Uint16(frame[12:]), frame[14:]
		for kind == 0x8100 {
			kind, p = binary.BigEndian.Uint16(p[2:]), p[4:]
		}
		var src, dst netip.Addr
		switch {
		case kind == 0x0800 && p[9] == 6 && binary.BigEndian.Uint16(p[6:])&0x1fff == 0:
			src, dst = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
			p = p[4*(p[0]&15):]
		case kind == 0x86dd && p[6] == 6:
			src, dst = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
			p = p[40:]
		default:
			continue
		}
		if p[13]&0x12 != 2 {
			continue
		}
		a, z := netip.AddrPortFrom(src, binary.BigEndian.Uint16(p)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(p[2:]))
		senders[min(a.String(), z.String())+" "+max(a.String(), z.String())] = a.String()
	}
	return senders
}

// Each TCP session of the traffic must give a single connection whose initiator sent the SYN.
func TestScenario9InitiatorsAreTheSendersOfTheSYNs(t *testing.T) {
	shared := filepath.Join("..", "..", "..", "shared", "captures")
	for _, x := range []struct {
		traffic string
		exports []string
		v4      bool
	}{
		{"synth.pcap", []string{"softflowd_v9_synth_adj", "softflowd_v10_synth_adj", "pmacct_nfprobe_v9", "pmacct_nfprobe_v10", "nfreplay_v9"}, false},
		{"synth.pcap", []string{"softflowd_v1_synth_adj", "softflowd_v5_synth_adj", "pmacct_nfprobe_v5", "nfreplay_v5"}, true},
		{"big.pcap", []string{"softflowd_v9_big", "softflowd_v10_big"}, false},
	} {
		senders := synSenders(t, filepath.Join(shared, "inputs", x.traffic))
		if x.v4 {
			for k := range senders {
				if strings.Contains(k, "[") {
					delete(senders, k)
				}
			}
		}
		if len(senders) < 10 {
			t.Fatalf("%s: %d TCP sessions with a SYN: too few", x.traffic, len(senders))
		}
		for _, name := range x.exports {
			list, _ := connectionsOf(t, "--pcap", filepath.Join(shared, name+".pcap"))
			right, seen := 0, map[string]int{}
			for _, c := range list {
				if c.Protocol != 6 {
					continue
				}
				a := netip.AddrPortFrom(netip.MustParseAddr(c.Initiator.Address), uint16(c.Initiator.Port)).String()
				z := netip.AddrPortFrom(netip.MustParseAddr(c.Responder.Address), uint16(c.Responder.Port)).String()
				k := min(a, z) + " " + max(a, z)
				if senders[k] == "" {
					continue // a session that began before the capture
				}
				if seen[k]++; senders[k] == a {
					right++
				} else {
					t.Errorf("%s: %s: the SYN is from %s, the initiator %s (%s)", name, k, senders[k], a, c.Method)
				}
			}
			if right != len(senders) || len(seen) != len(senders) {
				t.Errorf("%s: %d connections with the right initiator for %d sessions, %d of which are there", name, right, len(senders), len(seen))
			}
			t.Logf("%s: %d TCP sessions with a SYN, all with the right initiator", name, len(senders))
		}
	}
}
