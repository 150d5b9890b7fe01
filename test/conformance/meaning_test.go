package conformance

import (
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/cli/capture"
	"weir/internal/weirtest/tsv"
	"weir/pkg/flowpb"
)

// A tsharkRecord is one data record in tshark's output: element → its values as text, in the
// order of the record.
type tsharkRecord map[string][]string

// A tsharkDatagram is tshark's decode of one datagram.
type tsharkDatagram struct {
	header tsharkRecord
	sets   map[int][]tsharkRecord // by the set's position in the datagram, from 1; records of v1 to v7 are in set 1
}

var (
	tsharkSet    = regexp.MustCompile(`^(?:Flow)?Set (\d+) \[id=\d+\]`)
	tsharkFlow   = regexp.MustCompile(`^Flow (\d+)$`)
	tsharkPDU    = regexp.MustCompile(`^pdu (\d+)/\d+$`)
	tsharkLabel  = regexp.MustCompile(`^MPLS-Label(\d+): (\d+) `)
	tsharkInside = regexp.MustCompile(`_tree$|^Forwarding Status$`)
)

// readTshark reads a gzipped file of tshark's JSON output: a decode of each packet of a capture.
func readTshark(t *testing.T, path string) (out []tsharkDatagram) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var packets []struct{ CFlow json.RawMessage }
	if err := json.NewDecoder(z).Decode(&packets); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, p := range packets {
		var d map[string]any
		if json.Unmarshal(p.CFlow, &d) != nil { // not NetFlow
			d = nil
		}
		out = append(out, tsharkDatagramOf(d))
	}
	return out
}

func tsharkDatagramOf(d map[string]any) tsharkDatagram {
	out := tsharkDatagram{header: tsharkRecord{}, sets: map[int][]tsharkRecord{}}
	flat(out.header, d)
	pdus := map[int]tsharkRecord{}
	for name, v := range d {
		inside, ok := v.(map[string]any)
		if !ok {
			continue
		}
		if m := tsharkPDU.FindStringSubmatch(name); m != nil {
			n, _ := strconv.Atoi(m[1])
			pdus[n] = tsharkRecord{}
			flat(pdus[n], inside)
		}
		if m := tsharkSet.FindStringSubmatch(name); m != nil {
			set, _ := strconv.Atoi(m[1])
			flows := map[int]tsharkRecord{}
			for name, v := range inside {
				if m := tsharkFlow.FindStringSubmatch(name); m != nil {
					n, _ := strconv.Atoi(m[1])
					flows[n] = tsharkRecord{}
					record, _ := v.(map[string]any)
					flat(flows[n], record)
				}
			}
			out.sets[set] = inOrder(flows)
		}
	}
	if len(pdus) > 0 {
		out.sets[1] = inOrder(pdus)
	}
	return out
}

func inOrder(by map[int]tsharkRecord) (out []tsharkRecord) {
	for _, n := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[n])
	}
	return out
}

// flat adds the fields of v to r. It descends into the trees of a record, but not into sets or records.
func flat(r tsharkRecord, v map[string]any) {
	for name, v := range v {
		switch v := v.(type) {
		case string:
			r[name] = append(r[name], v)
		case []any:
			for _, x := range v {
				if s, ok := x.(string); ok {
					r[name] = append(r[name], s)
				}
			}
		case map[string]any:
			if m := tsharkLabel.FindStringSubmatch(name); m != nil {
				r["label"+m[1]] = []string{m[2]}
			}
			if tsharkInside.MatchString(name) {
				flat(r, v)
			}
		}
	}
}

// A moment holds the reference times of a datagram, ns since the epoch. Uptimes of its records are
// relative to start.
type moment struct {
	start  int64 // the exporter's start; 0: not known
	export int64 // the header's export time
}

