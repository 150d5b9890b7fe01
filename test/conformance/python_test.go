package conformance

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/netip"
	"os"
	"os/exec"

	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/cli/capture"
	"weir/internal/decode"
	"weir/internal/templates"
	"weir/internal/weirtest/tsv"
	"weir/pkg/flowpb"
)

var python = flag.String("python", "", "`path` of a Python with netflow 0.12.2: decode the corpus with it and compare each value")

// A pythonVector is a datagram with the flows that the Python package netflow 0.12.2 decoded from it.
type pythonVector struct {
	Name   string           `json:"name"`
	Needs  []string         `json:"needs_templates_from"`
	Result string           `json:"seed_result"`
	Flows  []map[string]any `json:"seed_flows"`
}

// inMessage maps the package's names of a value (in v1 and v5, v9, IPFIX; separated by spaces) to the value in
// a FlowMessage.
var inMessage = map[string]func(m *flowpb.FlowMessage) string{
	"IPV4_SRC_ADDR sourceIPv4Address IPV6_SRC_ADDR sourceIPv6Address":           func(m *flowpb.FlowMessage) string { return addrText(m.SrcAddr) },
	"IPV4_DST_ADDR destinationIPv4Address IPV6_DST_ADDR destinationIPv6Address": func(m *flowpb.FlowMessage) string { return addrText(m.DstAddr) },
	"NEXT_HOP IPV4_NEXT_HOP":                        func(m *flowpb.FlowMessage) string { return addrText(m.NextHop) },
	"INPUT INPUT_SNMP ingressInterface":             func(m *flowpb.FlowMessage) string { return decimal(m.InIf) },
	"OUTPUT OUTPUT_SNMP egressInterface":            func(m *flowpb.FlowMessage) string { return decimal(m.OutIf) },
	"IN_PACKETS IN_PKTS packetDeltaCount":           func(m *flowpb.FlowMessage) string { return decimal(m.Packets) },
	"IN_OCTETS IN_BYTES octetDeltaCount":            func(m *flowpb.FlowMessage) string { return decimal(m.Bytes) },
	"SRC_PORT L4_SRC_PORT sourceTransportPort":      func(m *flowpb.FlowMessage) string { return decimal(m.SrcPort) },
	"DST_PORT L4_DST_PORT destinationTransportPort": func(m *flowpb.FlowMessage) string { return decimal(m.DstPort) },
	"PROTO PROTOCOL protocolIdentifier":             func(m *flowpb.FlowMessage) string { return decimal(m.Proto) },
	"TCP_FLAGS tcpControlBits":                      func(m *flowpb.FlowMessage) string { return decimal(m.TcpFlags) },
	"TOS SRC_TOS ipClassOfService":                  func(m *flowpb.FlowMessage) string { return decimal(m.IpTos) },
	"SRC_AS":                                        func(m *flowpb.FlowMessage) string { return decimal(m.SrcAs) },
	"DST_AS":                                        func(m *flowpb.FlowMessage) string { return decimal(m.DstAs) },
	"SRC_MASK":                                      func(m *flowpb.FlowMessage) string { return decimal(m.SrcNet) },
	"DST_MASK":                                      func(m *flowpb.FlowMessage) string { return decimal(m.DstNet) },
	"flowEndReason":                                 func(m *flowpb.FlowMessage) string { return decimal(m.FlowEndReason) },
	"sourceMacAddress":                              func(m *flowpb.FlowMessage) string { return decimal(m.SrcMac) },
	"flowDirection DIRECTION":                       func(m *flowpb.FlowMessage) string { return decimal(m.FlowDirection - 1) },
	"vlanId SRC_VLAN":                               func(m *flowpb.FlowMessage) string { return decimal(m.SrcVlan) },
	"postVlanId DST_VLAN":                           func(m *flowpb.FlowMessage) string { return decimal(m.DstVlan) },
	"ipVersion IP_PROTOCOL_VERSION":                 func(m *flowpb.FlowMessage) string { return map[uint32]string{0x0800: "4", 0x86dd: "6"}[m.Etype] },
	"icmpTypeCodeIPv4 icmpTypeCodeIPv6 ICMP_TYPE":   func(m *flowpb.FlowMessage) string { return decimal(m.IcmpType<<8 | m.IcmpCode) },
}

