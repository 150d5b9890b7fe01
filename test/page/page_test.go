// Package page tests the page of weir up in a browser. It is a module of its own, below weir, so
// that the browser's driver is not a dependency of the product.
package page

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/miekg/dns"
)

var pictures = flag.String("pictures", "", "a directory for pictures of the page")

// hostile is a name that becomes an element if it is interpreted as HTML.
const hostile = `<img src=x onerror=alert(1)>`

// A program is a running weir up.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	weir string
	udp  string
	url  string
	err  *locked
}

// locked is a buffer for use by two goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// free returns an unused address.
func free(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// start starts weir up with a name server and a file of exporters.
func start(t *testing.T) *program {
	t.Helper()
	dir := t.TempDir()
	p := &program{t: t, weir: filepath.Join(dir, "weir"), udp: free(t, "udp"), url: "http://" + free(t, "tcp") + "/", err: &locked{}}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", p.weir, "./cmd/weir")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	exporters := filepath.Join(dir, "exporters.yaml")
	if err := os.WriteFile(exporters, []byte("exporters:\n  - address: 127.0.0.1\n    name: \""+hostile+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := nameServer(t)
	p.cmd = exec.CommandContext(t.Context(), p.weir, "up", "--listen", p.udp, "--kafka", free(t, "tcp"), "--metrics", "", "--page", strings.TrimSuffix(strings.TrimPrefix(p.url, "http://"), "/"), "--exporters", exporters)
	p.cmd.Env = append(os.Environ(), "DNS_SERVERS="+server, "DNS_PRIVATE_SERVERS="+server, "PAIR_IDLE=4s", "PAIR_LINGER=1s", "PAIR_ACTIVE_TIMEOUT=2s")
	p.cmd.Stderr = p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	for began := time.Now(); !strings.Contains(p.err.String(), "the page: "+p.url); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("weir up does not start: %s", p.err.String())
		}
	}
	return p
}

func (p *program) end() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
	}
}