// inner returns the fields of the inner packet of a tunnel record: if the record repeats the protocol
// and the first is IPv4 (4) or IPv6 (41), the last value of each element. It returns any other record
// unchanged.
func (r tsharkRecord) inner() tsharkRecord {
	protocols := r["cflow.protocol"]
	if len(protocols) < 2 || protocols[0] != "4" && protocols[0] != "41" {
		return r
	}
	out := tsharkRecord{}
	for name, v := range r {
		out[name] = v[len(v)-1:]
	}
	unwanted := []string{"cflow.srcmaskv6", "cflow.dstmaskv6"} // of the outer addresses, unless they are repeated
	if protocols[0] == "41" {
		unwanted = append(unwanted, "cflow.srcaddr", "cflow.dstaddr")
	}
	for _, name := range unwanted {
		if len(r[name]) < 2 {
			delete(out, name)
		}
	}
	return out
}

// A quantity is a value of a record that both decoders show.
type quantity struct {
	name   string
	theirs func(r tsharkRecord, at *moment) (v string, ok bool)
	ours   func(m *flowpb.FlowMessage) string
}

// first returns tshark's text of the first of the named elements that a record contains.
func first(names ...string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, _ *moment) (string, bool) {
		for _, n := range names {
			if v := r["cflow."+n]; len(v) > 0 {
				return v[0], true
			}
		}
		return "", false
	}
}

// integer is like first, and converts a number (also 0x…) to decimal.
func integer(names ...string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, at *moment) (string, bool) {
		v, ok := first(names...)(r, at)
		if !ok {
			return "", false
		}
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil {
			return v, true
		}
		return strconv.FormatUint(n, 10), true
	}
}

// address returns the value of the IPv4 element, that of the IPv6 element if the IPv4 address is
// absent or zero, and else that of the first of the others.
func address(v4, v6 string, others ...string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, _ *moment) (string, bool) {
		a, b := r["cflow."+v4], r["cflow."+v6]
		switch {
		case len(a) > 0 && (a[0] != "0.0.0.0" || len(b) == 0):
			return a[0], true
		case len(b) > 0:
			ip, err := netip.ParseAddr(b[0])
			if err != nil {
				return b[0], true
			}
			return ip.String(), true
		}
		return first(others...)(r, nil)
	}
}

// hardware returns a MAC address as a decimal number, as in FlowMessage.
func hardware(names ...string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, at *moment) (string, bool) {
		v, ok := first(names...)(r, at)
		b, err := hex.DecodeString(strings.ReplaceAll(v, ":", ""))
		if !ok || err != nil || len(b) > 8 {
			return v, ok
		}
		var n uint64
		for _, x := range b {
			n = n<<8 | uint64(x)
		}
		return strconv.FormatUint(n, 10), true
	}
}

// icmp returns the ICMP type (part 0) or code (part 1): from its own element, else from the element that
// holds both (type × 256 + code).
func icmp(part int, both []string, own ...string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, at *moment) (string, bool) {
		if v, ok := integer(own...)(r, at); ok {
			return v, true
		}
		v, ok := integer(both...)(r, at)
		n, err := strconv.Atoi(v)
		if !ok || err != nil {
			return "", false
		}
		return strconv.Itoa(n >> (8 * (1 - part)) & 0xff), true
	}
}

const tsharkTime = "Jan _2, 2006 15:04:05.000000000 MST"

// instant is a time in ns since the epoch, absolute or relative to the exporter's
// start.
func instant(absolute, relative string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, at *moment) (string, bool) {
		if v := r["cflow."+absolute]; len(v) > 0 {
			t, err := time.Parse(tsharkTime, v[0])
			if err != nil {
				return v[0], true
			}
			return strconv.FormatInt(t.UnixNano(), 10), true
		}
		v := r["cflow."+relative]
		if len(v) == 0 {
			return "", false
		}
		s, err := strconv.ParseFloat(v[0], 64)
		if err != nil {
			return v[0], true
		}
		up := int64(math.Round(s*1000)) * int64(time.Millisecond)
		ns := at.start + up
		switch last, err := strconv.ParseFloat(only(r, "cflow.timeend"), 64); {
		case at.start == 0 && err == nil: // the last packet was counted when the record was exported
			ns = at.export - int64(math.Round(last*1000))*int64(time.Millisecond) + up
		case ns > at.export+int64(time.Minute): // before the 32 bits of uptime started again at 0
			ns -= int64(time.Millisecond) << 32
		}
		return strconv.FormatInt(ns, 10), true
	}
}

