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

var python = flag.String("python", "", "a Python with netflow 0.12.2: decode the corpus with it and compare each value")

// A pythonVector is a datagram with what the Python package netflow 0.12.2 made
// of it.
type pythonVector struct {
	Name   string           `json:"name"`
	Needs  []string         `json:"needs_templates_from"`
	Result string           `json:"seed_result"`
	Flows  []map[string]any `json:"seed_flows"`
}

// inMessage are the values that a flow of the package and a FlowMessage both
// have, by the names of v1 and v5, of v9, and of IPFIX.
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

// asWe writes a value of the package as ours: addresses are numbers in all but v9.
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

// compared tells which values of a flow of the package are other than ours. Of
// addresses of two families a FlowMessage holds those that are set, IPv4's if
// both are; a direction that cannot be is not set in it.
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

// isOptions tells whether a flow of the package is IPFIX options data, which it
// does not tell apart.
func isOptions(f map[string]any) bool {
	for _, scope := range []string{"systemInitTimeMilliseconds", "meteringProcessId"} {
		if _, ok := f[scope]; ok {
			return true
		}
	}
	return false
}

// A datagram is what Weir makes of one.
type datagram struct {
	octets  []byte
	flows   []*flowpb.FlowMessage
	options int
}

// decoded are the datagrams of a capture, those before their template too.
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

func TestValuesAreThoseOfThePythonPackageNetflow(t *testing.T) {
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
		t.Errorf("%d values of %d flows were compared: want ten and more of each of at least 100", values, flows)
	}
	t.Logf("%d values of %d flows are equal", values, flows)
}

// A pythonResult is what testdata/netflow_python.py says of a datagram.
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
	cmd.Env = append(os.Environ(), "PYTHONHASHSEED=0") // it keeps fields in a set
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
			t.Fatalf("the package on datagram %d: %v", i, err)
		}
	}
	return out
}

// A pythonCount is what the package makes of a capture.
type pythonCount struct {
	flows   int
	refused map[string]int // datagrams, by the error
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

// asPythonCounts are Weir's records, options data of v9 aside: the package tells
// that from flows, in IPFIX it does not.
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

// ofPython are the package's counts by capture, as TestEachValueOfTheCorpus... has
// written them.
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
					t.Fatalf("%s: %s: %q: want an error with a rule and a number", pythonCounts, r.At("capture"), part)
				}
			}
		}
		out[r.At("capture")] = c
	}
	return out
}

// otherValues says why values of a capture differ from the package's.
var otherValues = map[string]string{
	"pmacct__403_IPFIXv10_BMP_IPv6_CISCO_locrib_peerdown_vrf_t00": repeated,
	"pmacct__502_IPFIXv10_BGP_IPv6_CISCO_SRv6_lcomms_t00":         repeated,
	"netgauze__srv6":                                   repeated,
	"local__softflowd_ipfix_biflow":                    private,
	"ktranslate__decoder_test__TestSourceIDSeparation": domains,
}

const (
	repeated = "of an element that is repeated in a record the package keeps any value"
	private  = "the package takes a private element, a reverse one say, for IANA's of that number"
	domains  = "the package keeps one template of an id for all observation domains"
)

// Run with -python; with -update it writes the package's counts.
func TestEachValueOfTheCorpusIsThatOfThePythonPackage(t *testing.T) {
	const index = "../../../shared/corpus/INDEX.tsv"
	if _, err := os.Stat(index); err != nil || *python == "" {
		t.Skipf("SKIPPED: wants the corpus and -python")
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
			t.Errorf("%s: all values are equal, though it is said that %s", name, why)
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
