package page

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/pkg/flowpb"
)

// A clock is advanced by the test.
type clock struct{ now time.Time }

func newBoard() (*Board, *clock) {
	c := &clock{time.Unix(1_790_000_000, 0)}
	return NewBoard(func() time.Time { return c.now }), c
}

func connection(id string, version uint32, initiator, responder string, octets, back uint64) *flowpb.Connection {
	return &flowpb.Connection{
		ConnectionId: []byte(id), Version: version, Protocol: 6, Service: "https", Final: true,
		Initiator: &flowpb.Endpoint{Address: netip.MustParseAddr(initiator).AsSlice(), Port: 40000},
		Responder: &flowpb.Endpoint{Address: netip.MustParseAddr(responder).AsSlice(), Port: 443, Name: "www.example.net"},
		Forward:   &flowpb.Traffic{Octets: octets, Packets: 1, InputIfName: "eth0", OutputIfName: "eth1"}, Reverse: &flowpb.Traffic{Octets: back, Packets: 2},
		DirectionMethod: flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, StartUnixNs: 1_700_000_000_500_000_000, EndUnixNs: 1_700_000_002_000_000_000,
	}
}

func TestSecondsHaveTheFlowsThatCameInThem(t *testing.T) {
	b, c := newBoard()
	flow := &flowpb.FlowMessage{Bytes: 100, Packets: 2, SamplingRate: 10}
	b.Flows([]*flowpb.FlowMessage{flow, {Bytes: 5, ReverseBytes: 3, Packets: 1, ReversePackets: 1}})
	c.now = c.now.Add(2 * time.Second)
	b.Flows([]*flowpb.FlowMessage{flow})
	if got, want := b.Snapshot(600).Series, [][3]uint64{{1_790_000_000, 2, 1008}, {1_790_000_001}}; !cmp.Equal(got, want) { // the third is not over
		t.Errorf("want %v, got %v", want, got)
	}
	if got, want := b.Snapshot(1).Series, [][3]uint64{{1_790_000_001}}; !cmp.Equal(got, want) {
		t.Errorf("the last second: want %v, got %v", want, got)
	}
	if got, want := b.Snapshot(1).Totals, (Totals{Flows: 3, Octets: 2008, Packets: 42}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
	c.now = c.now.Add(seriesSeconds * time.Second) // all entries of the series are expired
	if got := b.Snapshot(10_000).Series; len(got) != seriesSeconds-1 || got[0] != [3]uint64{1_790_000_003} {
		t.Errorf("%d seconds, the first %v", len(got), got[0])
	}
}

// The update of a firewall's flow must not be counted, since the teardown repeats its counts.
func TestAFirewallsFlowCountsOnce(t *testing.T) {
	b, c := newBoard()
	b.Flows([]*flowpb.FlowMessage{
		{FirewallEvent: 5, FlowId: 7, Biflow: true, Bytes: 100, ReverseBytes: 10, Packets: 2},
		{FirewallEvent: 2, FlowId: 7, Biflow: true, Bytes: 150, ReverseBytes: 20, Packets: 3},
		{FirewallEvent: 5, FlowId: 9, Bytes: 1000, Packets: 4}, // an update
	})
	c.now = c.now.Add(2 * time.Second)
	if got, want := b.Snapshot(600).Totals, (Totals{Flows: 3, Octets: 1170, Packets: 7}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
	if got := b.Snapshot(600).Series[0]; got != [3]uint64{1_790_000_000, 3, 1170} {
		t.Errorf("want 3 flows of 1170 octets in the first second, got %v", got)
	}
}

func TestEstimatesSaturate(t *testing.T) {
	const most = 1<<64 - 1
	b, c := newBoard()
	flow := &flowpb.FlowMessage{Bytes: 1500, Packets: 4, SamplingRate: 1 << 62}
	b.Flows([]*flowpb.FlowMessage{flow, flow})
	c.now = c.now.Add(2 * time.Second)
	if got := b.Snapshot(600); got.Series[0] != [3]uint64{1_790_000_000, 2, most} || got.Totals != (Totals{Flows: 2, Octets: most, Packets: most}) {
		t.Errorf("want 2^64-1 octets and packets, got %v, %+v", got.Series[0], got.Totals)
	}
}

func TestTheKernelsDropsAreOnThePage(t *testing.T) {
	b, _ := newBoard()
	if n := b.Snapshot(1).Totals.KernelDrops; n != 0 {
		t.Errorf("without a counter: want 0, got %d", n)
	}
	b.KernelDrops = func() uint64 { return 17 }
	h := NewServer(b, "127.0.0.1", time.Millisecond).Handler()
	r := httptest.NewRequest("GET", "/snapshot.json", nil)
	r.Host = "127.0.0.1"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), `"kernel_drops":17`) {
		t.Errorf("want 17 in %s", w.Body.String())
	}
}