var quantities = []quantity{
	{"source address", address("srcaddr", "srcaddrv6", "pie.cisco.connection_client_ipv4_address"), func(m *flowpb.FlowMessage) string { return addrText(m.SrcAddr) }},
	{"destination address", address("dstaddr", "dstaddrv6", "pie.cisco.connection_server_ipv4_address"), func(m *flowpb.FlowMessage) string { return addrText(m.DstAddr) }},
	{"source port", integer("srcport", "pie.cisco.connection_client_transport_port"), func(m *flowpb.FlowMessage) string { return decimal(m.SrcPort) }},
	{"destination port", integer("dstport", "pie.cisco.connection_server_transport_port"), func(m *flowpb.FlowMessage) string { return decimal(m.DstPort) }},
	{"protocol", integer("protocol"), func(m *flowpb.FlowMessage) string { return decimal(m.Proto) }},
	{"octets", integer("octets", "octets64", "permanent_octets", "initiator_octets"), func(m *flowpb.FlowMessage) string { return decimal(m.Bytes) }},
	{"packets", integer("packets", "packets64", "permanent_packets", "initiator_packets"), func(m *flowpb.FlowMessage) string { return decimal(m.Packets) }},
	{"reverse octets", integer("responder_octets"), func(m *flowpb.FlowMessage) string { return decimal(m.ReverseBytes) }},
	{"reverse packets", integer("responder_packets"), func(m *flowpb.FlowMessage) string { return decimal(m.ReversePackets) }},
	{"start", instant("abstimestart", "timestart"), func(m *flowpb.FlowMessage) string { return decimal(m.TimeFlowStartNs) }},
	{"end", instant("abstimeend", "timeend"), func(m *flowpb.FlowMessage) string { return decimal(m.TimeFlowEndNs) }},
	{"input interface", integer("inputint"), func(m *flowpb.FlowMessage) string { return decimal(m.InIf) }},
	{"output interface", integer("outputint"), func(m *flowpb.FlowMessage) string { return decimal(m.OutIf) }},
	{"type of service", integer("tos"), func(m *flowpb.FlowMessage) string { return decimal(m.IpTos) }},
	{"TCP flags in a list", yafFlags(0), func(m *flowpb.FlowMessage) string { return decimal(m.TcpFlags) }},
	{"reverse TCP flags in a list", yafFlags(1), func(m *flowpb.FlowMessage) string { return decimal(m.ReverseTcpFlags) }},
	{"TCP flags", integer("tcpflags", "tcpflags16"), func(m *flowpb.FlowMessage) string { return decimal(m.TcpFlags) }},
	{"source AS", integer("srcas"), func(m *flowpb.FlowMessage) string { return decimal(m.SrcAs) }},
	{"destination AS", integer("dstas"), func(m *flowpb.FlowMessage) string { return decimal(m.DstAs) }},
	{"source prefix length", masked("srcmask", "srcmaskv6", "srcaddr", "srcaddrv6"), func(m *flowpb.FlowMessage) string { return decimal(m.SrcNet) }},
	{"destination prefix length", masked("dstmask", "dstmaskv6", "dstaddr", "dstaddrv6"), func(m *flowpb.FlowMessage) string { return decimal(m.DstNet) }},
	{"next hop", address("nexthop", "nexthopv6"), func(m *flowpb.FlowMessage) string { return addrText(m.NextHop) }},
	{"BGP next hop", address("bgpnexthop", "bgpnexthopv6"), func(m *flowpb.FlowMessage) string { return addrText(m.BgpNextHop) }},
	{"source MAC", hardware("srcmac"), func(m *flowpb.FlowMessage) string { return decimal(m.SrcMac) }},
	{"destination MAC", hardware("dstmac", "post_dstmac"), func(m *flowpb.FlowMessage) string { return decimal(m.DstMac) }},
	{"VLAN", integer("vlanid"), func(m *flowpb.FlowMessage) string { return decimal(m.SrcVlan) }},
	{"VLAN afterwards", integer("post_vlanid"), func(m *flowpb.FlowMessage) string { return decimal(m.DstVlan) }},
	{"802.1Q VLAN", integer("dot1q_vlan_id"), func(m *flowpb.FlowMessage) string { return decimal(m.VlanId) }},
	{"translated source", address("post_natsource_ipv4_address", "post_natsource_ipv6_address"), func(m *flowpb.FlowMessage) string { return addrText(m.PostNatSrcAddr) }},
	{"translated destination", address("post_natdestination_ipv4_address", "post_natdestination_ipv6_address"), func(m *flowpb.FlowMessage) string { return addrText(m.PostNatDstAddr) }},
	{"translated source port", integer("post_naptsource_transport_port"), func(m *flowpb.FlowMessage) string { return decimal(m.PostNatSrcPort) }},
	{"translated destination port", integer("post_naptdestination_transport_port"), func(m *flowpb.FlowMessage) string { return decimal(m.PostNatDstPort) }},
	{"NAT event", integer("nat_event"), func(m *flowpb.FlowMessage) string { return decimal(m.NatEvent) }},
	{"firewall event", integer("firewall_event"), func(m *flowpb.FlowMessage) string { return decimal(m.FirewallEvent) }},
	{"flow id", integer("flow_id"), func(m *flowpb.FlowMessage) string { return decimal(m.FlowId) }},
	{"input VRF", integer("ingress_vrfid"), func(m *flowpb.FlowMessage) string { return decimal(m.IngressVrfId) }},
	{"output VRF", integer("egress_vrfid"), func(m *flowpb.FlowMessage) string { return decimal(m.EgressVrfId) }},
	{"ICMP type", icmp(0, []string{"icmp_type_code_ipv4", "icmp_type_code_ipv6"}, "icmp_ipv4_type", "icmp_ipv6_type"), func(m *flowpb.FlowMessage) string { return decimal(m.IcmpType) }},
	{"ICMP code", icmp(1, []string{"icmp_type_code_ipv4", "icmp_type_code_ipv6"}, "icmp_ipv4_code", "icmp_ipv6_code"), func(m *flowpb.FlowMessage) string { return decimal(m.IcmpCode) }},
	{"sampling rate", integer("sampling_interval"), func(m *flowpb.FlowMessage) string { return decimal(m.SamplingRate) }},
	{"direction", direction, func(m *flowpb.FlowMessage) string { return decimal(m.FlowDirection) }},
	{"end reason", integer("flow_end_reason"), func(m *flowpb.FlowMessage) string { return decimal(m.FlowEndReason) }},
	{"TTL", integer("ip_ttl", "ttl_min"), func(m *flowpb.FlowMessage) string { return decimal(m.IpTtl) }},
	{"flow label", integer("ipv6flowlabel"), func(m *flowpb.FlowMessage) string { return decimal(m.Ipv6FlowLabel) }},
	{"fragment id", integer("ipv4_ident"), func(m *flowpb.FlowMessage) string { return decimal(m.FragmentId) }},
	{"octets afterwards", integer("post_octets"), func(m *flowpb.FlowMessage) string { return decimal(m.PostBytes) }},
	{"packets afterwards", integer("post_packets"), func(m *flowpb.FlowMessage) string { return decimal(m.PostPackets) }},
	{"Ethernet type", integer("ethernet_type"), func(m *flowpb.FlowMessage) string { return decimal(m.Etype) }},
	{"MPLS labels", labels, func(m *flowpb.FlowMessage) string { return fmt.Sprint(m.MplsLabel) }},
	{"VRF name", text("vrfname"), func(m *flowpb.FlowMessage) string { return m.VrfName }},
	{"interface name", text("if_name"), func(m *flowpb.FlowMessage) string { return m.InterfaceName }},
	{"application name", text("appl_name"), func(m *flowpb.FlowMessage) string { return m.ApplicationName }},
	{"user name", text("aaa_username"), func(m *flowpb.FlowMessage) string { return fieldText(m, "user_name") }},
	{"observation point", integer("observation_point_id"), func(m *flowpb.FlowMessage) string { return decimal(m.ObservationPointId) }},
	{"biflow direction", integer("biflow_direction"), func(m *flowpb.FlowMessage) string { return decimal(m.BiflowDirection - 1) }},
}

