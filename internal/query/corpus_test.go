package query_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/query"
	"weir/internal/weirtest/captures"
)

// wires collects the flows of a capture as protobuf octets.
type wires struct{ flows [][]byte }

func (w *wires) Consume(_ report.Origin, r *decode.Result) error {
	for _, m := range r.Messages {
		b, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		w.flows = append(w.flows, b)
	}
	return nil
}

func (w *wires) Flush() error { return nil }

// flowsOf returns the flows of a capture of the corpus.
func flowsOf(t *testing.T, name string) [][]byte {
	t.Helper()
	path := "corpus/filters/" + strings.TrimPrefix(name, "open/")
	if !strings.HasPrefix(name, "open/") {
		path = name
	}
	w := &wires{}
	var stderr strings.Builder
	if code := offline.New("test", nil, &stderr, w).Run(nil, []string{captures.Shared(t, path)}); code != 0 {
		t.Fatalf("%s: %s", name, stderr.String())
	}
	return w.flows
}

// table returns the rows of a tab-separated file of the corpus, without its heading.
func table(t *testing.T, name string) (rows [][]string) {
	t.Helper()
	f, err := os.Open(captures.Shared(t, filepath.Join("corpus/filters", name)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewReader(f)
	for first := true; ; first = false {
		line, err := lines.ReadString('\n')
		if line != "" && !first {
			rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
		}
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// answer returns flows, octets and packets that match.
func answer(t *testing.T, expression string, flows [][]byte) (sums [3]uint64, err error) {
	t.Helper()
	f, err := query.Parse(query.Flows(), expression)
	if err != nil {
		return sums, err
	}
	r := query.NewReader(query.Flows())
	match, err := f.Compile(r)
	if err != nil {
		return sums, err
	}
	octets, _ := query.Flows().Lookup("bytes")
	packets, _ := query.Flows().Lookup("packets")
	o, p := r.Slot(octets), r.Slot(packets)
	for _, wire := range flows {
		row, err := r.Read(wire)
		if err != nil {
			t.Fatal(err)
		}
		if match(row) {
			sums[0]++
			sums[1] += row.Uint(o)
			sums[2] += row.Uint(p)
		}
	}
	return sums, nil
}

func numbers(t *testing.T, cells []string) (n [3]uint64) {
	t.Helper()
	for i := range n {
		v, err := strconv.ParseUint(cells[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n[i] = v
	}
	return n
}

// nfdump's answers to filters over real captures, each checked by a second program.
func TestAnswersAreNfdumps(t *testing.T) {
	flows := map[string][][]byte{}
	get := func(name string) [][]byte {
		if flows[name] == nil {
			flows[name] = flowsOf(t, name)
		}
		return flows[name]
	}
	deviations := 0
	check := func(expression, capture string, wants ...[3]uint64) {
		t.Helper()
		got, err := answer(t, expression, get(capture))
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			return
		}
		if slices.Contains(wants, got) {
			return
		}
		// FlowMessage has a single destination MAC address, from IE 80 or else from IE 57, which nfdump calls out dst.
		if capture == "open/mixed_exporters.pcap" && inMAC.MatchString(expression) {
			deviations++
			return
		}
		t.Errorf("%s in %s: want %v flows, octets, packets, got %v", expression, capture, wants, got)
	}
	rows := table(t, "expressions.tsv")
	for _, r := range rows {
		check(r[0], r[1], numbers(t, r[2:]))
	}
	if len(rows) < 700 {
		t.Errorf("only %d expressions", len(rows))
	}
	for _, r := range table(t, "ambiguous.tsv") {
		check(r[0], r[1], numbers(t, r[2:]), numbers(t, r[5:]), numbers(t, r[8:]))
	}
	for _, r := range table(t, "nfdump_bugs.tsv") {
		check(r[0], r[1], numbers(t, r[5:]))
	}
	if deviations > 5 {
		t.Errorf("%d answers differ for in mac", deviations)
	}
}

var inMAC = regexp.MustCompile(`(?i)\bin +mac\b`)

func TestErrorsAreErrorsWithAPlace(t *testing.T) {
	for _, r := range table(t, "errors.tsv") {
		_, err := query.Parse(query.Flows(), r[0])
		var syntax *query.SyntaxError
		switch {
		case err == nil && r[1] == "must":
			t.Errorf("%s: want an error, got none", r[0])
		case err != nil && (!errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(r[0]) || syntax.Msg == ""):
			t.Errorf("%s: %v", r[0], err)
		}
	}
}
