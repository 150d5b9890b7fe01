package pair

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/pkg/flowpb"
)

// example returns the two tables of the worked example in docs/connections.md, without
// their headings: the flows, and the connection's fields.
func example(t *testing.T) (flows, fields [][]string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/connections.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), "<!-- example: run by internal/pair -->\n")
	text, _, ended := strings.Cut(text, "<!-- example: end -->")
	if !found || !ended {
		t.Fatal("docs/connections.md has no example between its marks")
	}
	var tables [][][]string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		if !inside {
			tables = append(tables, nil)
			inside = true
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		last := &tables[len(tables)-1]
		*last = append(*last, cells)
	}
	if len(tables) != 2 || len(tables[0]) != 6 || len(tables[1]) < 10 {
		t.Fatalf("want a table of four flows and one of fields, got %d tables", len(tables))
	}
	return tables[0][2:], tables[1][2:]
}

// clockMS converts a time of day to milliseconds.
func clockMS(t *testing.T, s string) int64 {
	t.Helper()
	at, err := time.Parse("15:04:05.000", s)
	if err != nil {
		t.Fatal(err)
	}
	return at.Sub(at.Truncate(24 * time.Hour)).Milliseconds()
}

func TestExampleInConnectionsDocument(t *testing.T) {
	flows, fields := example(t)
	var steps []step
	for i, r := range flows {
		flags := ""
		for name := range strings.FieldsSeq(r[6]) {
			flags += name[:1]
		}
		number := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		reason, _, _ := strings.Cut(r[9], " ")
		steps = append(steps, record(t, map[string]string{
			"rx": strconv.FormatInt(clockMS(t, r[1]), 10), "p": "6", "f": r[2] + ">" + r[3], "fl": flags,
			"t":   strconv.FormatInt(clockMS(t, r[4]), 10) + "-" + strconv.FormatInt(clockMS(t, r[5]), 10),
			"n":   number(r[7]) + "/" + number(r[8]),
			"end": reason,
		}, uint64(i)+1))
	}

	var got []*flowpb.Connection
	m := New(testConfig, 1, func(e *Emission) { got = append(got, e.Connection) })
	for i := range steps {
		m.Observe(&steps[i].flow)
	}
	m.Advance(clockMS(t, "23:59:59.000") * ms)
	if len(got) != 1 {
		t.Fatalf("the example makes %d reports, not one", len(got))
	}
	c := got[0]
	var qualities []string
	for _, q := range c.Quality {
		qualities = append(qualities, strings.TrimPrefix(q.String(), "QUALITY_"))
	}
	values := map[string]string{
		"reported at stream time": shownTime(c.EmittedUnixNs),
		"emit_reason":             strings.TrimPrefix(c.EmitReason.String(), "EMIT_REASON_"),
		"version, final":          strconv.FormatUint(uint64(c.Version), 10) + ", " + strconv.FormatBool(c.Final),
		"initiator":               strings.Fields(text(c, ""))[4],
		"responder":               strings.Fields(text(c, ""))[6],
		"direction_method":        strings.TrimPrefix(c.DirectionMethod.String(), "DIRECTION_METHOD_"),
		"start, end":              shownTime(c.StartUnixNs) + ", " + shownTime(c.EndUnixNs),
		"forward":                 shownTraffic(c.Forward),
		"reverse":                 shownTraffic(c.Reverse),
		"conn_state":              strings.TrimPrefix(c.ConnState.String(), "CONN_STATE_"),
		"quality":                 strings.Join(qualities, " "),
	}
	if len(values) != len(fields) {
		t.Errorf("the document shows %d fields, the test knows %d", len(fields), len(values))
	}
	for _, f := range fields {
		want := f[1]
		if want == "none" {
			want = ""
		}
		if v, ok := values[f[0]]; !ok || v != want {
			t.Errorf("%s: docs/connections.md shows %q, pairing gives %q", f[0], f[1], v)
		}
	}
}

func shownTime(ns int64) string { return time.Unix(0, ns).UTC().Format("15:04:05.000") }

func shownTraffic(x *flowpb.Traffic) string {
	return strconv.FormatUint(x.Octets, 10) + " octets, " + strconv.FormatUint(x.Packets, 10) + " packets, " +
		strconv.FormatUint(uint64(x.Records), 10) + " records"
}