// masked returns the prefix length of the address family that address would return.
func masked(v4, v6, addr4, addr6 string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, at *moment) (string, bool) {
		a, ok4 := integer(v4)(r, at)
		b, ok6 := integer(v6)(r, at)
		if !ok4 || !ok6 {
			return a + b, ok4 || ok6
		}
		if v := r["cflow."+addr4]; len(v) > 0 && (v[0] != "0.0.0.0" || len(r["cflow."+addr6]) == 0) {
			return a, true
		}
		return b, true
	}
}

// yafFlags returns the TCP flags of a direction (0 forward, 1 reverse) in a subTemplateMultiList of YAF,
// which tshark shows as octets. RFC 6313 section 4.5.3: a semantic (1 octet), then blocks of template ID
// (2), length (2) and records. YAF's records begin with tcpSequenceNumber (4 octets), initialTCPFlags (1)
// and unionTCPFlags (1); those of template 0xc013 continue with the flags of the reverse direction.
func yafFlags(side int) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, _ *moment) (string, bool) {
		for _, entry := range r["cflow.enterprise_private_entry"] {
			b, err := hex.DecodeString(strings.ReplaceAll(entry, ":", ""))
			if err != nil || len(b) < 11+2*side || b[0] != 3 {
				continue
			}
			if id := binary.BigEndian.Uint16(b[1:]); id == 0xc013 || side == 0 && id == 0xc003 {
				return decimal(uint32(b[9+2*side] | b[10+2*side])), true
			}
		}
		return "", false
	}
}

