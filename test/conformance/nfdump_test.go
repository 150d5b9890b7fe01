package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

var nfcapd = flag.String("nfcapd", "", "`path` of nfcapd: send it the corpus and compare each value that nfdump shows")

// An nfdumpRecord is one flow as nfdump -o json shows it.
type nfdumpRecord map[string]any

func (r nfdumpRecord) text(name string) (string, bool) {
	v, ok := r[name]
	return strings.TrimSpace(fmt.Sprint(v)), ok
}

// collected sends the datagrams to nfcapd and returns the flows that nfdump prints, in its order.
func collected(t *testing.T, in []capture.Datagram) (out []nfdumpRecord) {
	t.Helper()
	dir := t.TempDir()
	port := freePort(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	run := exec.CommandContext(ctx, *nfcapd, "-b", "127.0.0.1", "-p", strconv.Itoa(port), "-w", dir, "-t", "86400")
	var said locked.Buffer
	run.Stdout, run.Stderr = &said, &said
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("output of nfcapd: %s", said.String())
		}
	}()
	waitFor(ctx, t, func() bool { return queued(t, port) >= 0 })
	conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // nothing is read
	for _, d := range in {
		if len(d.Payload) == 0 {
			continue
		}
		if _, err := conn.Write(d.Payload); err != nil {
			t.Fatal(err)
		}
		waitFor(ctx, t, func() bool { return queued(t, port) < 64<<10 })
	}
	waitFor(ctx, t, func() bool { return queued(t, port) == 0 })
	_ = run.Process.Signal(syscall.SIGTERM) // Wait reports a process that cannot be ended
	_ = run.Wait()                          // the exit code of nfcapd 1.7.1 after SIGTERM is not 0
	files, _ := filepath.Glob(filepath.Join(dir, "nfcapd.2*"))
	for _, f := range files {
		show := exec.CommandContext(ctx, filepath.Join(filepath.Dir(*nfcapd), "nfdump"), "-r", f, "-o", "json")
		show.Env = append(os.Environ(), "TZ=UTC")
		b, err := show.Output()
		if err != nil {
			t.Fatalf("nfdump -r %s: %v", f, err)
		}
		if strings.Contains(string(b), "No matching flows") {
			continue
		}
		var list []nfdumpRecord
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		if err := d.Decode(&list); err != nil {
			t.Fatalf("nfdump -r %s: %v", f, err)
		}
		out = append(out, list...)
	}
	return out
}

// lastPort is the last port that freePort returned. Its range lies below the kernel's ephemeral
// ports, so a socket gets such a port only by an explicit bind. freePort must not test a port by
// binding it: a process forked at that moment would inherit the socket and hold the port.
var lastPort atomic.Int32

// freePort returns an unused UDP port, a different port on each call.
func freePort(t *testing.T) int {
	t.Helper()
	lastPort.CompareAndSwap(0, 21_000)
	for lastPort.Load() < 32_000 {
		port := int(lastPort.Add(1))
		if queued(t, port) < 0 {
			return port
		}
	}
	t.Fatal("no free UDP port from 21001 to 32000")
	return 0
}

// waitFor polls until the condition holds, and fails the test when ctx ends first.
func waitFor(ctx context.Context, t *testing.T, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatal("nfcapd does not listen, or does not read its socket")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// queued returns the octets in the receive queue of a UDP port, or -1 if no socket is bound to it.
func queued(t *testing.T, port int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Skipf("SKIPPED: needs /proc/net/udp: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			_, rx, _ := strings.Cut(f[4], ":")
			n, _ := strconv.ParseInt(rx, 16, 64)
			return int(n)
		}
	}
	return -1
}

// An nfdumpQuantity is a value that both nfdump's flows and FlowMessages have.
type nfdumpQuantity struct {
	name   string
	fields []string // names in nfdump's JSON; the first that is present and not zero counts
	ours   func(m *flowpb.FlowMessage) string
}