func TestALaterReportOfAConnectionReplacesTheEarlier(t *testing.T) {
	b, _ := newBoard()
	b.Connections([]*flowpb.Connection{connection("a", 1, "10.0.0.1", "192.0.2.80", 10, 20), connection("b", 1, "10.0.0.2", "192.0.2.80", 1, 1)})
	b.Connections([]*flowpb.Connection{connection("a", 2, "10.0.0.1", "192.0.2.80", 100, 200)})
	b.Connections([]*flowpb.Connection{connection("a", 1, "10.0.0.1", "192.0.2.80", 10, 20)}) // older
	s := b.Snapshot(1)
	want := []Share{{"192.0.2.80", "www.example.net", 302, 2}, {"10.0.0.1", "", 300, 1}, {"10.0.0.2", "", 2, 1}}
	if d := cmp.Diff(want, s.Talkers); d != "" {
		t.Errorf("talkers: -want +got\n%s", d)
	}
	if d := cmp.Diff([]Share{{"tcp/https", "", 302, 2}}, s.Services); d != "" {
		t.Errorf("services: -want +got\n%s", d)
	}
	first := Connection{
		ID: "a", Start: 1_700_000_000_500, Seconds: 1.5, Service: "tcp/https", Initiator: "10.0.0.1:40000", Responder: "192.0.2.80:443", ResponderName: "www.example.net",
		Octets: 300, Packets: 3, Via: "eth0 → eth1", Answered: true, Final: true, Direction: "tcp syn",
	}
	if d := cmp.Diff(first, s.Connections[0]); d != "" || len(s.Connections) != 2 || s.Totals.Connections != 2 {
		t.Errorf("%d connections, %d counted, the newest -want +got\n%s", len(s.Connections), s.Totals.Connections, d)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	b, _ := newBoard()
	const n = maxHosts + 5000
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		b.Connections([]*flowpb.Connection{connection(fmt.Sprint("id", i), 1, a.String(), "192.0.2.80", uint64(i), 0)})
	}
	s := b.Snapshot(1)
	if len(b.hosts) > maxHosts || len(s.Talkers) != topShown || len(s.Connections) != newestShown || s.Talkers[0].Name != "192.0.2.80" || s.Talkers[1].Octets != n-1 {
		t.Errorf("%d hosts, %d talkers, %d connections: %+v", len(b.hosts), len(s.Talkers), len(s.Connections), s.Talkers[:2])
	}
}

