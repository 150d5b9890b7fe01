package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/cli/capture"
	"weir/internal/decode"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// The capture is from a Cisco ASA, which reports a flow as events with its flow id (IE 148); the expected
// connections are counted from these events. By Cisco's guide to NSEL, an update (5) counts since the update
// before it and a teardown (2) counts the whole flow. In this capture both counts are equal for flows with both
// events.
func TestScenario18ACaptureOfAFirewall(t *testing.T) {
	path := filepath.Join("..", "..", "..", "shared", "corpus", "pcap", "graylog__cisco_asa_netflowv9.pcap")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("SKIPPED: no corpus in ../shared: %v", err)
	}
	r, err := capture.Open(bytes.NewReader(file), capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var octets uint64
	flows, denied, want := map[uint64]string{}, map[string]bool{}, []string{}
	updates, teardown := map[uint64][2]uint64{}, map[uint64][2]uint64{}
	d := decode.Decoder{State: templates.New(templates.Options{})}
	for {
		var g capture.Datagram
		if err := r.Next(&g); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var res decode.Result
		d.Read(g.Payload, &decode.Meta{Exporter: netip.MustParseAddr("10.4.11.254"), Port: 1, Received: g.Time}, &res)
		for _, m := range res.Messages {
			ends := func(a []byte, port uint32) string {
				x, _ := netip.AddrFromSlice(a)
				if m.Proto == 1 {
					port = 0
				}
				return netip.AddrPortFrom(x, uint16(port)).String()
			}
			name := fmt.Sprintf("%d %s %s", m.Proto, ends(m.SrcAddr, m.SrcPort), ends(m.DstAddr, m.DstPort))
			if len(m.PostNatDstAddr) == 4 && m.PostNatDstAddr[0] == 10 && m.SrcAddr[0] != 10 && m.DstAddr[0] != 10 { // the inside network has private addresses
				name = fmt.Sprintf("%d %s %s", m.Proto, ends(m.PostNatSrcAddr, m.PostNatSrcPort), ends(m.PostNatDstAddr, m.PostNatDstPort))
			}
			switch m.FirewallEvent {
			case 1: // created: no octets yet
			case 3:
				denied[name] = true
			case 5:
				flows[m.FlowId] = name
				u := updates[m.FlowId]
				updates[m.FlowId] = [2]uint64{u[0] + m.Bytes, u[1] + m.ReverseBytes}
			case 2:
				flows[m.FlowId] = name
				teardown[m.FlowId] = [2]uint64{m.Bytes, m.ReverseBytes}
			default:
				t.Fatalf("flow %d: unexpected firewall event %d", m.FlowId, m.FirewallEvent)
			}
		}
	}
	both := 0
	for id, name := range flows {
		u, d := updates[id], teardown[id]
		if u != [2]uint64{} && d != [2]uint64{} {
			if both++; u != d {
				t.Errorf("flow %d: updates of %v octets, a teardown of %v", id, u, d)
			}
		}
		there, back := max(u[0], d[0]), max(u[1], d[1])
		if there+back == 0 {
			continue // events of a flow without octets
		}
		octets += there + back
		want = append(want, fmt.Sprintf("%s %d %d", name, there, back))
	}
	for name := range denied {
		want = append(want, name+" denied")
	}
	slices.Sort(want)

	list, _ := connectionsOf(t, "--pcap", path)
	var got []string
	var out uint64
	for _, c := range list {
		f := strings.Fields(c.String())
		if c.State == flowpb.ConnState_CONN_STATE_REJ.String() && slices.Contains(c.Quality, "QUALITY_DENIED") {
			got = append(got, strings.Join(f[:3], " ")+" denied")
			if n := octetsOf(t, c, true) + octetsOf(t, c, false); n != 0 {
				t.Errorf("a denied event with %d octets: %v", n, c)
			}
			continue
		}
		a, b := octetsOf(t, c, true), octetsOf(t, c, false)
		out += a + b
		got = append(got, fmt.Sprintf("%s %d %d", strings.Join(f[:3], " "), a, b))
		if c.Method != flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER.String() {
			t.Errorf("%v: the exporter says who opened it, not %s", c, c.Method)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-by flow id +got):\n%s", d)
	}
	if out != octets || len(flows) < 20 || len(denied) < 5 || both < 20 {
		t.Errorf("%d octets in connections, %d in flows; %d flow ids, %d with both events, %d denied", out, octets, len(flows), both, len(denied))
	}
	t.Logf("%d flows in %d connections, %d denied, %d octets", len(flows), len(got)-len(denied), len(denied), octets)
}

// octetsOf returns the octets of a direction.
func octetsOf(t *testing.T, c jsonConnection, forward bool) (n uint64) {
	t.Helper()
	x := c.Reverse
	if forward {
		x = c.Forward
	}
	if x == nil || x.Octets == "" {
		return 0
	}
	if _, err := fmt.Sscan(x.Octets.String(), &n); err != nil {
		t.Fatal(err)
	}
	return n
}