// replay sends a capture.
func (p *program) replay(name string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.weir, "replay", "--rewrite-time", "--to", p.udp, "../../testdata/captures/"+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

// nameServer starts a name server that answers with a name for 192.0.2.80 and a hostile name for
// 192.0.2.53.
func nameServer(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{"80.2.0.192.in-addr.arpa.": "www.example.net.", "53.2.0.192.in-addr.arpa.": `\<img\032src=x\032onerror=alert\(1\)\>.example.`}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		q := m.Question[0]
		if name := names[strings.ToLower(q.Name)]; name != "" && q.Qtype == dns.TypePTR {
			r.Answer = append(r.Answer, &dns.PTR{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: 300}, Ptr: name})
		} else if names[strings.ToLower(q.Name)] == "" {
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return pc.LocalAddr().String()
}

// hostileExport returns a v9 datagram (RFC 3954): an options template and data that give interface
// 1 the hostile name, a template, and a flow with this input interface.
func hostileExport() []byte {
	words := func(b []byte, list ...uint16) []byte {
		for _, w := range list {
			b = binary.BigEndian.AppendUint16(b, w)
		}
		return b
	}
	now := uint32(time.Now().Unix())
	b := words(nil, 9, 4, 0, 60000, uint16(now>>16), uint16(now), 0, 7, 0, 99)
	b = words(b, 1, 20, 257, 4, 4, 2, 4, 82, 32, 0) // scope Interface of 4 octets, IF_NAME of 32; 2 octets of padding
	name := make([]byte, 32)
	copy(name, hostile)
	b = append(words(b, 257, 40, 0, 1), name...)
	b = words(b, 0, 52, 256, 11, 8, 4, 12, 4, 7, 2, 11, 2, 4, 1, 6, 1, 1, 4, 2, 4, 10, 4, 22, 4, 21, 4)
	b = append(words(b, 256, 40), 10, 77, 0, 1, 10, 77, 0, 2, 0x9c, 0x40, 0x01, 0xbb, 6, 0x1b)
	for _, v := range []uint32{1 << 30, 77, 1, 50000, 59000} { // octets, packets, interface, first, last
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, 0, 0)
}

// A browser is a tab of Chromium with its console errors.
type browser struct {
	t          *testing.T
	ctx        context.Context
	mu         sync.Mutex
	complaints []string
}

func open(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("SKIPPED: no Chromium (Debian: chromium), the page is not looked at")
	}
	alloc, stop := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("host-resolver-rules", "MAP evil.example 127.0.0.1"))...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx}
	b.do() // starts the browser
	exceptions, entries := chromedp.Events(ctx, runtime.ExceptionThrown), chromedp.Events(ctx, log.EntryAdded)
	go func() {
		for e, err := range exceptions {
			if err == nil {
				b.complain(fmt.Sprintf("%+v", e.ExceptionDetails))
			}
		}
	}()
	go func() {
		for e, err := range entries {
			if err == nil {
				b.complain(fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
			}
		}
	}()
	for _, command := range []cdp.Command[cdp.Empty, cdp.Empty]{log.Enable, runtime.Enable} {
		if _, err := chromedp.Call(ctx, command, cdp.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	b.do(chromedp.EmulateViewport(1300, 900))
	return b
}

func (b *browser) complain(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, s)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// evaluate returns the value of an expression in the page.
func evaluate[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// text returns the visible text of a selector.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return evaluate[string](b, "document.querySelector("+strconv.Quote(selector)+")?.innerText ?? 'nothing there'")
}

// becomes waits for a text.
func (b *browser) becomes(selector, want string) {
	b.t.Helper()
	settles(b, selector, 1500, func() string { return b.text(selector) }, want)
}

// settles waits until look returns want, at most looks times, 20 ms apart.
func settles[T comparable](b *browser, what string, looks int, look func() T, want T) {
	b.t.Helper()
	var is T
	for range looks {
		if is = look(); is == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatalf("%s: want %#v, it is %#v", what, want, is)
}

func (b *browser) number(expression string) float64 {
	b.t.Helper()
	return evaluate[float64](b, expression)
}

// rows returns the rows of a table, with their cells joined.
func (b *browser) rows(id string) []string {
	b.t.Helper()
	return evaluate[[]string](b, `[...document.querySelectorAll("#`+id+` tbody tr")].map(r => [...r.cells].map(c => c.innerText.replaceAll("\n", " ")).join("|"))`)
}

func (b *browser) picture(name string, dark bool, width, height int64) {
	b.t.Helper()
	if *pictures == "" {
		return
	}
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, media); err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.EmulateViewport(width, height))
	time.Sleep(1500 * time.Millisecond) // an event
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*pictures, name), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// mostFlows matches the greatest number of flows per second in the label of the chart of flows.
var mostFlows = regexp.MustCompile(` flow records in the last, ([0-9,]+) at most`)

// ratePattern matches a rate in a cell.
var ratePattern = regexp.MustCompile(`\|[0-9.]+ [kMGT]?bit/s\|`)

// withoutRate returns a row of a ranking without its rate, which depends on the time of the look.
func withoutRate(row string) string { return ratePattern.ReplaceAllString(row, "|") }

// The page must show the replayed traffic: the synthetic traffic has 25 connections and 34 flows
// (internal/cli's tests count them from its packets), the big capture 6 000 connections of two
// flows each, with 2 packets of 60 octets forward and 2 of 90 octets back.
func TestThePageShowsWhatWasReplayed(t *testing.T) {
	p, b := start(t), open(t)
	b.do(chromedp.Navigate(p.url))
	b.becomes("#status", "live")
	if got := b.rows("newest"); len(got) != 1 || !strings.HasPrefix(got[0], "none yet") {
		t.Errorf("before anything: %q", got)
	}
	p.replay("softflowd_v9_synth_adj.pcap")
	b.becomes("#total-flows", "34")
	b.becomes("#total-connections", "25")
	// The page must show the name of 192.0.2.80, and none for 192.0.2.53, whose name is not valid.
	named, nameless := false, false
	for _, r := range b.rows("newest") {
		c := strings.Split(r, "|")
		named = named || c[4] == "192.0.2.80:443 www.example.net"
		nameless = nameless || c[4] == "192.0.2.53:53"
	}
	if !named || !nameless {
		t.Errorf("names: %v, %v: %q", named, nameless, b.rows("newest"))
	}
	p.replay("softflowd_v10_big.pcap")
	b.becomes("#total-flows", "12,034")
	b.becomes("#total-connections", "6,025")
	c, err := net.Dial("udp", p.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(hostileExport()); err != nil {
		t.Fatal(err)
	}
	b.becomes("#total-flows", "12,035")
	b.becomes("#total-connections", "6,026")
	// 17 736 octets of the synthetic traffic, counted from its packets; 1 800 000; 2^30.
	b.becomes("#total-octets", "1.08 GB")
	if got := b.rows("talkers"); len(got) != 10 || withoutRate(got[0]) != "10.77.0.1|1.07 GB" ||
		withoutRate(got[1]) != "10.77.0.2|1.07 GB" || withoutRate(got[2]) != "198.51.100.1|90.0 kB" {
		t.Errorf("talkers: %q", got)
	}
	if got := b.rows("services"); withoutRate(got[0]) != "tcp/https|1.07 GB" {
		t.Errorf("services: %q", got)
	}
	newest := strings.Split(b.rows("newest")[0], "|")
	if newest[1] != "tcp/https" || newest[2] != "10.77.0.1:40000" || newest[4] != "10.77.0.2:443" || newest[5] != "1.07 GB" || newest[6] != "77" || newest[7] != "9.0 s" || newest[9] != "one side only" {
		t.Errorf("newest: %q", newest)
	}
	if !strings.Contains(newest[8], hostile) {
		t.Errorf("the interface's name: %q", newest[8])
	}
	b.becomes("#exporters tbody tr:nth-child(3) td:nth-child(4)", "12,000")
	for i, want := range []string{"v9|0|34|", "v9|99|1|", "IPFIX|0|12,000|"} {
		if got := b.rows("exporters")[i]; !strings.HasPrefix(got, "127.0.0.1 "+hostile+"|"+want) || i != 1 && !strings.Contains(got, "|0|5, ") {
			t.Errorf("exporter %d: %q", i, got)
		}
	}
	// Names from the network must be shown as text.
	if n := b.number(`document.querySelectorAll("main img, main script, main b").length`); n != 0 {
		t.Errorf("%v elements came from names", n)
	}
	// The chart shows the flows by second: the 12 000 flows of the large capture arrive within a
	// second, or in two or three consecutive seconds.
	label := evaluate[string](b, `document.querySelector("#flows-chart").ariaLabel`)
	most := 0
	if m := mostFlows.FindStringSubmatch(label); m != nil {
		most, _ = strconv.Atoi(strings.ReplaceAll(m[1], ",", "")) // digits
	}
	if most < 4000 || most > 12_035 || b.number(`document.querySelectorAll(".chart canvas").length`) != 2 {
		t.Errorf("the chart: %q", label)
	}
	b.zoomStays()
	b.picture("page-light.png", false, 1300, 900)
	b.picture("page-dark.png", true, 1300, 900)
	b.picture("page-narrow.png", false, 390, 800)
	b.rowsAreLow()
	b.do(chromedp.EmulateViewport(390, 800))
	// The chart adapts to the window a frame later.
	const over = "Math.max(0, document.documentElement.scrollWidth - innerWidth)"
	settles(b, over, 250, func() float64 { return b.number(over) }, 0)
	if w := b.number("innerWidth"); w != 390 {
		t.Errorf("the window is %v px wide", w)
	}
	// Keyboard: the first tab stop skips to the connections, the second pauses.
	b.do(chromedp.Evaluate[chromedp.Void]("document.activeElement.blur()"), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	b.becomes("#status", "paused")
	p.replay("softflowd_v5_synth_adj.pcap")
	time.Sleep(2500 * time.Millisecond) // two events
	if got := b.text("#total-flows"); got != "12,035" {
		t.Errorf("paused, it shows %s", got)
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	b.becomes("#status", "live")
	if got := b.text("#total-flows"); got == "12,035" {
		b.becomes("#total-flows", "12,065")
	}
	b.mu.Lock()
	if len(b.complaints) > 0 {
		t.Errorf("errors in the browser's console: %q", b.complaints)
	}
	b.mu.Unlock()
	p.end()
	b.becomes("#status", "weir does not answer; trying again")
}

// zoomStays selects a part of a chart and checks that both charts show it until "Show all" is pressed.
func (b *browser) zoomStays() {
	b.t.Helper()
	const drag = `(() => {
		const over = document.querySelector("#bits-chart .u-over"), box = over.getBoundingClientRect();
		const mouse = (kind, part, target) => target.dispatchEvent(new MouseEvent(kind, {bubbles: true, button: 0,
			clientX: box.left + part * box.width, clientY: box.top + box.height / 2, movementX: 9, movementY: 1}));
		mouse("mouseenter", .2, over); mouse("mousemove", .2, over); mouse("mousedown", .2, over);
		mouse("mousemove", .5, over); mouse("mousemove", .6, over); mouse("mouseup", .6, document);
	})()`
	b.do(chromedp.Evaluate[chromedp.Void](drag))
	settles(b, "the button Show all", 250, func() bool { return evaluate[bool](b, `!document.querySelector("#all").hidden`) }, true)
	time.Sleep(2500 * time.Millisecond) // two events
	if !evaluate[bool](b, `!document.querySelector("#all").hidden`) {
		b.t.Error("the selected part of the chart is lost with the next event")
	}
	b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#all").click()`))
	settles(b, "the button Show all", 250, func() bool { return evaluate[bool](b, `document.querySelector("#all").hidden`) }, true)
}

// rowsAreLow checks at several widths of the window that no row of a wide table is as high as its texts were broken
// into a few letters a line.
func (b *browser) rowsAreLow() {
	b.t.Helper()
	for _, w := range []struct{ width, highest int64 }{{390, 190}, {700, 130}, {900, 110}, {1280, 90}} {
		b.do(chromedp.EmulateViewport(w.width, 900))
		const over = "Math.max(0, document.documentElement.scrollWidth - innerWidth)"
		settles(b, over, 250, func() float64 { return b.number(over) }, 0)
		height := b.number(`Math.max(...[...document.querySelectorAll(".cards tbody tr")].map(r => r.offsetHeight))`)
		if height > float64(w.highest) {
			b.t.Errorf("%d px: the highest row has %.0f px, want at most %d", w.width, height, w.highest)
		}
	}
}

// A page under a foreign name that resolves to this host (DNS rebinding) must be refused.
func TestAnotherNameIsRefused(t *testing.T) {
	p, b := start(t), open(t)
	b.do(chromedp.Navigate(strings.Replace(p.url, "127.0.0.1", "evil.example", 1)))
	if got := b.text("body"); !strings.Contains(got, "is not a name of this page") {
		t.Errorf("got %q", got)
	}
}