func decimal[N ~uint32 | ~uint64 | ~int32](n N) string { return fmt.Sprintf("%d", n) }

func addrText(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// asWe converts a value of the package to Weir's text. The package has addresses as numbers, except in v9.
func asWe(name string, v any) string {
	s := fmt.Sprint(v)
	n, ok := new(big.Int).SetString(s, 10)
	if l := strings.ToLower(name); ok && (strings.Contains(l, "addr") || strings.Contains(l, "next_hop")) && !strings.Contains(l, "mac") {
		size := 4
		if strings.Contains(name, "6") {
			size = 16
		}
		return addrText(n.FillBytes(make([]byte, size)))
	}
	return s
}

// compared compares the values that a flow of the package and ours both have. It returns their number and
// the different ones. A record may have addresses of both families: a FlowMessage holds those that are set, and
// the IPv4 addresses if both are. An undefined flow direction is not set in a FlowMessage and not compared.
func compared(theirs map[string]any, ours *flowpb.FlowMessage) (n int, differ []string) {
	other := map[string]string{
		"sourceIPv4Address": "sourceIPv6Address", "destinationIPv4Address": "destinationIPv6Address",
		"IPV4_SRC_ADDR": "IPV6_SRC_ADDR", "IPV4_DST_ADDR": "IPV6_DST_ADDR",
	}
	for a, b := range maps.Clone(other) {
		other[b] = a
	}
	for names, of := range inMessage {
		for name := range strings.FieldsSeq(names) {
			v, ok := theirs[name]
			if !ok || strings.EqualFold(strings.TrimPrefix(name, "flow"), "direction") && ours.FlowDirection == 0 {
				continue
			}
			n++
			got, want := of(ours), asWe(name, v)
			if v, ok := theirs[other[name]]; ok && got == asWe(other[name], v) {
				continue
			}
			if got != want {
				differ = append(differ, fmt.Sprintf("%s: the package %s, Weir %s", name, want, got))
			}
		}
	}
	return n, differ
}

// isOptions reports whether a flow of the package is IPFIX options data, which the package returns as flows.
func isOptions(f map[string]any) bool {
	for _, scope := range []string{"systemInitTimeMilliseconds", "meteringProcessId"} {
		if _, ok := f[scope]; ok {
			return true
		}
	}
	return false
}

// A datagram is Weir's decode of a datagram.
type datagram struct {
	octets  []byte
	flows   []*flowpb.FlowMessage
	options int
}

// decoded decodes the datagrams of a capture. Data that precedes its template is decoded at the end, and its
// records are added to its datagram.
func decoded(t *testing.T, in []capture.Datagram) (out []datagram) {
	t.Helper()
	store := templates.New(templates.Options{Now: func() time.Time { return time.Unix(0, 0) }})
	d := decode.Decoder{State: store}
	late := map[int][]decode.Set{}
	for i, dg := range in {
		var r decode.Result
		d.Read(dg.Payload, &decode.Meta{Exporter: dg.Src.Addr(), Port: dg.Src.Port(), Received: dg.Time}, &r)
		out = append(out, datagram{dg.Payload, slices.Clone(r.Messages), len(r.Options)})
		late[i] = r.Unknown
	}
	for i, sets := range late {
		for _, s := range sets {
			k := decode.TemplateKey{Exporter: decode.Map16(s.Meta.Exporter), Domain: s.Header.Domain, ID: s.ID, Version: uint8(s.Header.Version)}
			if p := store.Known(&k, s.Meta.Port); p != nil {
				var r decode.Result
				d.ReadSet(&s, p, &r)
				out[i].flows, out[i].options = append(out[i].flows, r.Messages...), out[i].options+len(r.Options)
			}
		}
	}
	return out
}

func captured(t *testing.T, path string) (out []capture.Datagram) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := capture.Open(bytes.NewReader(b), capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		var d capture.Datagram
		err := r.Next(&d)
		if errors.Is(err, io.EOF) || errors.Is(err, capture.ErrCut) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if d.Bad == nil {
			d.Payload = bytes.Clone(d.Payload)
			out = append(out, d)
		}
	}
}