func TestTheServer(t *testing.T) {
	b, _ := newBoard()
	b.Flows([]*flowpb.FlowMessage{{Bytes: 1}})
	h := NewServer(b, "127.0.0.1", time.Millisecond).Handler()
	get := func(method, path, host string) *http.Response {
		r := httptest.NewRequest(method, path, nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
	for _, tt := range []struct {
		method, path, host string
		code               int
		kind               string
	}{
		{"GET", "/", "127.0.0.1:8055", 200, "text/html"},
		{"GET", "/", "localhost:8055", 200, "text/html"},
		{"GET", "/", "[::1]:8055", 200, "text/html"},
		{"GET", "/page.js", "127.0.0.1", 200, "text/javascript"},
		{"GET", "/uPlot.LICENSE", "127.0.0.1", 200, ""},
		{"GET", "/snapshot.json", "127.0.0.1:9", 200, "application/json"},
		{"GET", "/nothing", "127.0.0.1", 404, ""},
		{"POST", "/", "127.0.0.1", 405, ""},
		{"GET", "/", "evil.example:8055", 421, ""},
		{"GET", "/events", "evil.example", 421, ""},
		{"GET", "/", "192.0.2.1", 421, ""}, // it listens on loopback only
		{"GET", "/", "", 421, ""},
	} {
		r := get(tt.method, tt.path, tt.host)
		if r.StatusCode != tt.code || !strings.HasPrefix(r.Header.Get("Content-Type"), tt.kind) {
			t.Errorf("%s %s at %q: %d, %s", tt.method, tt.path, tt.host, r.StatusCode, r.Header.Get("Content-Type"))
		}
		if !strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "default-src 'self';") {
			t.Errorf("%s %s: no policy", tt.method, tt.path)
		}
	}
	anywhere := NewServer(b, "0.0.0.0", time.Second)
	if !anywhere.allowed("192.0.2.1:8055") || anywhere.allowed("evil.example") || !NewServer(b, "weir.example", time.Second).allowed("WEIR.example:1") {
		t.Error("want only the names of this server allowed")
	}
}

// encoding/json cannot encode an infinite number and fails for the whole document.
func TestNumbersWithoutJSONDoNotBreakThePage(t *testing.T) {
	b, _ := newBoard()
	b.Exporters([]Exporter{{Exporter: "192.0.2.1", PerSecond: math.Inf(1)}, {Exporter: "192.0.2.2", PerSecond: math.NaN()}, {Exporter: "192.0.2.3", PerSecond: 2.5}})
	c := connection("a", 1, "10.0.0.1", "192.0.2.80", 1, 1)
	c.StartUnixNs, c.EndUnixNs = math.MinInt64, math.MaxInt64
	b.Connections([]*flowpb.Connection{c})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/snapshot.json", nil)
	r.Host = "127.0.0.1"
	NewServer(b, "127.0.0.1", time.Second).Handler().ServeHTTP(w, r)
	var got Snapshot
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("the snapshot is not JSON: %v: %q", err, w.Body)
	}
	rates := []float64{}
	for _, e := range got.Exporters {
		rates = append(rates, e.PerSecond)
	}
	if want := []float64{0, 0, 2.5}; !slices.Equal(rates, want) {
		t.Errorf("flows per second: want %v, got %v", want, rates)
	}
}

// The page must not load content from other origins and must not build markup from strings.
func TestThePageIsOfOnePiece(t *testing.T) {
	for _, name := range []string{"index.html", "page.css", "page.js", "icon.svg"} {
		text, err := assets.ReadFile("assets/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"http://", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick", "<script>"} {
			if strings.Contains(string(text), word) && (name != "icon.svg" || word != "http://") { // the SVG name space
				t.Errorf("%s: %s", name, word)
			}
		}
	}
}

func TestEventsGoOn(t *testing.T) {
	b, _ := newBoard()
	srv := httptest.NewServer(NewServer(b, "127.0.0.1", time.Millisecond).Handler())
	defer srv.Close()
	r, err := http.Get(srv.URL + "/events") //nolint:noctx // the server ends with the test
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var got []Snapshot
	lines := bufio.NewScanner(io.LimitReader(r.Body, 1<<20))
	for len(got) < 3 && lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var s Snapshot
			if err := json.Unmarshal([]byte(text), &s); err != nil {
				t.Fatal(err)
			}
			got = append(got, s)
		}
	}
	if len(got) != 3 || slices.ContainsFunc(got, func(s Snapshot) bool { return s.Now != 1_790_000_000 || s.Talkers == nil || s.Connections == nil }) {
		t.Errorf("%d events: %+v", len(got), got)
	}
}
