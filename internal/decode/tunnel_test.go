package decode

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/pkg/flowpb"
)

// ofTunnel says what a flow tells of its two tuples, and what of them it keeps raw.
func ofTunnel(m *flowpb.FlowMessage) string {
	s := fmt.Sprintf("%s:%d > %s:%d proto %d", addrOf(m.SrcAddr), m.SrcPort, addrOf(m.DstAddr), m.DstPort, m.Proto)
	for _, f := range []struct {
		name  string
		value uint32
	}{
		{"tos", m.IpTos}, {"flags", m.TcpFlags}, {"label", m.Ipv6FlowLabel}, {"nets", m.SrcNet<<8 | m.DstNet},
		{"icmp", m.IcmpType<<8 | m.IcmpCode}, {"etype", m.Etype ^ 0x0800},
	} {
		if f.value != 0 {
			s += fmt.Sprintf(" %s %d", f.name, f.value)
		}
	}
	if m.TunnelProto != 0 || len(m.TunnelSrcAddr)+len(m.TunnelDstAddr) > 0 {
		s += fmt.Sprintf(" in %s > %s proto %d", addrOf(m.TunnelSrcAddr), addrOf(m.TunnelDstAddr), m.TunnelProto)
	}
	for _, e := range m.Elements {
		s += fmt.Sprintf(" %d=%x", e.Id, e.Value)
	}
	return s
}

