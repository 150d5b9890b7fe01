package cli

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/flowfile"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
	"weir/pkg/flowpb"
)

// send sends datagrams, slowly enough for a receiver with a small buffer.
func send(t *testing.T, to net.Addr, datagrams [][]byte) {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i, d := range datagrams {
		if i%20 == 19 {
			time.Sleep(2 * time.Millisecond)
		}
		if _, err := c.Write(d); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsCollectedIsWhatTheCaptureHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl.zst")
	file := captureFile("softflowd_v9_big.pcap")
	sent := payloads.Of(t, file)
	lost := append(append([][]byte{}, sent[:100]...), sent[102:]...) // two datagrams of flows
	ctx, cancel := context.WithCancel(t.Context())
	listens := make(chan net.Addr, 1)
	errout := &locked.Buffer{}
	ended := make(chan error, 1)
	go func() {
		ended <- collect(ctx, collectOptions{listen: []string{"127.0.0.1:0"}, path: path, file: flowfile.Options{Octets: 20_000}, started: func(a []net.Addr) { listens <- a[0] }}, errout)
	}()
	to := <-listens
	send(t, to, append(lost, []byte{0, 42, 0, 0}))
	read := func() (all []*flowpb.FlowMessage) {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
		if err != nil {
			t.Fatal(err)
		}
		c := &collecting{}
		newOffline("test", nil, io.Discard, c).run(nil, files)
		return c.all
	}
	want := 0
	for _, m := range decodedOf(t, lost) {
		want += len(m)
	}
	for len(read()) < want {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-t.Context().Done():
			t.Fatal("too few flows")
		case <-time.After(20 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Received now, from another address, by another name; else the capture's.
	byOffset := func(list []*flowpb.FlowMessage) map[[2]uint64]*flowpb.FlowMessage {
		m := map[[2]uint64]*flowpb.FlowMessage{}
		for _, f := range list {
			m[[2]uint64{f.DatagramHash, uint64(f.RecordOffset)}] = f
		}
		return m
	}
	var all []*flowpb.FlowMessage
	for _, m := range decodedOf(t, lost) {
		all = append(all, m...)
	}
	got := byOffset(read())
	ignore := protocmp.IgnoreFields(&flowpb.FlowMessage{}, "time_received_ns", "exporter_port", "sampler_address", "in_if_name", "out_if_name")
	if d := cmp.Diff(byOffset(all), got, protocmp.Transform(), ignore); d != "" || len(got) != want {
		t.Errorf("%d flows of %d, -want +got\n%.3000s", len(got), want, d)
	}
	text := errout.String()
	for _, part := range []string{
		"by its sequence numbers: 2 of 381 datagrams\n", "weir collect: errors: unknown_version=1\n",
		"weir collect: ended: datagrams=380 ",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("want %q in %s", part, text)
		}
	}
	if files := regexp.MustCompile(`flows in (\d+) files, [0-9.]+ kB; 0 lost`).FindStringSubmatch(text); files == nil || files[1] == "1" {
		t.Errorf("want several files in %s", text)
	}
}

// decodedOf are the flows of datagrams, decoded one after the other.
func decodedOf(t *testing.T, datagrams [][]byte) (all [][]*flowpb.FlowMessage) {
	t.Helper()
	c := &collecting{}
	o := newOffline("test", nil, io.Discard, c)
	for _, d := range datagrams {
		c.all = nil
		if err := o.datagram(&capture.Datagram{Src: someExporter, Time: 1_790_000_000_000_000_000, Payload: d}); err != nil {
			t.Fatal(err)
		}
		all = append(all, c.all)
	}
	return all
}

func TestAKilledCollectorsFileReadsUpToItsLastBlock(t *testing.T) {
	for _, name := range []string{"flows.jsonl.zst", "flows.jsonl.gz", "flows.jsonl"} {
		path := filepath.Join(t.TempDir(), name)
		l, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		to := l.LocalAddr()
		_ = l.Close()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "collect", "--listen", to.String(), "--out", path)
		cmd.Env = append(os.Environ(), asWeir+"=1")
		errout := &locked.Buffer{}
		cmd.Stderr = errout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait := func(what string, done func() bool) {
			t.Helper()
			for began := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
				if time.Since(began) > 30*time.Second {
					t.Fatalf("%s: not %s: %s", name, what, errout.String())
				}
			}
		}
		wait("listening", func() bool { return strings.Contains(errout.String(), "receiving") })
		// The first datagrams are the templates.
		sent := payloads.Of(t, captureFile("softflowd_v9_big.pcap"))
		flows := func() int {
			c := &collecting{}
			newOffline("test", nil, io.Discard, c).run(nil, []string{path})
			return len(c.all)
		}
		send(t, to, sent[:50])
		want := 0
		for _, m := range decodedOf(t, sent[:50]) {
			want += len(m)
		}
		wait("written", func() bool { return flows() == want })
		send(t, to, sent[50:200]) // some of it is in a block, some is not
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		whole := flows()
		if whole < want {
			t.Errorf("%s: %d flows of at least %d", name, whole, want)
		}
		// Half a block, as a crash of the machine leaves it.
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, b[:40]...), 0o600); err != nil {
			t.Fatal(err)
		}
		got := run(t, "", "connections", "--json", path)
		if got.code != 0 || !strings.Contains(got.errout, path+": the file is cut in line ") {
			t.Errorf("%s: exit code %d, %s", name, got.code, got.errout)
		}
	}
}

func TestWhatWaitsHasItsLimits(t *testing.T) {
	o := newOffline("test", nil, io.Discard, &collecting{})
	o.waitingMost = 3000
	sent := payloads.Of(t, captureFile("softflowd_v9_big.pcap"))
	for i, d := range sent[1:] { // without the first, which brings the templates
		if hasTemplates(d) {
			break
		}
		if err := o.datagram(&capture.Datagram{Src: someExporter, Time: int64(i), Payload: d}); err != nil {
			t.Fatal(err)
		}
	}
	if o.waitingNow == 0 || o.waitingNow > 3000 || o.count.undecoded == 0 {
		t.Errorf("%d octets wait, %d sets given up", o.waitingNow, o.count.undecoded)
	}
	before := o.count.undecoded
	o.expire(1 << 40)
	if o.waitingNow != 0 || len(o.waiting) != 0 || o.count.undecoded == before {
		t.Errorf("%d octets wait after all", o.waitingNow)
	}
}

func TestSizesOfOptions(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "500MB": 500e6, "2GiB": 2 << 30, "1.5 kB": 1500, "10B": 10} {
		if got, err := console.ParseOctets(s); err != nil || got != want {
			t.Errorf("%s: want %d, got %d, %v", s, want, got, err)
		}
	}
	for _, s := range []string{"", "GB", "-1", "1e40", "5 parsecs", "NaN"} {
		if n, err := console.ParseOctets(s); err == nil {
			t.Errorf("%q: want an error, got %d", s, n)
		}
	}
}

// someExporter sends what has no sender of its own.
var someExporter = netip.MustParseAddrPort("127.0.0.1:40000")
