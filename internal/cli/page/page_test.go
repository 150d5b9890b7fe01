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
	"github.com/google/go-cmp/cmp/cmpopts"

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
	if got, want := b.Snapshot(600, 1).Series, [][3]uint64{{1_790_000_000, 2, 1008}, {1_790_000_001}}; !cmp.Equal(got, want) { // the third is not over
		t.Errorf("want %v, got %v", want, got)
	}
	if got, want := b.Snapshot(1, 1).Series, [][3]uint64{{1_790_000_001}}; !cmp.Equal(got, want) {
		t.Errorf("the last second: want %v, got %v", want, got)
	}
	if got, want := b.Snapshot(1, 1).Totals, (Totals{Flows: 3, Octets: 2008, Packets: 42}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
	c.now = c.now.Add(seriesSeconds * time.Second) // all entries of the series are expired
	if got := b.Snapshot(10_000, 1).Series; len(got) != seriesSeconds-1 || got[0] != [3]uint64{1_790_000_003} {
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
	if got, want := b.Snapshot(600, 1).Totals, (Totals{Flows: 3, Octets: 1170, Packets: 7}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
	if got := b.Snapshot(600, 1).Series[0]; got != [3]uint64{1_790_000_000, 3, 1170} {
		t.Errorf("want 3 flows of 1170 octets in the first second, got %v", got)
	}
}

func TestEstimatesSaturate(t *testing.T) {
	const most = 1<<64 - 1
	b, c := newBoard()
	flow := &flowpb.FlowMessage{Bytes: 1500, Packets: 4, SamplingRate: 1 << 62}
	b.Flows([]*flowpb.FlowMessage{flow, flow})
	c.now = c.now.Add(2 * time.Second)
	if got := b.Snapshot(600, 1); got.Series[0] != [3]uint64{1_790_000_000, 2, most} || got.Totals != (Totals{Flows: 2, Octets: most, Packets: most}) {
		t.Errorf("want 2^64-1 octets and packets, got %v, %+v", got.Series[0], got.Totals)
	}
}

func TestTheKernelsDropsAreOnThePage(t *testing.T) {
	b, _ := newBoard()
	if n := b.Snapshot(1, 1).Totals.KernelDrops; n != 0 {
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
	s := b.Snapshot(1, 1)
	first := Connection{
		ID: "a", Start: 1_700_000_000_500, Seconds: 1.5, Service: "tcp/https", Initiator: "10.0.0.1:40000", Responder: "192.0.2.80:443", ResponderName: "www.example.net",
		Octets: 300, Packets: 3, Via: "eth0 → eth1", Answered: true, Direction: "tcp syn",
	}
	if d := cmp.Diff(first, s.Newest[0], cmpopts.IgnoreUnexported(Connection{})); d != "" || len(s.Newest) != 2 || s.Totals.Connections != 2 {
		t.Errorf("%d connections, %d counted, the newest -want +got\n%s", len(s.Newest), s.Totals.Connections, d)
	}
}

// flow returns a record of TCP from 10.0.0.x:40000 to 192.0.2.80:443 that was exported at its end.
func flow(source byte, start, end time.Time, octets uint64) *flowpb.FlowMessage {
	return &flowpb.FlowMessage{
		SrcAddr: []byte{10, 0, 0, source}, DstAddr: []byte{192, 0, 2, 80}, SrcPort: 40000, DstPort: 443, Proto: 6, Bytes: octets, Packets: 1,
		SamplerAddress: []byte{198, 51, 100, 1}, TimeFlowStartNs: uint64(start.UnixNano()),
		TimeFlowEndNs: uint64(end.UnixNano()), TimeExportNs: uint64(end.UnixNano()),
	}
}

// 224 Mbit/s are 28 MB a second, 140 MB in 5 s. The connection does not end.
func TestATalkerIsShownWhileItsConnectionIsOpen(t *testing.T) {
	b, c := newBoard()
	b.Flows([]*flowpb.FlowMessage{flow(9, c.now, c.now, 1_000_000)}) // a large connection of the past
	for range 18 {
		c.now = c.now.Add(5 * time.Second)
		b.Flows([]*flowpb.FlowMessage{flow(1, c.now.Add(-5*time.Second), c.now, 140_000_000), flow(2, c.now, c.now, 1000)})
	}
	s := b.Snapshot(600, 0)
	// The window of a minute has slots of 10 s. At 90 s it covers the time from 40 s on: 51 s, in which 11 records came.
	const octets, rate = 11 * 140_000_000, 11 * 140_000_000 * 8 / 51.0
	if got, want := s.Talkers[1], (Share{Name: "10.0.0.1", Octets: octets, Rate: rate}); got != want || s.Talkers[0].Name != "192.0.2.80" || len(s.Talkers) != 3 {
		t.Errorf("want %+v, got %+v", want, s.Talkers)
	}
	if len(s.InProgress) != 2 {
		t.Fatalf("in progress: want 2 connections, got %+v", s.InProgress)
	}
	want := Connection{
		Start: c.now.Add(-90 * time.Second).UnixMilli(), Seconds: 90, Service: "tcp/https", Initiator: "10.0.0.1:40000", Responder: "192.0.2.80:443",
		Octets: 18 * 140_000_000, Packets: 18, Rate: rate, Direction: "service port",
	}
	if d := cmp.Diff(want, s.InProgress[0], cmpopts.IgnoreUnexported(Connection{})); d != "" {
		t.Errorf("in progress: -want +got\n%s", d)
	}
	if s.Services[0].Name != "tcp/https" || s.Rate < 224e6 || s.Rate > 250e6 {
		t.Errorf("%+v, %.0f bit/s", s.Services, s.Rate)
	}
	b.Connections([]*flowpb.Connection{connection("a", 1, "10.0.0.1", "192.0.2.80", 10, 20)})
	if s = b.Snapshot(1, 0); len(s.InProgress) != 1 || s.InProgress[0].Initiator != "10.0.0.2:40000" || s.InProgress[0].ResponderName != "www.example.net" {
		t.Errorf("after the end of 10.0.0.1's connection: %+v", s.InProgress)
	}
	c.now = c.now.Add(conversationIdle * time.Second)
	if s = b.Snapshot(1, 2); len(s.InProgress) != 0 || b.conversations.Len() != 0 {
		t.Errorf("after %d s of silence: %+v", conversationIdle, s.InProgress)
	}
}

// A report of the state of a connection says who the initiator is.
func TestAReportCorrectsTheInitiatorOfAConnectionInProgress(t *testing.T) {
	b, c := newBoard()
	b.Flows([]*flowpb.FlowMessage{flow(1, c.now, c.now, 1000)})
	report := connection("a", 1, "192.0.2.80", "10.0.0.1", 1000, 0)
	report.Final, report.Initiator.Port, report.Responder.Port = false, 443, 40000
	b.Connections([]*flowpb.Connection{report})
	s := b.Snapshot(1, 0)
	if len(s.InProgress) != 1 || s.InProgress[0].Initiator != "192.0.2.80:443" || s.InProgress[0].Direction != "tcp syn" || len(s.Newest) != 0 {
		t.Errorf("in progress %+v, ended %+v", s.InProgress, s.Newest)
	}
}

// 28 MB a second, reported once a minute, are 28 MB in each second.
func TestOctetsAreSpreadOverTheTimeOfTheFlow(t *testing.T) {
	b, c := newBoard()
	for range 3 {
		c.now = c.now.Add(time.Minute)
		b.Flows([]*flowpb.FlowMessage{flow(1, c.now.Add(-time.Minute), c.now, 60*28_000_000)})
	}
	s := b.Snapshot(600, 1)
	if len(s.Series) != 180 || s.Incomplete != 60 {
		t.Fatalf("want 180 seconds, 60 incomplete, got %d, %d", len(s.Series), s.Incomplete)
	}
	for _, p := range s.Series {
		if p[2] != 28_000_000 {
			t.Fatalf("want 28 MB in each second, got %v", s.Series)
		}
	}
}

func TestPartsOfASecondCountByTheirShare(t *testing.T) {
	b, c := newBoard()
	c.now = c.now.Add(10 * time.Second)
	b.Flows([]*flowpb.FlowMessage{flow(1, c.now.Add(-3500*time.Millisecond), c.now.Add(-1250*time.Millisecond), 9001)})
	// 2.25 s: 0.5 s, 1 s, 0.75 s; the record was exported 0 ms after its end, so its end is now.
	got := b.Snapshot(4, 1).Series
	want := [][3]uint64{{1_790_000_006}, {1_790_000_007, 0, 1000}, {1_790_000_008, 0, 4000}, {1_790_000_009, 0, 4001}}
	if !cmp.Equal(got, want) {
		t.Errorf("want %v, got %v", want, got)
	}
}

// An exporter whose clock is an hour slow is shown at the right time.
func TestAWrongClockDoesNotMoveTheTraffic(t *testing.T) {
	b, c := newBoard()
	c.now = c.now.Add(10 * time.Second)
	wrong := c.now.Add(-time.Hour)
	m := flow(1, wrong.Add(-4*time.Second), wrong.Add(-2*time.Second), 2000)
	m.TimeExportNs = uint64(wrong.UnixNano())
	b.Flows([]*flowpb.FlowMessage{m})
	if got := b.Snapshot(4, 1).Series; got[0][2] != 1000 || got[1][2] != 1000 || got[2][2] != 0 {
		t.Errorf("want 1000 octets in the fourth and third second before now, got %v", got)
	}
}

// A flow that two exporters report is ranked once.
func TestTwoExportersOfOneFlowAreRankedOnce(t *testing.T) {
	b, c := newBoard()
	other := flow(1, c.now, c.now, 5000)
	other.SamplerAddress = []byte{198, 51, 100, 2}
	b.Flows([]*flowpb.FlowMessage{flow(1, c.now, c.now, 5000), other})
	s := b.Snapshot(1, 0)
	if s.Talkers[0].Octets != 5000 || s.InProgress[0].Octets != 5000 || s.Totals.Octets != 10_000 {
		t.Errorf("want 5000 octets ranked, 10 000 in all, got %+v, %+v, %+v", s.Talkers, s.InProgress, s.Totals)
	}
}

// A record that covers half an hour counts in a minute with a thirtieth.
func TestALongRecordCountsWithTheWindowsShare(t *testing.T) {
	b, c := newBoard()
	b.Flows([]*flowpb.FlowMessage{flow(1, c.now.Add(-30*time.Minute), c.now, 1800)})
	for w, want := range []uint64{60, 300, 900} {
		if got := b.Snapshot(1, w).Talkers[0].Octets; got != want {
			t.Errorf("window of %d s: want %d octets, got %d", windows[w], want, got)
		}
	}
}

func TestExportersAreNotSaidToBeNoneBeforeTheyAreKnown(t *testing.T) {
	b, _ := newBoard()
	if s := b.Snapshot(1, 1); s.Exporters != nil {
		t.Errorf("want null, got %v", s.Exporters)
	}
	b.Exporters(nil)
	if s := b.Snapshot(1, 1); s.Exporters == nil {
		t.Error("want an empty list, got null")
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	b, c := newBoard()
	const n = maxHosts + 5000
	for i := range n {
		m := flow(0, c.now, c.now, uint64(i))
		m.SrcAddr = []byte{10, byte(i >> 16), byte(i >> 8), byte(i)}
		b.Flows([]*flowpb.FlowMessage{m})
		a := netip.AddrFrom4([4]byte(m.SrcAddr))
		b.Connections([]*flowpb.Connection{connection(fmt.Sprint("id", i), 1, a.String(), "192.0.2.80", uint64(i), 0)})
	}
	s := b.Snapshot(1, 1)
	if len(b.hosts) > maxHosts || b.conversations.Len() > maxConversations || len(s.Talkers) != topShown || len(s.Newest) != newestShown ||
		s.Talkers[0].Name != "192.0.2.80" || s.Talkers[1].Octets != n-1 {
		t.Errorf("%d hosts, %d conversations, %d talkers, %d connections: %+v", len(b.hosts), b.conversations.Len(), len(s.Talkers), len(s.Newest), s.Talkers[:2])
	}
}

// Times and counters of a forged record must not break the page.
func TestForgedRecordsAreHarmless(t *testing.T) {
	b, c := newBoard()
	for _, start := range []uint64{1, math.MaxInt64, math.MaxUint64} {
		for _, end := range []uint64{1, math.MaxInt64, math.MaxUint64} {
			for _, exported := range []uint64{0, 1, math.MaxUint64} {
				m := flow(1, c.now, c.now, math.MaxUint64)
				m.TimeFlowStartNs, m.TimeFlowEndNs, m.TimeExportNs, m.SamplingRate = start, end, exported, math.MaxUint64
				b.Flows([]*flowpb.FlowMessage{m, {Bytes: 7, SrcAddr: []byte{1}, DstAddr: make([]byte, 16), TimeFlowEndNs: 5}})
			}
		}
	}
	if _, err := json.Marshal(b.Snapshot(600, 0)); err != nil {
		t.Error(err)
	}
}

func BenchmarkBoardFlows(bench *testing.B) {
	b, c := newBoard()
	list := make([]*flowpb.FlowMessage, 1000)
	for i := range list {
		list[i] = flow(byte(i), c.now.Add(-5*time.Second), c.now, 1500)
		list[i].SrcPort = uint32(1024 + i)
	}
	bench.ReportAllocs()
	for bench.Loop() {
		b.Flows(list)
	}
	bench.ReportMetric(float64(bench.Elapsed().Nanoseconds())/float64(bench.N)/float64(len(list)), "ns/flow")
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
		{"GET", "/snapshot.json?window=60", "127.0.0.1", 200, "application/json"},
		{"GET", "/snapshot.json?window=61", "127.0.0.1", 400, ""},
		{"GET", "/events?window=x", "127.0.0.1", 400, ""},
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
	if len(got) != 3 || slices.ContainsFunc(got, func(s Snapshot) bool { return s.Now != 1_790_000_000 || s.Talkers == nil || s.Newest == nil }) {
		t.Errorf("%d events: %+v", len(got), got)
	}
}