// Octets and expected values are by hand. Elements: 27, 28, 8, 12 addresses, 7 and 11
// ports, 4 protocol, 6 TCP flags, 5 ToS, 31 flow label, 29 and 30 prefix lengths.
func TestTheFlowOfATunnelIsTheInnerTuple(t *testing.T) {
	const (
		outer6 = "fcbabe00300100000000000000000001" + "fcbabe003002e0020000000000000000"
		inner6 = "20010db8000000000000000000000013" + "20010db8000000000000000000000012"
		outer4 = "0a000001" + "0a000002"
		inner4 = "c0000201" + "c0000202"
	)
	pair6, pair4 := []uint16{27, 16, 28, 16}, []uint16{8, 4, 12, 4}
	tuple := []uint16{7, 2, 11, 2, 4, 1, 6, 1, 5, 1}
	for _, tt := range []struct {
		name   string
		fields [][]uint16
		record string
		want   string
	}{
		{
			"IPv4 in IPv6", [][]uint16{pair6, tuple, pair4, tuple},
			outer6 + "0000" + "0000" + "04" + "00" + "00" + inner4 + "0400" + "035e" + "11" + "00" + "c0",
			"192.0.2.1:1024 > 192.0.2.2:862 proto 17 tos 192 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4",
		},
		{
			"IPv6 in IPv6", [][]uint16{pair6, tuple, pair6, tuple},
			outer6 + "0000" + "0000" + "29" + "00" + "00" + inner6 + "08ae" + "0457" + "06" + "12" + "00",
			"2001:db8::13:2222 > 2001:db8::12:1111 proto 6 flags 18 etype 36573 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 41",
		},
		{
			"IPv6 in IPv4", [][]uint16{pair4, tuple, pair6, tuple},
			outer4 + "0000" + "0000" + "29" + "00" + "00" + inner6 + "08ae" + "0457" + "11" + "00" + "00",
			"2001:db8::13:2222 > 2001:db8::12:1111 proto 17 etype 36573 in 10.0.0.1 > 10.0.0.2 proto 41",
		},
		{
			"IPv4 in IPv4", [][]uint16{pair4, tuple, pair4, tuple},
			outer4 + "0000" + "0000" + "04" + "00" + "00" + inner4 + "08ae" + "0457" + "11" + "00" + "00",
			"192.0.2.1:2222 > 192.0.2.2:1111 proto 17 in 10.0.0.1 > 10.0.0.2 proto 4",
		},
		{
			"what the outer packet has more is kept raw", [][]uint16{pair6, {31, 4, 29, 1, 30, 1}, tuple, pair6, tuple, {31, 4}},
			outer6 + "0000bf83" + "30" + "40" + "0001" + "0002" + "29" + "03" + "b8" + inner6 + "08ae" + "0457" + "11" + "00" + "20" + "00042ec5",
			"2001:db8::13:2222 > 2001:db8::12:1111 proto 17 tos 32 label 274117 etype 36573 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 41" +
				" 7=0001 11=0002 6=0003 5=b8 31=0000bf83 29=30 30=40",
		},
		{
			"prefix lengths of the inner family are the inner ones", [][]uint16{pair6, {29, 1, 30, 1}, tuple, pair4, {9, 1, 13, 1}, tuple},
			outer6 + "30" + "40" + "0000" + "0000" + "04" + "00" + "00" + inner4 + "18" + "1c" + "08ae" + "0457" + "11" + "00" + "00",
			"192.0.2.1:2222 > 192.0.2.2:1111 proto 17 nets 6172 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4 29=30 30=40",
		},
		{
			"ICMPv6 inside", [][]uint16{pair6, tuple, pair6, tuple},
			outer6 + "0000" + "0000" + "29" + "00" + "00" + inner6 + "0000" + "8000" + "3a" + "00" + "00",
			"2001:db8::13:0 > 2001:db8::12:32768 proto 58 icmp 32768 etype 36573 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 41",
		},
		{
			"no tunnel: the first values count, the later ones are raw", [][]uint16{pair6, tuple, pair6, tuple},
			outer6 + "08ae" + "0457" + "11" + "00" + "20" + inner6 + "0001" + "0002" + "06" + "12" + "b8",
			"fcba:be00:3001::1:2222 > fcba:be00:3002:e002:::1111 proto 17 tos 32 etype 36573" +
				" 27=20010db8000000000000000000000013 28=20010db8000000000000000000000012 7=0001 11=0002 4=06 6=12 5=b8",
		},
		{
			"nothing seen inside: the outer tuple", [][]uint16{pair6, tuple, pair4, tuple},
			outer6 + "0000" + "0000" + "04" + "00" + "00" + "00000000" + "00000000" + "0000" + "0000" + "00" + "00" + "00",
			"fcba:be00:3001::1:0 > fcba:be00:3002:e002:::0 proto 4 etype 36573",
		},
		{
			"nothing seen inside, but ports: they are kept raw", [][]uint16{pair6, tuple, pair4, tuple},
			outer6 + "0000" + "0000" + "04" + "00" + "00" + "00000000" + "00000000" + "08ae" + "0457" + "11" + "00" + "00",
			"fcba:be00:3001::1:0 > fcba:be00:3002:e002:::0 proto 4 etype 36573 4=11 7=08ae 11=0457",
		},
		{
			"addresses of neither tuple are kept raw", [][]uint16{pair6, tuple, pair4, {27, 16}, tuple, {28, 16}},
			outer6 + "0000" + "0000" + "04" + "00" + "00" + inner4 + inner6[:32] + "08ae" + "0457" + "11" + "00" + "00" + inner6[32:],
			"192.0.2.1:2222 > 192.0.2.2:1111 proto 17 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4" +
				" 27=20010db8000000000000000000000013 28=20010db8000000000000000000000012",
		},
		{
			"half a pair is kept raw", [][]uint16{pair6, tuple, pair4, {27, 16}, tuple},
			outer6 + "0000" + "0000" + "04" + "00" + "00" + inner4 + inner6[:32] + "08ae" + "0457" + "11" + "00" + "00",
			"192.0.2.1:2222 > 192.0.2.2:1111 proto 17 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4" +
				" 27=20010db8000000000000000000000013",
		},
		{
			"IE 4 once is no inner tuple", [][]uint16{pair6, {4, 1}, pair4, {7, 2, 11, 2}},
			outer6 + "04" + inner4 + "0001" + "0002",
			"192.0.2.1:1 > 192.0.2.2:2 proto 4 27=fcbabe00300100000000000000000001 28=fcbabe003002e0020000000000000000",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := ipfixRecord(t, tt.record, slices.Concat(tt.fields...)...)
			same(t, newDecoders(), pkt)
			d := &Decoder{State: newMemory()}
			if got := ofTunnel(wireFlows(t, d, pkt)[0]); got != tt.want {
				t.Errorf("flow:\nwant %s\ngot  %s", tt.want, got)
			}
		})
	}
}