// direction returns flowDirection in the numbers of FlowMessage, 1 ingress and 2 egress; tshark shows the
// element's 0 and 1.
func direction(r tsharkRecord, at *moment) (string, bool) {
	v, ok := integer("direction")(r, at)
	n, err := strconv.Atoi(v)
	if !ok || err != nil {
		return v, ok
	}
	return strconv.Itoa(n + 1), true
}

// labels returns the MPLS labels of a record from the top of the stack, without labels of 0.
func labels(r tsharkRecord, _ *moment) (string, bool) {
	var all []string
	for i := 1; i <= 10; i++ {
		if v := r["label"+strconv.Itoa(i)]; len(v) > 0 && v[0] != "0" {
			all = append(all, v[0])
		}
	}
	return fmt.Sprint(all), len(all) > 0
}

// text is like first, without trailing NULs and spaces.
func text(name string) func(tsharkRecord, *moment) (string, bool) {
	return func(r tsharkRecord, at *moment) (string, bool) {
		v, ok := first(name)(r, at)
		return strings.TrimRight(v, "\x00 "), ok
	}
}

// fieldText returns a string field of a FlowMessage by its name in the .proto, or "" if there is none.
func fieldText(m *flowpb.FlowMessage, name string) string {
	p := m.ProtoReflect()
	f := p.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil {
		return ""
	}
	return p.Get(f).String()
}

