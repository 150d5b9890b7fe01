package query_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/query"
	"weir/internal/weirtest/captures"
	"weir/pkg/flowpb"
)

// A question is an aggregation of the corpus with nfdump's answer.
type question struct {
	Capture string
	Form    string
	GroupBy []string `json:"group_by"`
	OrderBy string   `json:"order_by"`
	Top     int
	Filter  string
	Groups  int
	Rows    []struct {
		Key                   []any
		Flows, Packets, Bytes uint64
		First                 uint64 `json:"first_ms"`
		Last                  uint64 `json:"last_ms"`
	}
}

func questions(t *testing.T, name string) (list []question) {
	t.Helper()
	b, err := os.ReadFile(captures.Shared(t, "corpus/filters/"+name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func aggregate(t *testing.T, by, filter string, flows [][]byte, limit int) *query.Aggregation {
	t.Helper()
	keys, err := query.ParseGrouping(query.Flows(), by)
	if err != nil {
		t.Fatalf("%s: %v", by, err)
	}
	f, err := query.Parse(query.Flows(), filter)
	if err != nil {
		t.Fatal(err)
	}
	a, err := query.NewAggregation(query.Flows(), keys, f, limit, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, wire := range flows {
		a.Add(wire)
	}
	return a
}

// nfdump's answers to aggregations over real captures, each checked by a second program.
func TestAggregationsAreNfdumps(t *testing.T) {
	flows := map[string][][]byte{}
	for _, q := range questions(t, "aggregates.json") {
		if flows[q.Capture] == nil {
			flows[q.Capture] = flowsOf(t, q.Capture)
		}
		name := fmt.Sprintf("%s by %q, %s, %s", q.Capture, q.GroupBy, q.OrderBy, q.Filter)
		a := aggregate(t, strings.Join(q.GroupBy, ","), q.Filter, flows[q.Capture], query.MaxGroups)
		order, err := query.ParseOrder(q.OrderBy)
		if err != nil {
			t.Fatal(err)
		}
		if q.Groups != 0 && a.Groups() != q.Groups {
			t.Errorf("%s: want %d groups, got %d", name, q.Groups, a.Groups())
		}
		got, want := []string{}, []string{}
		for _, r := range q.Rows {
			times := ""
			if q.Form == "-A" {
				times = fmt.Sprint(r.First, r.Last)
			}
			cells := []string{}
			for _, k := range r.Key {
				if n, ok := k.(float64); ok {
					k = uint64(n)
				}
				cells = append(cells, fmt.Sprint(k))
			}
			want = append(want, fmt.Sprint(cells, r.Flows, r.Packets, r.Bytes, times))
		}
		top, _ := a.Top(order, q.Top)
		for _, g := range top {
			times := ""
			if q.Form == "-A" {
				times = fmt.Sprint(g.First/1e6, g.Last/1e6)
			}
			cells := []string{}
			for _, v := range a.Values(g) {
				cells = append(cells, v.String())
			}
			got = append(got, fmt.Sprint(cells, g.Flows, g.Packets, g.Octets, times))
		}
		slices.Sort(got) // rows of equal measure may come in any order, and the limit is not among them
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: want\n%s\ngot\n%s", name, strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
	}
}

func wireOf(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestShownAndOthersAreTheTotal(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var flows [][]byte
	for range 5000 {
		flows = append(flows, wireOf(t, &flowpb.FlowMessage{
			SrcAddr: []byte{10, 0, 0, byte(random.IntN(200))}, DstAddr: []byte{192, 0, 2, byte(random.IntN(5))}, SrcPort: uint32(random.IntN(50)),
			Bytes: uint64(random.IntN(1500)), Packets: 1, SamplingRate: uint64(random.IntN(3)),
			TimeFlowStartNs: 1e18 + uint64(random.IntN(600))*1e9, TimeFlowEndNs: 2e18,
		}))
	}
	for _, by := range []string{"srcip", "srcip/28,dstip", "time/1m,dstip"} {
		for _, limit := range []int{3, 1000} { // of groups
			a := aggregate(t, by, "any", flows, limit)
			order, _ := query.ParseOrder("octets")
			top, others := a.Top(order, 2)
			sums := [3]uint64{others.Flows, others.Packets, others.Octets}
			for _, g := range top {
				sums[0], sums[1], sums[2] = sums[0]+g.Flows, sums[1]+g.Packets, sums[2]+g.Octets
			}
			if want := [3]uint64{a.Total.Flows, a.Total.Packets, a.Total.Octets}; sums != want || want[0] != 5000 || a.Groups() > limit {
				t.Errorf("by %s, %d groups at most: total %v, shown and others %v", by, limit, want, sums)
			}
		}
	}
}

func TestCountersAreMultipliedBySamplingRates(t *testing.T) {
	flows := [][]byte{
		wireOf(t, &flowpb.FlowMessage{Proto: 6, Bytes: 100, Packets: 2, SamplingRate: 1000}),
		wireOf(t, &flowpb.FlowMessage{Proto: 17, Bytes: 5000, Packets: 40, SamplingRate: 1, ReverseBytes: 10, ReversePackets: 1}),
	}
	a := aggregate(t, "proto", "any", flows, 10)
	order, _ := query.ParseOrder("bytes")
	top, _ := a.Top(order, 0)
	if top[0].Octets != 100_000 || top[0].Packets != 2000 || !top[0].Estimated || top[1].Octets != 5010 || top[1].Packets != 41 || top[1].Estimated {
		t.Errorf("got %+v, %+v", top[0], top[1])
	}
}

// A firewall's update repeats in its teardown.
func TestUpdatesOfFirewallsCountNoOctets(t *testing.T) {
	flows := [][]byte{
		wireOf(t, &flowpb.FlowMessage{FirewallEvent: 5, FlowId: 7, Biflow: true, Bytes: 100, ReverseBytes: 10, Packets: 2}),
		wireOf(t, &flowpb.FlowMessage{FirewallEvent: 2, FlowId: 7, Biflow: true, Bytes: 150, ReverseBytes: 20, Packets: 3}),
	}
	if a := aggregate(t, "proto", "any", flows, 10); a.Total.Octets != 170 || a.Total.Packets != 3 || a.Total.Flows != 2 {
		t.Errorf("want 170 octets, 3 packets, 2 flows, got %+v", a.Total)
	}
}

func TestConnectionsAreSummedByTheirEstimates(t *testing.T) {
	keys, err := query.ParseGrouping(query.Connections(), "responder,service,state,time/1h")
	if err != nil {
		t.Fatal(err)
	}
	c := proto.CloneOf(aConnection)
	c.Reverse.OctetsEst, c.Reverse.PacketsEst, c.Forward.OctetsEst, c.Forward.PacketsEst = 90_000, 70, 1000, 3
	for _, raw := range []bool{false, true} {
		a, err := query.NewAggregation(query.Connections(), keys, nil, 10, raw)
		if err != nil {
			t.Fatal(err)
		}
		a.Add(wireOf(t, c))
		order, _ := query.ParseOrder("connections")
		top, _ := a.Top(order, 0)
		cells := []string{}
		for _, v := range a.Values(top[0]) {
			cells = append(cells, v.String())
		}
		want := query.Sum{Flows: 3, Connections: 1, Packets: 73, Octets: 91_000, Estimated: true, First: 1_700_000_000_000_000_000, Last: 1_700_000_002_000_000_000}
		if raw {
			want.Packets, want.Octets, want.Estimated = 10, 10_000, false
		}
		if got := strings.Join(cells, " "); got != "2001:db8::80 https CONN_STATE_SF 2023-11-14T22:00:00Z" || top[0].Sum != want {
			t.Errorf("%s: want %+v, got %+v", got, want, top[0].Sum)
		}
	}
}

func TestErrorsOfGroupings(t *testing.T) {
	for by, text := range map[string]string{
		"": "a field is missing", "srcip,": "a field is missing", "srcip,srcip": "named twice", "nothing": "no field of a flow", "srcip/0": "1 to 128",
		"srcip/129": "1 to 128", "srcport/3": "after an address only", "time": "want time/STEP", "time/1y": "want time/STEP", "time/-1m": "want time/STEP",
		"state": "a flow has no state", "country": "a flow has no country", "1,2,3": "no field",
	} {
		if _, err := query.ParseGrouping(query.Flows(), by); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: want %q, got %v", by, text, err)
		}
	}
	if _, err := query.ParseOrder("size"); err == nil || !strings.Contains(err.Error(), "want octets") {
		t.Errorf("got %v", err)
	}
}

func FuzzParseGrouping(f *testing.F) {
	for _, s := range []string{"srcip/24,dstport", "time/1m,ip", "userName,portRangeStart", "src ip", "srcip4/8", "mac,if,as,next"} {
		f.Add(s)
	}
	flow, connection := wireOf(f, aFlow), wireOf(f, aConnection)
	f.Fuzz(func(t *testing.T, by string) {
		for schema, wire := range map[*query.Schema][]byte{query.Flows(): flow, query.Connections(): connection} {
			keys, err := query.ParseGrouping(schema, by)
			if err != nil {
				continue
			}
			a, err := query.NewAggregation(schema, keys, nil, 10, false)
			if err != nil {
				t.Fatal(err)
			}
			a.Add(wire)
			order, _ := query.ParseOrder("octets")
			top, _ := a.Top(order, 0)
			if len(top) == 0 || len(a.Values(top[0])) != len(keys) {
				t.Fatalf("%q: %d groups", by, len(top))
			}
		}
	})
}

func BenchmarkAggregation(b *testing.B) {
	wire := wireOf(b, aFlow)
	keys, err := query.ParseGrouping(query.Flows(), "srcip,dstip,dstport")
	if err != nil {
		b.Fatal(err)
	}
	a, err := query.NewAggregation(query.Flows(), keys, nil, query.MaxGroups, false)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		a.Add(wire)
	}
}