var nfdumpQuantities = []nfdumpQuantity{
	{"octets", []string{"in_bytes"}, func(m *flowpb.FlowMessage) string { return decimal(m.Bytes * max(m.SamplingRate, 1)) }},
	{"packets", []string{"in_packets"}, func(m *flowpb.FlowMessage) string { return decimal(m.Packets * max(m.SamplingRate, 1)) }},
	{"octets out", []string{"out_bytes"}, func(m *flowpb.FlowMessage) string { return decimal(cmp.Or(m.ReverseBytes, m.PostBytes)) }},
	{"packets out", []string{"out_packets"}, func(m *flowpb.FlowMessage) string { return decimal(cmp.Or(m.ReversePackets, m.PostPackets)) }},
	{"start", []string{"first"}, func(m *flowpb.FlowMessage) string { return millis(m.TimeFlowStartNs) }},
	{"end", []string{"last"}, func(m *flowpb.FlowMessage) string { return millis(m.TimeFlowEndNs) }},
	{"TCP flags", []string{"tcp_flags"}, flagText},
	{"type of service", []string{"src_tos"}, func(m *flowpb.FlowMessage) string { return decimal(m.IpTos) }},
	{"input interface", []string{"input_snmp"}, func(m *flowpb.FlowMessage) string { return decimal(m.InIf) }},
	{"output interface", []string{"output_snmp"}, func(m *flowpb.FlowMessage) string { return decimal(m.OutIf) }},
	{"source prefix length", []string{"src_mask"}, func(m *flowpb.FlowMessage) string { return decimal(m.SrcNet) }},
	{"destination prefix length", []string{"dst_mask"}, func(m *flowpb.FlowMessage) string { return decimal(m.DstNet) }},
	{"source AS", []string{"src_as"}, func(m *flowpb.FlowMessage) string { return decimal(m.SrcAs) }},
	{"destination AS", []string{"dst_as"}, func(m *flowpb.FlowMessage) string { return decimal(m.DstAs) }},
	{"next hop", []string{"ip4_next_hop", "ip6_next_hop"}, func(m *flowpb.FlowMessage) string { return addrText(m.NextHop) }},
	{"BGP next hop", []string{"bgp4_next_hop", "bgp6_next_hop"}, func(m *flowpb.FlowMessage) string { return addrText(m.BgpNextHop) }},
	{"source MAC", []string{"in_src_mac"}, func(m *flowpb.FlowMessage) string { return macText(m.SrcMac) }},
	{"destination MAC", []string{"in_dst_mac", "out_dst_mac"}, func(m *flowpb.FlowMessage) string { return macText(m.DstMac) }},
	{"VLAN", []string{"src_vlan"}, func(m *flowpb.FlowMessage) string { return decimal(m.SrcVlan) }},
	{"VLAN afterwards", []string{"dst_vlan"}, func(m *flowpb.FlowMessage) string { return decimal(m.DstVlan) }},
	{"input VRF", []string{"ingress_vrf"}, func(m *flowpb.FlowMessage) string { return decimal(m.IngressVrfId) }},
	{"output VRF", []string{"egress_vrf"}, func(m *flowpb.FlowMessage) string { return decimal(m.EgressVrfId) }},
	{"translated source", []string{"src4_xlt_ip", "src6_xlt_ip"}, func(m *flowpb.FlowMessage) string { return addrText(m.PostNatSrcAddr) }},
	{"translated destination", []string{"dst4_xlt_ip", "dst6_xlt_ip"}, func(m *flowpb.FlowMessage) string { return addrText(m.PostNatDstAddr) }},
	{"translated source port", []string{"src_xlt_port"}, func(m *flowpb.FlowMessage) string { return decimal(m.PostNatSrcPort) }},
	{"translated destination port", []string{"dst_xlt_port"}, func(m *flowpb.FlowMessage) string { return decimal(m.PostNatDstPort) }},
	{"ICMP type", []string{"icmp_type"}, func(m *flowpb.FlowMessage) string { return decimal(m.IcmpType) }},
	{"ICMP code", []string{"icmp_code"}, func(m *flowpb.FlowMessage) string { return decimal(m.IcmpCode) }},
}

func millis(ns uint64) string {
	return time.Unix(0, int64(ns)).UTC().Format("2006-01-02T15:04:05.000")
}

// flagText returns the TCP control bits in nfdump's form, for example "...AP.SF".
func flagText(m *flowpb.FlowMessage) string {
	b := []byte("........")
	for i, c := range []byte("CEUAPRSF") {
		if m.TcpFlags>>(7-i)&1 == 1 {
			b[i] = c
		}
	}
	return string(b)
}

func macText(mac uint64) string {
	if mac == 0 {
		return ""
	}
	b := []string{}
	for i := 40; i >= 0; i -= 8 {
		b = append(b, fmt.Sprintf("%02x", mac>>i&0xff))
	}
	return strings.Join(b, ":")
}

// tuple returns addresses, ports and protocol of a record as one string. A missing or zero value is empty.
func (r nfdumpRecord) tuple() string {
	at := func(names ...string) string {
		for _, n := range names {
			if v, ok := r.text(n); ok {
				if a, err := netip.ParseAddr(v); err == nil && !a.IsUnspecified() {
					return a.String()
				} else if err == nil {
					return ""
				}
				return strings.TrimPrefix(v, "0")
			}
		}
		return ""
	}
	return strings.Join([]string{at("src4_addr", "src6_addr"), at("dst4_addr", "dst6_addr"), at("src_port"), at("dst_port"), at("proto")}, " ")
}

func nfdumpTuple(m *flowpb.FlowMessage) string {
	text := func(b []byte) string {
		if a, ok := netip.AddrFromSlice(b); ok && !a.IsUnspecified() {
			return a.String()
		}
		return ""
	}
	number := func(n uint32) string { return strings.TrimPrefix(decimal(n), "0") }
	ports := [2]string{number(m.SrcPort), number(m.DstPort)}
	if m.Proto == 1 || m.Proto == 58 {
		ports = [2]string{"", ""}
	}
	return strings.Join([]string{text(m.SrcAddr), text(m.DstAddr), ports[0], ports[1], number(m.Proto)}, " ")
}

