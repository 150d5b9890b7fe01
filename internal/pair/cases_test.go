package pair

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

var testConfig = Config{
	Idle: 75 * time.Second, Linger: 5 * time.Second, LateGrace: 60 * time.Second, ClockSkew: 2 * time.Second,
	MaxClockSkew: 10 * time.Second, UpdateInterval: 30 * time.Minute, ActiveTimeout: 60 * time.Second,
	InactiveTimeout: 15 * time.Second, MaxOpen: 1_000_000,
}

const ms = int64(time.Millisecond)

// A step is a line of a case: a record, or a tick.
type step struct {
	flow Flow
	id   string
	tick int64 // ms; 0 = a record
}

func parseSteps(t *testing.T, input string) (steps []step) {
	t.Helper()
	for n, line := range strings.Split(strings.TrimSpace(input), "\n") {
		if v, ok := strings.CutPrefix(line, "tick "); ok {
			at, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			steps = append(steps, step{tick: at})
			continue
		}
		a := map[string]string{}
		for f := range strings.FieldsSeq(line) {
			k, v, _ := strings.Cut(f, "=")
			a[k] = v
		}
		steps = append(steps, record(t, a, uint64(n)+1))
	}
	return steps
}

func record(t *testing.T, a map[string]string, n uint64) step {
	t.Helper()
	num := func(s string) int64 {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return v
	}
	pair := func(s, sep string) (int64, int64) {
		x, y, _ := strings.Cut(s, sep)
		return num(x), num(y)
	}
	flags := func(s string) (f uint16) {
		for _, c := range s {
			f |= map[rune]uint16{'F': 1, 'S': 2, 'R': 4, 'P': 8, 'A': 16}[c]
		}
		return f
	}
	f := Flow{Ident: n, Resolution: ms, Rate: 1, observationPoint: observationPoint{exporter: [16]byte{15: 1}}}
	if id := a["id"]; id != "" {
		f.Ident = 1000 + uint64(id[0])
	}
	if x := a["x"]; x != "" {
		f.exporter[15] = x[1]
	}
	f.iface = map[string]uint8{"in": 1, "out": 2}[a["dir"]]
	if a["ts"] == "v9" {
		f.Resolution = 1000 * ms
	}
	f.Received = num(a["rx"]) * ms
	f.Start, f.End = pair(a["t"], "-")
	f.Start, f.End = f.Start*ms, f.End*ms
	o, p := pair(a["n"], "/")
	f.There = counts{Octets: uint64(o), Packets: uint64(p), Flags: flags(a["fl"])}
	if a["rn"] != "" {
		o, p = pair(a["rn"], "/")
		f.Biflow, f.Back = true, counts{Octets: uint64(o), Packets: uint64(p), Flags: flags(a["rfl"])}
		f.quality |= bit(flowpb.Quality_QUALITY_BIFLOW)
	}
	if a["rate"] != "" {
		f.Rate = uint64(num(a["rate"]))
	}
	if a["end"] != "" {
		f.Reason = uint8(num(a["end"]))
	}
	f.Initiator = map[string]int8{"": 0, "1": 1, "2": -1}[a["bdir"]]
	src, dst, _ := strings.Cut(a["f"], ">")
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	tuple := flowkey.Tuple{Src: s.Addr().As16(), Dst: d.Addr().As16(), SrcPort: s.Port(), DstPort: d.Port(), Proto: uint8(num(a["p"]))}
	if a["icmp"] != "" {
		tuple.ICMPType = uint8(num(a["icmp"]))
	}
	f.Key, f.SrcIsLo = tuple.Canon()
	return step{flow: f, id: a["id"]}
}

// play runs steps and a long silence, and returns the reports as text.
func play(steps []step) string {
	var out strings.Builder
	names := map[string]string{}
	m := New(testConfig, 1, func(e *Emission) {
		c := e.Connection
		id := string(c.ConnectionId)
		if names[id] == "" {
			names[id] = fmt.Sprintf("c%d", len(names)+1)
		}
		out.WriteString(text(c, names[id]) + "\n")
	})
	var last int64
	for _, s := range steps {
		if s.tick != 0 {
			m.Advance(s.tick * ms)
			continue
		}
		if m.Observe(&s.flow) == Duplicate {
			fmt.Fprintf(&out, "drop duplicate record %s\n", s.id)
		}
		last = s.flow.Received
	}
	m.Advance(last + 1_000_000*ms)
	return out.String()
}

func text(c *flowpb.Connection, name string) string {
	kind := "final"
	if !c.Final {
		kind = "interim"
	}
	ip := func(e *flowpb.Endpoint) string {
		a, _ := netip.AddrFromSlice(e.Address)
		return netip.AddrPortFrom(a, uint16(e.Port)).String()
	}
	state := strings.TrimPrefix(c.ConnState.String(), "CONN_STATE_")
	if state == "UNSPECIFIED" {
		state = "-"
	}
	var q []string
	for _, x := range c.Quality {
		q = append(q, strings.TrimPrefix(x.String(), "QUALITY_"))
	}
	slices.Sort(q)
	f, r := c.GetForward(), c.GetReverse()
	return fmt.Sprintf("@%d %s.v%d %s %d %s -> %s fwd=%dB/%dp rev=%dB/%dp [%d,%d] by=%s state=%s recs=%d/%d %v",
		c.EmittedUnixNs/ms, name, c.Version, kind, c.Protocol, ip(c.Initiator), ip(c.Responder),
		f.GetOctetsEst(), f.GetPacketsEst(), r.GetOctetsEst(), r.GetPacketsEst(), c.StartUnixNs/ms, c.EndUnixNs/ms,
		strings.TrimPrefix(c.DirectionMethod.String(), "DIRECTION_METHOD_"), state, f.GetRecords(), r.GetRecords(), q)
}

func TestScenario1CasesOfTheDesign(t *testing.T) {
	cases := 0
	datadriven.RunTest(t, "testdata/cases", func(t *testing.T, d *datadriven.TestData) string {
		cases++
		steps := parseSteps(t, d.Input)
		if !d.HasArg("ordered") {
			permuted(t, d.Pos, steps)
		}
		return play(steps)
	})
	if cases != 43 {
		t.Errorf("want 43 cases, got %d", cases)
	}
}

// permuted plays the records of a case in other orders of arrival, close
// together, and wants the same connections.
func permuted(t *testing.T, pos string, steps []step) {
	t.Helper()
	outcome := func(order []step) []string {
		order = slices.Clone(order)
		first := steps[0].flow.Received
		for i := range order {
			order[i].flow.Received = first + int64(i)*ms
		}
		var lines []string
		for line := range strings.SplitSeq(strings.TrimSpace(play(order)), "\n") {
			if strings.HasPrefix(line, "@") { // without time and the names, which follow arrival
				_, line, _ = strings.Cut(line, ".v")
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		return lines
	}
	want := outcome(steps)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		order := slices.Clone(steps)
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		if diff := cmp.Diff(want, outcome(order)); diff != "" {
			t.Fatalf("%s: another order of arrival (-as written +permuted):\n%s", pos, diff)
		}
	}
}