func TestValuesOfTheVectorsEqualThoseOfThePythonPackage(t *testing.T) {
	const dir = "../../../shared/inputs/seed_vectors"
	list, _ := filepath.Glob(filepath.Join(dir, "*.hex"))
	if len(list) == 0 {
		t.Skipf("SKIPPED: no vectors in %s", dir)
	}
	octets := func(name string) capture.Datagram {
		b, err := os.ReadFile(filepath.Join(dir, name+".hex"))
		if err != nil {
			t.Fatal(err)
		}
		b, err = hex.DecodeString(string(bytes.TrimSpace(b)))
		if err != nil {
			t.Fatal(err)
		}
		return capture.Datagram{Src: netip.MustParseAddrPort("192.0.2.1:2055"), Payload: b}
	}
	values, flows := 0, 0
	for _, path := range list {
		name := strings.TrimSuffix(filepath.Base(path), ".hex")
		b, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var v pythonVector
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			var in []capture.Datagram
			for _, n := range v.Needs {
				in = append(in, octets(n))
			}
			all := decoded(t, append(in, octets(name)))
			ours := all[len(all)-1]
			theirs := slices.DeleteFunc(v.Flows, isOptions)
			if v.Result == "decoded" && len(theirs) != len(ours.flows) {
				t.Fatalf("flows: the package %d, Weir %d and %d of options data", len(theirs), len(ours.flows), ours.options)
			}
			flows += len(theirs)
			for i, f := range theirs {
				n, differ := compared(f, ours.flows[i])
				values += n
				if differ != nil {
					t.Errorf("flow %d: %s", i, strings.Join(differ, "; "))
				}
			}
		})
	}
	if flows < 100 || values < 10*flows {
		t.Errorf("%d values of %d flows were compared, want at least 100 flows and 10 values of each", values, flows)
	}
	t.Logf("%d values of %d flows are equal", values, flows)
}

// A pythonResult is the output of testdata/netflow_python.py for a datagram.
type pythonResult struct {
	Version int
	Flows   []map[string]any
	Error   string
}

func ofThePackage(t *testing.T, in []capture.Datagram) (out []pythonResult) {
	t.Helper()
	var lines bytes.Buffer
	for _, d := range in {
		fmt.Fprintf(&lines, "%x\n", d.Payload)
	}
	cmd := exec.CommandContext(t.Context(), *python, "testdata/netflow_python.py")
	cmd.Env = append(os.Environ(), "PYTHONHASHSEED=0") // the package has fields in a set: their order must not vary
	cmd.Stdin = &lines
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", *python, err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	out = make([]pythonResult, len(in))
	for i := range out {
		if err := d.Decode(&out[i]); err != nil {
			t.Fatalf("netflow_python.py, datagram %d: %v", i, err)
		}
	}
	return out
}

// A pythonCount holds the package's counts for a capture.
type pythonCount struct {
	flows   int
	refused map[string]int // rejected datagrams, by error
}

func (c pythonCount) String() string {
	s := strconv.Itoa(c.flows)
	for _, e := range slices.Sorted(maps.Keys(c.refused)) {
		s += fmt.Sprintf(", %s × %d", e, c.refused[e])
	}
	return s
}

func (c pythonCount) rules() (out []string) {
	for e := range c.refused {
		out = append(out, refuses[e])
	}
	return out
}

// asPythonCounts counts Weir's records as the package does: it counts options data of IPFIX as flows, but not
// that of v9.
func asPythonCounts(ours []datagram) (n int) {
	for _, d := range ours {
		n += len(d.flows)
		if len(d.octets) > 1 && d.octets[1] == 10 {
			n += d.options
		}
	}
	return n
}