// Causes of different values of nfdump that apply to every capture.
const (
	nfdumpSampled  = "nfdump multiplies counters by the sampling rate, but only if it already knows the rate; Weir leaves the counters and reports the rate"
	nfdumpMasks    = "nfdump does not store the prefix lengths of NetFlow v5 and v7"
	nfdumpSwapped  = "nfdump swaps start and end of IPFIX records that give them as uptimes; tshark agrees with Weir"
	nfdumpFamily   = "nfdump shows the record's zero IPv4 addresses instead of its IPv6 addresses"
	nfdumpICMP     = "nfdump reads ICMP type and code only from the destination port"
	nfdumpOuter    = "nfdump shows the prefix lengths of the outer addresses beside the inner addresses"
	nfdumpWraps    = "nfdump does not handle the wrap of uptimes after 2^32 ms"
	nfdumpTimeless = "nfdump shows no times for a record that lacks start or end"
)

// rule returns the cause, of those that apply to every capture, by which nfdump's value may differ from m's;
// "" if there is none.
func (r nfdumpRecord) rule(quantity, theirs string, m *flowpb.FlowMessage) string {
	first, _ := r.text("first")
	last, _ := r.text("last")
	switch {
	case quantity == "octets" && theirs == decimal(m.Bytes), quantity == "packets" && theirs == decimal(m.Packets):
		return nfdumpSampled
	case (m.Type == flowpb.FlowMessage_NETFLOW_V5 || m.Type == flowpb.FlowMessage_NETFLOW_V7) && strings.HasSuffix(quantity, "prefix length") && theirs == "0":
		return nfdumpMasks
	case quantity == "ICMP type" && (theirs == "0" || theirs == decimal(m.DstPort>>8)), quantity == "ICMP code" && (theirs == "0" || theirs == decimal(m.DstPort&0xff)):
		return nfdumpICMP
	case m.TunnelProto != 0 && strings.HasSuffix(quantity, "prefix length"):
		return nfdumpOuter
	case quantity != "start" && quantity != "end":
	case first == millis(m.TimeFlowEndNs) && last == millis(m.TimeFlowStartNs):
		return nfdumpSwapped
	case strings.HasPrefix(theirs, "1970-01-01"):
		return nfdumpTimeless
	case theirs == millis(map[string]uint64{"start": m.TimeFlowStartNs, "end": m.TimeFlowEndNs}[quantity]+uint64(time.Millisecond)<<32),
		theirs == millis(map[string]uint64{"end": m.TimeFlowStartNs, "start": m.TimeFlowEndNs}[quantity]+uint64(time.Millisecond)<<32):
		return nfdumpWraps
	}
	return ""
}

// The test needs -nfcapd.
func TestEachDifferenceOfMeaningToNfdumpHasItsRule(t *testing.T) {
	names, paths := corpusCaptures(t)
	if *nfcapd == "" {
		t.Skip("SKIPPED: needs -nfcapd")
	}
	if path, err := exec.LookPath(*nfcapd); err == nil {
		*nfcapd = path
	}
	all := make([]comparison, len(names))
	t.Run("captures", func(t *testing.T) {
		for i, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				in := captured(t, paths[i])
				all[i] = compareNfdump(collected(t, in), decoded(t, in))
			})
		}
	})
	x := table{other: "nfdump", rules: nfdumpMeans}
	for i, name := range names {
		x.add(t, name, &all[i])
	}
	if x.compared < 100_000 {
		t.Errorf("%d values were compared, want at least 100000", x.compared)
	}
	between(t, nfdumpMark, x.text())
}

// compareNfdump compares the two decoders' flows of a capture. The n-th flow of a conversation in
// nfdump's output is compared with the n-th of Weir's; surplus flows of Weir's are not compared.
func compareNfdump(theirs []nfdumpRecord, ours []datagram) (c comparison) {
	by := map[string][]*flowpb.FlowMessage{}
	for _, d := range ours {
		for _, m := range d.flows {
			by[nfdumpTuple(m)] = append(by[nfdumpTuple(m)], m)
		}
	}
	for i, r := range theirs {
		k := r.tuple()
		list := by[k]
		if len(list) == 0 {
			rule := ""
			if strings.HasPrefix(k, "  ") {
				rule = nfdumpFamily
			}
			c.note("conversation", k, "none such", fmt.Sprintf("flow %d", i), rule)
			continue
		}
		m := list[0]
		by[k] = list[1:]
		for _, q := range nfdumpQuantities {
			v, ok := "", false
			for _, f := range q.fields {
				w, has := r.text(f)
				if ok = ok || has; has {
					v = cmp.Or(map[bool]string{true: "", false: v}[nothing[v]], w)
				}
			}
			if ok {
				c.note(q.name, v, q.ours(m), fmt.Sprintf("flow %d %s", i, k), r.rule(q.name, v, m))
			}
		}
	}
	return c
}
