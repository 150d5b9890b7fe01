package cli

import (
	"bufio"
	order "cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/flowfile"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/payloads"
	"weir/internal/weirtest/testflows"
	"weir/pkg/flowpb"
)

func temporary(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Flows read from the output of decode --json must equal the flows of the capture.
func TestFlowsOfJSONLinesAreThoseOfTheCapture(t *testing.T) {
	files, err := filepath.Glob(captures.File("*.pcap"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	if more, err := filepath.Glob(filepath.Join(captures.Root(), "../shared/corpus/pcap/*")); err == nil {
		files = append(files, more...)
	}
	flows := 0
	for _, file := range files {
		want := testflows.OfFiles(file)
		got := testflows.OfFiles(temporary(t, "flows.jsonl", run(t, "", "decode", "--json", file).out))
		for _, l := range [][]*flowpb.FlowMessage{want, got} { // decode prints in the order of the datagram, waiting sets included
			slices.SortStableFunc(l, func(a, b *flowpb.FlowMessage) int {
				return order.Or(order.Compare(a.DatagramHash, b.DatagramHash), order.Compare(a.RecordOffset, b.RecordOffset))
			})
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d flows, want %d", file, len(got), len(want))
			continue
		}
		for i, m := range want {
			if !proto.Equal(m, got[i]) && !invalidText(m) {
				t.Errorf("%s, flow %d:\n%v\n%v", file, i+1, m, got[i])
				break
			}
		}
		flows += len(want)
	}
	t.Logf("%d flows of %d captures", flows, len(files))
}

// invalidText reports whether a text of m is not UTF-8. JSON cannot represent such a text.
func invalidText(m *flowpb.FlowMessage) bool {
	_, err := proto.Marshal(m)
	return err != nil
}

func TestLinesThatAreNoFlows(t *testing.T) {
	path := temporary(t, "flows.jsonl", `{"record":"template","template_id":256}
{"record":"flow","type":"NETFLOW_V9","src_addr":"10.0.0.1","dst_addr":"10.0.0.2","proto":6,"bytes":10,"packets":1}
{"record":"flow","type":"NETFLOW_V9","src_addr":"10.0.0.x"}
{"type":"NETFLOW_V9","bytes":-1}
{"type":"NETFLOW_V9","elements":{}}
{"some":"thing"}
{broken
{"type":"NETFLOW_V5","src_addr":"10.0.0.3","dst_addr":"10.0.0.4","proto":17,"bytes":10,"packets":1}
{"type":"NETFLOW_V5","src_addr":"10.0.0`)
	list, got := connectionsOf(t, path)
	if len(list) != 2 || got.code != 0 {
		t.Errorf("%d connections, exit code %d", len(list), got.code)
	}
	for _, want := range []string{
		"line 3 of " + path + ": src_addr: \"10.0.0.x\" is neither hex text nor a value of this field\n",
		"datagrams=0 flows=2 options=0 templates=0 undecoded=0 errors=5\n",
		path + ": the file is cut in line 9; the lines before it were read\n",
	} {
		if !strings.Contains(got.errout, want) {
			t.Errorf("want %q in %q", want, got.errout)
		}
	}
	decoded := run(t, "", "decode", "--json", path)
	if want := `"cause":"bad_line","what":"line 6 of ` + path + `: it has no \"type\": is this a file of flows?"`; !strings.Contains(decoded.out, want) {
		t.Errorf("want %s in %s", want, decoded.out)
	}
}

// The oracle is the analyzer of the Python package: weir must find the same conversations by packets, durations
// and services. The analyzer reports the size of the direction with more octets, and takes the service from the
// port of either endpoint.
func TestTheAnalyzersConnectionsOfThePythonPackage(t *testing.T) {
	const dir = "inputs/seed_vectors/"
	in, err := os.ReadFile(captures.Shared(t, dir+"analyzer_v9_input.json"))
	if err != nil {
		t.Fatal(err)
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(in, &entries); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&lines, "%s\n", e)
	}
	theirs, err := os.ReadFile(captures.Shared(t, dir+"analyzer_v9_n_p0.stdout.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`\| (\S+) +\| \S+ +\| (?:(\d+) sec|(\d+:\d+) min) +\| +(\d+) \|`).FindAllStringSubmatch(string(theirs), -1) {
		want = append(want, fmt.Sprintf("%s packets, %s%s, %s", m[4], m[2], strings.TrimPrefix(m[3], "0"), strings.ToLower(m[1])))
	}
	var got []string
	out := run(t, "", "connections", "-p", "0", temporary(t, "flows.json", lines.String())).out
	for _, m := range regexp.MustCompile(`(?:tcp|udp)/(\S+) +\S+ k?B +(?:(\d+)\.\d s|(\d+:\d+) min) +(\d+) `).FindAllStringSubmatch(out, -1) {
		got = append(got, fmt.Sprintf("%s packets, %s%s, %s", m[4], m[2], m[3], m[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	// The analyzer truncates minutes, weir rounds them.
	text := strings.NewReplacer("1:56", "1:55", "1:01", "1:00").Replace(strings.Join(got, "\n"))
	if d := cmp.Diff(strings.Join(want, "\n"), text); d != "" || len(want) != 22 {
		t.Errorf("%d, -want +got\n%s\n%s", len(want), d, out)
	}
}

// The collector of the Python package receives captures. From its file weir must pair the same connections as from
// the captures.
func TestWhatThePythonCollectorStored(t *testing.T) {
	python, err := filepath.Abs(filepath.Join(captures.Root(), ".cache/python/bin/python"))
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), python, "-c", "import netflow").Run(); err != nil {
		t.Skipf("SKIPPED: no %s with netflow 0.12.2 (.ci/run makes it): %v", python, err)
	}
	for _, name := range []string{"softflowd_v1_synth_adj", "softflowd_v5_synth_adj", "softflowd_v9_synth_adj", "softflowd_v10_synth_adj", "softflowd_v9_big"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "python.gz")
			pythonCollects(t, python, file, captures.File(name+".pcap"))
			want, _ := connectionsOf(t, captures.File(name+".pcap"))
			if name == "softflowd_v10_synth_adj" {
				// The times of this capture are relative to an instant in options data, which the
				// collector does not store. Without times the endpoint with the lower port is the responder.
				for i, c := range want {
					if c.Responder.Port == 6001 {
						want[i].Initiator, want[i].Responder, want[i].Forward, want[i].Reverse = c.Responder, c.Initiator, c.Reverse, c.Forward
					}
				}
			}
			got, stored := connectionsOf(t, file)
			if d := cmp.Diff(texts(want), texts(got)); d != "" || stored.code != 0 || len(got) == 0 {
				t.Errorf("%d connections, -want +got\n%s%s", len(got), d, stored.errout)
			}
		})
	}
}

// pythonCollects stores a capture with the collector of the Python package.
func pythonCollects(t *testing.T, python, file, captured string) {
	t.Helper()
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := l.LocalAddr().(*net.UDPAddr)
	l.Close()
	cmd := exec.CommandContext(t.Context(), python, "-m", "netflow.collector", "--host", "127.0.0.1", "--port", strconv.Itoa(to.Port), "-o", file, "-D")
	logged, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	processed, listens := make(chan struct{}, 1<<16), make(chan struct{}, 1<<16)
	go func() {
		defer close(processed)
		for s := bufio.NewScanner(logged); s.Scan(); {
			switch {
			case strings.Contains(s.Text(), "ignoring the packet"):
				listens <- struct{}{}
			case strings.Contains(s.Text(), "Processed a"):
				processed <- struct{}{}
			}
		}
	}()
	c, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	// It logs its start before it listens. A datagram that it ignores shows that it listens.
	for began, up := time.Now(), false; !up; {
		if time.Since(began) > 30*time.Second {
			t.Fatal("the collector does not start")
		}
		_, _ = c.Write([]byte{0xff, 0xff, 0, 0}) // refused until then
		select {
		case <-listens:
			up = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	sent := payloads.Of(t, captured)
	for i, d := range sent {
		if _, err := c.Write(d); err != nil {
			t.Fatal(err)
		}
		select {
		case <-processed:
		case <-time.After(10 * time.Second):
			t.Fatalf("datagram %d is not processed", i)
		}
	}
	for stored := 0; stored < len(sent); stored = storedLines(file) { // otherwise it would be killed inside a line
		select {
		case <-t.Context().Done():
			t.Fatal("not everything is stored")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for range processed {
	}
	_ = cmd.Wait() // it ends with an exception
}

// storedLines returns the number of complete lines of a file.
func storedLines(path string) (n int) {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	r, err := flowfile.Open(f)
	if err != nil {
		return 0
	}
	for l := flowfile.NewLines(r); ; n++ {
		if _, err := l.Next(); err != nil {
			return n
		}
	}
}