// momentOf returns the reference times of a datagram. The exporter's start is the header's clock less its
// uptime; for IPFIX, whose header has no uptime, it is systemInitTimeMilliseconds (160) of the domain's
// options data. started collects the latter by port and domain.
func momentOf(d *tsharkDatagram, port uint16, started map[string]int64) (at moment) {
	h := d.header
	t, err := time.Parse(tsharkTime, only(h, "cflow.timestamp"))
	if err != nil {
		return at
	}
	at.export = t.UnixNano()
	domain := fmt.Sprintf("%d %s%s", port, only(h, "cflow.od_id"), only(h, "cflow.source_id"))
	for _, n := range slices.Sorted(maps.Keys(d.sets)) {
		for _, r := range d.sets[n] {
			if t, err := time.Parse(tsharkTime, only(r, "cflow.sys_init_time")); err == nil {
				started[domain] = t.UnixNano()
			}
		}
	}
	up, err := strconv.ParseFloat(only(h, "cflow.sysuptime"), 64)
	if err != nil {
		at.start = started[domain]
		return at
	}
	at.start = at.export - int64(math.Round(up*1000))*int64(time.Millisecond)
	return at
}

func only(r tsharkRecord, name string) string {
	if v := r[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// setOf returns the position, from 1, of the set that contains the octet at offset off of a datagram.
func setOf(b []byte, off uint32) int {
	at := map[uint16]int{9: 20, 10: 16}[binary.BigEndian.Uint16(b)]
	for n := 1; at > 0 && at+4 <= len(b); n++ {
		length := int(binary.BigEndian.Uint16(b[at+2:]))
		if int(off) < at+length {
			return n
		}
		if length < 4 {
			break
		}
		at += length
	}
	return 1
}

// same reports whether two values of a quantity are equal. A zero equals an absent value, since a
// FlowMessage does not distinguish them.
func same(theirs, ours string) bool {
	return theirs == ours || nothing[theirs] && nothing[ours]
}

var nothing = map[string]bool{"0": true, "00:00:00:00:00:00": true, "": true, "invalid IP": true, "0.0.0.0": true, "::": true, "[]": true}

// A difference counts the records of a capture in which a quantity differs for one cause.
type difference struct {
	quantity string
	rule     string
	times    int
	example  string
}

// A comparison counts the values of one capture that two decoders read.
type comparison struct {
	compared, equal int
	differ          map[string]*difference
}

// note compares and counts a value. rule is the cause of a difference, or "" if the capture's list has
// the cause.
func (c *comparison) note(quantity, theirs, ours, where, rule string) {
	c.compared++
	if same(theirs, ours) {
		c.equal++
		return
	}
	if c.differ == nil {
		c.differ = map[string]*difference{}
	}
	d := c.differ[quantity+rule]
	if d == nil {
		d = &difference{quantity: quantity, rule: rule, example: fmt.Sprintf("%s: %q, Weir %q", where, theirs, ours)}
		c.differ[quantity+rule] = d
	}
	d.times++
}

// A table collects the rows of docs/conformance.md for one other decoder. add fails the test for a
// difference without a cause and for a listed cause without a difference.
type table struct {
	other                     string
	rules                     map[string]map[string]string // capture → quantity → cause
	captures, compared, equal int
	causes                    map[string]*cause
}

// A cause collects the differences with the same explanation.
type cause struct {
	records  map[string]int // quantity → number of records
	captures []string
}

func (x *table) add(t *testing.T, capture string, c *comparison) {
	t.Helper()
	x.captures, x.compared, x.equal = x.captures+1, x.compared+c.compared, x.equal+c.equal
	if x.causes == nil {
		x.causes = map[string]*cause{}
	}
	for _, k := range slices.Sorted(maps.Keys(c.differ)) {
		d := c.differ[k]
		rule := cmp.Or(d.rule, x.rules[capture][d.quantity])
		if rule == "" {
			t.Errorf("%s: %s, %d times (%s): the difference to %s has no cause", capture, d.quantity, d.times, d.example, x.other)
			continue
		}
		why := x.causes[rule]
		if why == nil {
			why = &cause{records: map[string]int{}}
			x.causes[rule] = why
		}
		why.records[d.quantity] += d.times
		if !slices.Contains(why.captures, capture) {
			why.captures = append(why.captures, capture)
		}
	}
	for q, rule := range x.rules[capture] {
		if c.differ[q] == nil {
			t.Errorf("%s: %s is equal, although a cause is listed: %s", capture, q, rule)
		}
	}
}

func (x *table) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: %d values of %d captures were compared, %d are equal. The different values by cause:\n\n"+
		"| cause | quantity (records) | captures |\n|---|---|---|\n", x.other, x.compared, x.captures, x.equal)
	for _, rule := range slices.Sorted(maps.Keys(x.causes)) {
		c := x.causes[rule]
		var quantities []string
		for _, q := range slices.Sorted(maps.Keys(c.records)) {
			quantities = append(quantities, fmt.Sprintf("%s (%d)", q, c.records[q]))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", rule, strings.Join(quantities, ", "), fold(c.captures))
	}
	return b.String() + "\n"
}

const corpus = "../../../shared/corpus/"

// corpusCaptures returns the names and paths of the corpus' captures. It skips the test if there is no corpus.
func corpusCaptures(t *testing.T) (names, paths []string) {
	t.Helper()
	if _, err := os.Stat(corpus + "INDEX.tsv"); err != nil {
		t.Skipf("SKIPPED: no corpus: %v", err)
	}
	for _, r := range tsv.Read(t, corpus+"INDEX.tsv") {
		names = append(names, strings.TrimSuffix(filepath.Base(r.At("file")), ".pcap"))
		paths = append(paths, corpus+r.At("file"))
	}
	return names, paths
}

func TestEachDifferenceOfMeaningToTsharkHasItsRule(t *testing.T) {
	names, paths := corpusCaptures(t)
	x := table{other: "tshark", rules: tsharkMeans}
	for i, name := range names {
		path := corpus + "tshark/" + name + ".2pass.json.gz"
		if _, err := os.Stat(path); err != nil {
			path = corpus + "tshark/" + name + ".json.gz"
		}
		c := compareTshark(t, readTshark(t, path), captured(t, paths[i]))
		x.add(t, name, &c)
	}
	if x.compared < 200_000 {
		t.Errorf("%d values were compared, want at least 200000", x.compared)
	}
	between(t, tsharkMark, x.text())
}

// compareTshark compares the records that both decoders found at the same position of the same set.
// Sets with a different number of records are left to the comparison of counts.
func compareTshark(t *testing.T, theirs []tsharkDatagram, in []capture.Datagram) (c comparison) {
	t.Helper()
	ours := decoded(t, in)
	if len(theirs) != len(ours) {
		t.Fatalf("%d datagrams, tshark %d", len(ours), len(theirs))
	}
	started := map[string]int64{}
	for i := range ours {
		at := momentOf(&theirs[i], in[i].Src.Port(), started)
		by := map[int][]*flowpb.FlowMessage{}
		for _, m := range ours[i].flows {
			n := setOf(ours[i].octets, m.RecordOffset)
			by[n] = append(by[n], m)
		}
		for n, flows := range by {
			slices.SortStableFunc(flows, func(a, b *flowpb.FlowMessage) int {
				return cmp.Compare(a.RecordOffset, b.RecordOffset)
			})
			if len(flows) != len(theirs[i].sets[n]) {
				continue
			}
			for j, m := range flows {
				r := theirs[i].sets[n][j].inner()
				for _, q := range quantities {
					if v, ok := q.theirs(r, &at); ok {
						c.note(q.name, v, q.ours(m), fmt.Sprintf("datagram %d set %d record %d", i, n, j), "")
					}
				}
			}
		}
	}
	return c
}
