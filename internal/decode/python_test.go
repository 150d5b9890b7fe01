package decode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/pkg/flowpb"
)

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

func decimal[N uint32 | uint64 | flowpb.FlowDirection](n N) string { return fmt.Sprintf("%d", n) }

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

func TestValuesAreThoseOfThePythonPackageNetflow(t *testing.T) {
	const dir = "../../../shared/inputs/seed_vectors"
	list, _ := filepath.Glob(filepath.Join(dir, "*.hex"))
	if len(list) == 0 {
		t.Skipf("SKIPPED: no vectors in %s", dir)
	}
	octets := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name+".hex"))
		if err != nil {
			t.Fatal(err)
		}
		return fromHex(t, string(bytes.TrimSpace(b)))
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
			var pkts [][]byte
			for _, n := range v.Needs {
				pkts = append(pkts, octets(n))
			}
			before, _, _, _ := decodeAll(pkts...)
			ours, options, _, _ := decodeAll(append(pkts, octets(name))...)
			ours = ours[len(before):]
			// The package takes IPFIX options data for flows.
			theirs := slices.DeleteFunc(v.Flows, func(f map[string]any) bool {
				_, init := f["systemInitTimeMilliseconds"]
				_, process := f["meteringProcessId"]
				return init || process
			})
			if v.Result == "decoded" && len(theirs) != len(ours) {
				t.Fatalf("flows: the package %d, Weir %d and %d of options data", len(theirs), len(ours), len(options))
			}
			flows += len(theirs)
			for i, f := range theirs {
				for names, of := range inMessage {
					for n := range strings.FieldsSeq(names) {
						if got, ok := f[n]; ok {
							values++
							if got, want := of(ours[i]), asWe(n, got); got != want {
								t.Errorf("flow %d, %s: the package %s, Weir %s", i, n, want, got)
							}
						}
					}
				}
			}
		})
	}
	if flows < 100 || values < 10*flows {
		t.Errorf("%d values of %d flows were compared: want ten and more of each of at least 100", values, flows)
	}
	t.Logf("%d values of %d flows are equal", values, flows)
}