// A template with a repeated flow label, then one with a single label: the values are read
// into the same slots.
func TestAFlowLabelIsThatOfTheRecord(t *testing.T) {
	const (
		outer = "fcbabe00300100000000000000000001" + "fcbabe003002e0020000000000000000"
		inner = "20010db8000000000000000000000013" + "20010db8000000000000000000000012"
	)
	tuple := []uint16{27, 16, 28, 16, 31, 4, 7, 2, 11, 2, 4, 1}
	repeated := ipfixRecord(t, outer+"0000bf83"+"0000"+"0000"+"29"+inner+"00042ec5"+"08ae"+"0457"+"11", slices.Concat(tuple, tuple)...)
	single := ipfixRecord(t, outer+"000003bc"+"0000"+"0000"+"04"+"c0000201"+"c0000202"+"08ae"+"0457"+"11",
		slices.Concat(tuple, []uint16{8, 4, 12, 4, 7, 2, 11, 2, 4, 1})...)
	d := &Decoder{State: newMemory()}
	for _, tt := range []struct {
		pkt  []byte
		want uint32
	}{{repeated, 0x42ec5}, {single, 0x3bc}} {
		if m := wireFlows(t, d, tt.pkt)[0]; m.Ipv6FlowLabel != tt.want {
			t.Errorf("flow label %#x, want %#x", m.Ipv6FlowLabel, tt.want)
		}
	}
}

// Expected tuples are read from the captures' octets by hand; nfdump, which keeps the last of
// repeated elements, agrees on the inner ones.
func TestTunnelsOfTheCorpus(t *testing.T) {
	for _, tt := range []struct {
		capture string
		want    map[string]int // tuple → records
	}{
		{"pmacct__106_IPFIXv10_HUAWEI_vrf_name_t00", map[string]int{
			"192.0.2.110:1111 > 192.0.2.14:2222 proto 17 in 2001:db8:53::1 > 2001:db8:9:e140:: proto 4": 1,
			"192.0.2.110:2222 > 192.0.2.14:1111 proto 17 in 2001:db8:53::1 > 2001:db8:9:e140:: proto 4": 1,
		}},
		{"netgauze__srv6", map[string]int{
			"192.0.41.1:0 > 192.0.42.154:0 proto 1 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4":             5,
			"192.0.41.144:1024 > 192.0.42.154:862 proto 17 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4":     5,
			"192.0.41.1:0 > 192.0.42.1:0 proto 1 in fcba:be00:3001::1 > fcba:be00:3002:e002:: proto 4":               5,
			"2001:db8:41::1:0 > 2001:db8:42::154:128 proto 58 in fcba:be00:3001::1 > fcba:be00:3002:e003:: proto 41": 5,
		}},
	} {
		t.Run(tt.capture, func(t *testing.T) {
			path := filepath.Join("../../../shared/corpus/pcap", tt.capture+".pcap")
			if m, _ := filepath.Glob(path); m == nil {
				t.Skipf("SKIPPED: no %s", path)
			}
			d, got := &Decoder{State: newMemory()}, map[string]int{}
			for _, m := range wireFlows(t, d, captured(t, path)...) {
				if m.TunnelProto != 0 {
					got[fmt.Sprintf("%s:%d > %s:%d proto %d in %s > %s proto %d", addrOf(m.SrcAddr), m.SrcPort, addrOf(m.DstAddr), m.DstPort,
						m.Proto, addrOf(m.TunnelSrcAddr), addrOf(m.TunnelDstAddr), m.TunnelProto)]++
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("tuples (-want +got):\n%s", diff)
			}
		})
	}
}
