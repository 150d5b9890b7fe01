package cli

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/cli/collect"
	"weir/internal/cli/flowfile"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
	"weir/internal/weirtest/testflows"
	"weir/pkg/flowpb"
)

func TestWhatIsCollectedIsWhatTheCaptureHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl.zst")
	file := captures.File("softflowd_v9_big.pcap")
	sent := payloads.Of(t, file)
	lost := append(append([][]byte{}, sent[:100]...), sent[102:]...) // two datagrams of flows
	ctx, cancel := context.WithCancel(t.Context())
	listens := make(chan net.Addr, 1)
	errout := &locked.Buffer{}
	ended := make(chan error, 1)
	go func() {
		ended <- collect.Run(ctx, collect.Options{Listen: []string{"127.0.0.1:0"}, Path: path, File: flowfile.Options{Octets: 20_000}, Started: func(a []net.Addr) { listens <- a[0] }}, errout)
	}()
	to := <-listens
	payloads.Send(t, to, append(lost, []byte{0, 42, 0, 0}))
	read := func() (all []*flowpb.FlowMessage) {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
		if err != nil {
			t.Fatal(err)
		}
		return testflows.OfFiles(files...)
	}
	want := 0
	for _, m := range testflows.OfDatagrams(t, lost) {
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
	// The flows differ from those of the capture only in the receive time, the exporter's address and its
	// name.
	byOffset := func(list []*flowpb.FlowMessage) map[[2]uint64]*flowpb.FlowMessage {
		m := map[[2]uint64]*flowpb.FlowMessage{}
		for _, f := range list {
			m[[2]uint64{f.DatagramHash, uint64(f.RecordOffset)}] = f
		}
		return m
	}
	var all []*flowpb.FlowMessage
	for _, m := range testflows.OfDatagrams(t, lost) {
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
		sent := payloads.Of(t, captures.File("softflowd_v9_big.pcap"))
		flows := func() int {
			return len(testflows.OfFiles(path))
		}
		payloads.Send(t, to, sent[:50])
		want := 0
		for _, m := range testflows.OfDatagrams(t, sent[:50]) {
			want += len(m)
		}
		wait("written", func() bool { return flows() == want })
		payloads.Send(t, to, sent[50:200]) // some are in a written block, some are not
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		whole := flows()
		if whole < want {
			t.Errorf("%s: %d flows of at least %d", name, whole, want)
		}
		// Half a block, as after a crash of the machine.
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