const pythonCounts = "testdata/netflow_python.tsv"

// ofPython reads the package's counts by capture, which
// TestEachValueOfTheCorpusEqualsThatOfThePythonPackage wrote.
func ofPython(t *testing.T) map[string]pythonCount {
	t.Helper()
	list := tsv.Read(t, pythonCounts)
	out := map[string]pythonCount{}
	for _, r := range list {
		c := pythonCount{refused: map[string]int{}}
		var err error
		if c.flows, err = strconv.Atoi(r.At("flows")); err != nil {
			t.Fatalf("%s: %s: %v", pythonCounts, r.At("capture"), err)
		}
		for part := range strings.SplitSeq(r.At("refused"), ", ") {
			if e, n, ok := strings.Cut(part, " × "); ok {
				if c.refused[e], err = strconv.Atoi(n); err != nil || refuses[e] == "" {
					t.Fatalf("%s: %s: %q: want an error with a listed cause, and a number", pythonCounts, r.At("capture"), part)
				}
			}
		}
		out[r.At("capture")] = c
	}
	return out
}

// otherValues holds the cause of values that differ from the package's, by capture.
var otherValues = map[string]string{
	"pmacct__403_IPFIXv10_BMP_IPv6_CISCO_locrib_peerdown_vrf_t00": repeated,
	"pmacct__502_IPFIXv10_BGP_IPv6_CISCO_SRv6_lcomms_t00":         repeated,
	"netgauze__srv6":                                   repeated,
	"local__softflowd_ipfix_biflow":                    private,
	"ktranslate__decoder_test__TestSourceIDSeparation": domains,
}

const (
	repeated = "the package keeps an arbitrary value of a repeated element"
	private  = "the package reads an enterprise-specific element, for example a reverse element, as the IANA element of that number"
	domains  = "the package has one template per ID for all observation domains"
)

// The test needs -python. With -update it writes the package's counts.
func TestEachValueOfTheCorpusEqualsThatOfThePythonPackage(t *testing.T) {
	const index = "../../../shared/corpus/INDEX.tsv"
	if _, err := os.Stat(index); err != nil || *python == "" {
		t.Skipf("SKIPPED: needs the corpus and -python")
	}
	list := tsv.Read(t, index)
	var text strings.Builder
	text.WriteString("capture\tflows\trefused\n")
	values, flows := 0, 0
	for _, r := range list {
		name := strings.TrimSuffix(filepath.Base(r.At("file")), ".pcap")
		in := captured(t, filepath.Join(filepath.Dir(index), r.At("file")))
		ours := decoded(t, in)
		count := pythonCount{refused: map[string]int{}}
		var all []string
		for i, p := range ofThePackage(t, in) {
			if p.Error != "" {
				count.refused[p.Error]++
				continue
			}
			count.flows += len(p.Flows)
			if len(p.Flows) != len(ours[i].flows) { // options data among them, see the counts
				continue
			}
			for j, f := range p.Flows {
				n, differ := compared(f, ours[i].flows[j])
				all = append(all, differ...)
				flows, values = flows+1, values+n
			}
		}
		switch why := otherValues[name]; {
		case all != nil && why == "":
			t.Errorf("%s: %s", name, strings.Join(all, "\n"))
		case all == nil && why != "":
			t.Errorf("%s: all values are equal, although a cause is listed: %s", name, why)
		}
		total, refused, _ := strings.Cut(count.String(), ", ")
		fmt.Fprintf(&text, "%s\t%s\t%s\n", name, total, refused)
	}
	t.Logf("%d values of %d flows were compared", values, flows)
	was, err := os.ReadFile(pythonCounts)
	if *update {
		err = os.WriteFile(pythonCounts, []byte(text.String()), 0o644)
	} else if d := cmp.Diff(string(was), text.String()); d != "" {
		t.Errorf("%s (-want +got):\n%s", pythonCounts, d)
	}
	if err != nil {
		t.Fatal(err)
	}
}
