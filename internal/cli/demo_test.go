package cli

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"weir/internal/cli/console"
)

// A demoRow holds the members of a connection that the test checks.
type demoRow struct {
	Protocol  int    `json:"protocol"`
	Service   string `json:"service"`
	ConnState string `json:"conn_state"`
	Method    string `json:"direction_method"`
	Initiator demoEnd
	Responder demoEnd
	Forward   *demoTraffic
	Reverse   *demoTraffic
	Quality   []string
}

type demoEnd struct {
	Address  string `json:"address"`
	Port     int    `json:"port"`
	Name     string `json:"name"`
	Verified bool   `json:"name_verified"`
}

type demoTraffic struct{ Octets, Packets uint64 }

func runDemoJSON(t *testing.T) (rows []demoRow, summary string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := Main([]string{"demo", "--json"}, strings.NewReader(""), &stdout, &stderr); code != console.ExitDone {
		t.Fatalf("exit code %d, want 0; stderr:\n%s", code, stderr.String())
	}
	for line := range strings.Lines(stdout.String()) {
		var r demoRow
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		rows = append(rows, r)
	}
	return rows, stderr.String()
}

func TestDemoShowsNamedConnectionsOfBothDirections(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole pipeline for some seconds")
	}
	rows, summary := runDemoJSON(t)

	// By the captures: 25 conversations in softflowd_v9_synth_adj, of them 9 with
	// two directions, all those of softflowd_v5_synth_adj among them; two
	// datagrams of softflowd_v10_big hold 24 and 32 flows, 12 and 16 conversations.
	if len(rows) != 25+28 {
		t.Errorf("%d connections, want 53", len(rows))
	}
	both := 0
	for _, r := range rows {
		if r.Forward != nil && r.Reverse != nil {
			both++
		}
		for _, e := range []demoEnd{r.Initiator, r.Responder} {
			if e.Address == "" || e.Name == "" || !e.Verified {
				t.Errorf("an end without address or verified name: %+v of %+v", e, r)
			}
		}
		// Clients have high ports in these captures.
		switch {
		case r.Initiator.Port == 443 || r.Initiator.Port == 22 || r.Initiator.Port == 53:
			t.Errorf("the server is the initiator: %+v", r)
		case r.Responder.Port == 443 && r.Service != "https", r.Responder.Port == 22 && r.Service != "ssh", r.Responder.Port == 53 && r.Service != "domain":
			t.Errorf("service of port %d is %q", r.Responder.Port, r.Service)
		}
	}
	if both != 9+28 {
		t.Errorf("%d connections with both directions, want 37", both)
	}

	// A conversation observed by two routers counts once: softflowd_v9_synth_adj and softflowd_v5_synth_adj
	// both have 1820 octets forward and 7280 back.
	found := false
	for _, r := range rows {
		if r.Initiator.Address != "10.1.1.10" || r.Responder.Port != 443 {
			continue
		}
		found = true
		if r.Responder.Address != "192.0.2.80" || r.Forward == nil || r.Reverse == nil ||
			*r.Forward != (demoTraffic{1820, 8}) || *r.Reverse != (demoTraffic{7280, 7}) || r.ConnState != "CONN_STATE_SF" {
			t.Errorf("10.1.1.10 to port 443 is %+v %+v %+v", r, r.Forward, r.Reverse)
		}
		if !strings.Contains(strings.Join(r.Quality, " "), "QUALITY_MULTI_VANTAGE") {
			t.Errorf("seen by two routers, but its quality is %q", r.Quality)
		}
	}
	if !found {
		t.Error("no connection of 10.1.1.10 to port 443")
	}

	for name, want := range map[string]int{"datagrams": 7, "flows": 34 + 30 + 56, "pairs": 37, "one-sided": 16} {
		if got := number(t, summary, name); got != want {
			t.Errorf("summary: %s is %d, want %d", name, got, want)
		}
	}
	if got := number(t, summary, "templates shared"); got < 1 {
		t.Errorf("summary: templates shared is %d, want at least 1", got)
	}
}

// number returns the number after a name in the summary.
func number(t *testing.T, summary, name string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindStringSubmatch(summary)
	if m == nil {
		t.Fatalf("no %q in the summary:\n%s", name, summary)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDemoTableHasNoControlCharacters(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the whole pipeline for some seconds")
	}
	var stdout, stderr bytes.Buffer
	if code := Main([]string{"demo"}, strings.NewReader(""), &stdout, &stderr); code != console.ExitDone {
		t.Fatalf("exit code %d, want 0; stderr:\n%s", code, stderr.String())
	}
	for _, out := range []string{stdout.String(), stderr.String()} {
		if i := strings.IndexFunc(out, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }); i >= 0 {
			t.Errorf("octet %#x at %d of:\n%s", out[i], i, out)
		}
	}
	if !strings.Contains(stdout.String(), "10.1.1.10:40001 anna.office.example.net") {
		t.Errorf("no line with address and name of 10.1.1.10:40001:\n%s", stdout.String())
	}
	number(t, stdout.String(), "templates shared")
}

func TestDemoRefusesArguments(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := runDemo([]string{"extra"}, nil, &stdout, &stderr); code != console.ExitUsage || !strings.Contains(stderr.String(), `"extra"`) {
		t.Errorf("exit code %d, %q; want 2 and the argument named", code, stderr.String())
	}
	stdout.Reset()
	if code := runDemo([]string{"--help"}, nil, &stdout, &stderr); code != console.ExitDone || !strings.Contains(stdout.String(), "--json") {
		t.Errorf("--help: exit code %d, %q", code, stdout.String())
	}
}
