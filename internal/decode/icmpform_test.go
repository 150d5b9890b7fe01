package decode

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// icmpRecords is a datagram of a template of 27, 28, 4, 7, 11 (or 8, 12 …) and a record for
// each port.
func icmpRecords(t *testing.T, proto uint8, ports ...uint16) []byte {
	pairs, record := []uint16{27, 16, 28, 16}, "20010db8000000000000000000000012"+"20010db8000000000000000000000110"
	if proto == flowkey.ICMP {
		pairs, record = []uint16{8, 4, 12, 4}, "c0000201c0000202"
	}
	var all string
	for _, p := range ports {
		all += fmt.Sprintf("%s%02x0000%04x", record, proto, p)
	}
	return ipfixRecord(t, all, append(pairs, 4, 1, 7, 2, 11, 2)...)
}

func typesAndCodes(flows []*flowpb.FlowMessage) (all []string) {
	for _, m := range flows {
		all = append(all, fmt.Sprintf("%d/%d", m.IcmpType, m.IcmpCode))
	}
	return all
}

// Types and codes are those of RFC 4443 and RFC 792.
func TestICMPInThePortIsReadInTheFormOfTheExporter(t *testing.T) {
	const v6, v4 = flowkey.ICMPv6, flowkey.ICMP
	type datagramOf struct {
		proto uint8
		ports []uint16
	}
	for _, tt := range []struct {
		name string
		sent []datagramOf
		want []string
	}{
		{"type * 256 + code", []datagramOf{{v6, []uint16{0x8000, 0x8100, 0x0104, 0x0401}}}, []string{"128/0", "129/0", "1/4", "4/1"}},
		{"a type alone needs no form", []datagramOf{{v6, []uint16{136, 135, 2, 1}}}, []string{"136/0", "135/0", "2/0", "1/0"}},
		{"nothing", []datagramOf{{v6, []uint16{0}}}, []string{"0/0"}},
		{"code * 256 + type, once the exporter has shown it", []datagramOf{{v6, []uint16{136, 0x0401}}, {v6, []uint16{0x0401, 0x0104}}}, []string{"136/0", "4/1", "1/4", "4/1"}},
		{"one of the other form outweighs", []datagramOf{{v6, []uint16{0x0005}}, {v6, []uint16{0x8000}}, {v6, []uint16{0x0104, 7}}, {v6, []uint16{0x0104}}},
			[]string{"5/0", "128/0", "1/4", "7/0", "1/4"}},
		{"the other form first", []datagramOf{{v6, []uint16{0x8000}}, {v6, []uint16{136}}, {v6, []uint16{0x0401}}}, []string{"128/0", "136/0", "1/4"}},
		{"ICMP: a type alone", []datagramOf{{v4, []uint16{8, 0x0800, 0, 0x0301}}}, []string{"8/0", "8/0", "0/0", "3/1"}},
		{"the form is that of ICMPv6", []datagramOf{{v6, []uint16{136}}, {v4, []uint16{0x0301}}}, []string{"136/0", "3/1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pkts [][]byte
			ds := newDecoders()
			for _, s := range tt.sent {
				pkts = append(pkts, icmpRecords(t, s.proto, s.ports...))
				same(t, ds, pkts[len(pkts)-1])
			}
			if d := cmp.Diff(tt.want, typesAndCodes(wireFlows(t, &Decoder{State: newMemory()}, pkts...))); d != "" {
				t.Errorf("type/code (-want +got):\n%s", d)
			}
		})
	}
}

// A neighbour solicitation and its advertisement (RFC 4861) have one key, whichever the form.
func TestAnAdvertisementIsOfItsSolicitation(t *testing.T) {
	key := func(port uint16, back bool) string {
		pkt := icmpRecords(t, flowkey.ICMPv6, port)
		if back {
			n := len(pkt)
			at := n - 5 - 32
			src, dst := append([]byte{}, pkt[at:at+16]...), append([]byte{}, pkt[at+16:at+32]...)
			copy(pkt[at:], dst)
			copy(pkt[at+16:], src)
		}
		var r Result
		(&Decoder{State: newMemory()}).Wire(pkt, &testMeta, &r)
		return hex.EncodeToString(r.Buf[r.Flows[0].ValueEnd:r.Flows[0].KeyEnd])
	}
	want := key(135<<8, false)
	for _, tt := range []struct {
		port uint16
		back bool
	}{{135, false}, {136 << 8, true}, {136, true}} {
		if got := key(tt.port, tt.back); got != want {
			t.Errorf("port %d: key %s, that of the solicitation is %s", tt.port, got, want)
		}
	}
}

// The values of IOS XR are read from the octets by hand. 1025 is what hosts answer to UDP
// with, 600 times where 600 packets were sent: type 1 code 4, port unreachable. Packets with 2
// have 1280 octets each, the most that an ICMPv6 error may have: type 2, packet too big. One 1025 of
// each kind may come before the exporter has shown its form: here one does.
func TestICMPv6OfTheCorpus(t *testing.T) {
	for _, tt := range []struct {
		capture string
		want    map[string]int
	}{
		{"pmacct__403_IPFIXv10_BMP_IPv6_CISCO_locrib_peerdown_vrf_t00", map[string]int{"136/0": 15, "1/4": 7, "4/1": 1, "135/0": 5, "134/0": 3, "2/0": 2}},
		{"pmacct__501_IPFIXv10_BGP_IPv6_CISCO_MPLS_t00", map[string]int{"0/0": 4, "136/0": 2, "135/0": 1}},
		{"logstash__IPFIX_Procera", map[string]int{"135/0": 2}},
		{"akvorado__icmp", map[string]int{"128/0": 1, "129/0": 1}},
	} {
		t.Run(tt.capture, func(t *testing.T) {
			path := filepath.Join("../../../shared/corpus/pcap", tt.capture+".pcap")
			if m, _ := filepath.Glob(path); m == nil {
				t.Skipf("SKIPPED: no %s", path)
			}
			got := map[string]int{}
			for _, m := range wireFlows(t, &Decoder{State: newMemory()}, captured(t, path)...) {
				if m.Proto == flowkey.ICMPv6 && m.TunnelProto == 0 {
					got[typesAndCodes([]*flowpb.FlowMessage{m})[0]]++
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("type/code (-want +got):\n%s", d)
			}
		})
	}
}

// fprobe 1.1 captured our own traffic: echo requests of 10.5.5.1, their replies, and port
// unreachable (RFC 792: type 3, code 3); nfdump reads the types alike.
func TestICMPOfFprobeIsInBothPorts(t *testing.T) {
	record := func(src, dst uint16) string {
		return fmt.Sprintf("%032x%08x%08x%016x%04x%04x0000%02x00%016x", 1, 1, 60, 0, src, dst, flowkey.ICMP, 0)
	}
	pkt, err := hex.DecodeString(fmt.Sprintf("0005%04x%040x", 4, 0) + record(8, 0) + record(0, 0) + record(3, 3) + record(0, 0x0301))
	if err != nil {
		t.Fatal(err)
	}
	same(t, newDecoders(), pkt)
	want := []string{"8/0", "0/0", "3/3", "3/1"}
	if d := cmp.Diff(want, typesAndCodes(wireFlows(t, &Decoder{State: newMemory()}, pkt))); d != "" {
		t.Errorf("type/code (-want +got):\n%s", d)
	}
}
