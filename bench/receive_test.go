package bench

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "weir/internal/weirtest/kafka"
)

var receiveTable = flag.String("receive", "", "measure ingest, and write the table into this document")
var towardsOnly = flag.Bool("kafka", false, "of that only what goes to Kafka; nothing is written")

const (
	receiveRuns = 3
	kafkaFlows  = 4_500_000 // towards Kafka, a run
	kafkaRate   = 3_000_000 // flows per second that are sent: more than any collector receives
	enlarged    = 4 << 20   // octets of receive buffer that the kernel grants without privileges
)

// pinned returns a command that runs on one of the two cores.
func pinned(ctx context.Context, core int, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "taskset", append([]string{"-c", strconv.Itoa(core), name}, args...)...)
}

// role returns a command that starts this program in another role, on a core.
func role(ctx context.Context, core int, name string, args ...any) *exec.Cmd {
	cmd := pinned(ctx, core, os.Args[0])
	cmd.Env = append(os.Environ(), receiveRole+"="+name, receiveArgs+"="+strings.TrimSpace(fmt.Sprintln(args...)))
	cmd.Stderr = os.Stderr
	return cmd
}

// numbers parses the numbers that a role printed.
func numbers(t *testing.T, out []byte, err error) (all []float64) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(out)) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// A receiver is a running collector.
type receiver struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	port int
}

// receive starts a collector on core 1 that listens on a free port.
func receive(t *testing.T, command func(addr string, port int) *exec.Cmd) *receiver {
	t.Helper()
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.LocalAddr().(*net.UDPAddr)
	l.Close()
	r := &receiver{t: t, addr: addr.String(), port: addr.Port, cmd: command(addr.String(), addr.Port)}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stop)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	kafkatest.Poll(ctx, t, r.cmd.Path+" listens", func() bool { _, _, ok := r.socket(); return ok })
	time.Sleep(time.Second) // it has begun to read
	return r
}

func (r *receiver) stop() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		_ = r.cmd.Wait()
	}
}

// socket returns the octets in the receive queue of the collector's socket and the datagrams that
// the kernel dropped there. ok is false if there is no socket.
func (r *receiver) socket() (waiting, drops int64, ok bool) {
	r.t.Helper()
	text, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) <= 12 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", r.port)) {
			continue
		}
		_, queue, _ := strings.Cut(f[4], ":")
		w, err := strconv.ParseInt(queue, 16, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		d, err := strconv.ParseInt(f[len(f)-1], 10, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		waiting, drops, ok = waiting+w, drops+d, true
	}
	return waiting, drops, ok
}

// cpu returns the CPU time of the collector, s.
func (r *receiver) cpu() float64 { return cpuOf(r.t, r.cmd.Process.Pid) }

// cpuOf returns the CPU time of a process, s.
func cpuOf(t *testing.T, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')'):]))
	user, _ := strconv.ParseFloat(f[12], 64) // proc(5): fields 14 and 15, in ticks of 10 ms
	system, _ := strconv.ParseFloat(f[13], 64)
	return (user + system) / 100
}

// rss returns the peak memory of the collector, MiB.
func (r *receiver) rss() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return n / 1024
}

// blast sends for a time. It returns the datagrams sent and dropped, and the CPU time that the
// receiver used, s.
func (r *receiver) blast(flowsPerSecond float64, lasts time.Duration) (sent, dropped, cpu float64) {
	r.t.Helper()
	_, before, _ := r.socket()
	used := r.cpu()
	out, err := role(r.t.Context(), 0, "send", r.addr, int(flowsPerSecond/v9Flows), lasts.Milliseconds()).Output()
	sent = numbers(r.t, out, err)[0]
	for idle := 0; idle < 3; { // until it has read everything, and has nothing to do
		at := r.cpu()
		time.Sleep(150 * time.Millisecond)
		waiting, _, _ := r.socket()
		if idle++; r.cpu() > at+0.02 || waiting > 0 {
			idle = 0
		}
	}
	_, after, _ := r.socket()
	return sent, float64(after - before), r.cpu() - used
}

// lossFree returns the highest rate, flows per second, at which no datagram is dropped for two
// seconds, to within a tenth.
func (r *receiver) lossFree() float64 {
	low, high := 20_000., 10_000_000.
	for high/low > 1.1 {
		rate := math.Sqrt(low * high)
		clean := false
		for range 2 {
			sent, dropped, _ := r.blast(rate, 2*time.Second)
			if dropped == 0 {
				clean = true
				if sent*v9Flows/2 < rate*0.9 { // the sender is at its limit
					return sent * v9Flows / 2
				}
				break
			}
		}
		if clean {
			low = rate
		} else {
			high = rate
		}
	}
	return low
}

// collected holds the results of a collector.
type collected struct {
	def, large float64 // loss-free rate with the default and with enlarged buffers
	perCPU     float64 // flows per CPU-second at saturation
	rss        float64 // MiB
}

func (c *collected) row(name string) string {
	large := "no option"
	if c.large > 0 {
		large = fmt.Sprintf("%.0f", c.large)
	}
	return fmt.Sprintf("| %s | %.0f | %s | %.0f | %.0f |\n", name, c.def, large, c.perCPU, c.rss)
}

func saturated(r *receiver) (perCPU, rss float64) {
	var all []float64
	for range receiveRuns {
		sent, dropped, cpu := r.blast(0, 3*time.Second)
		all = append(all, (sent-dropped)*v9Flows/cpu)
	}
	return middle(all), r.rss()
}

func TestReceiveTable(t *testing.T) {
	if *receiveTable == "" {
		t.Skip("SKIPPED: make bench-ingest measures")
	}
	if _, err := exec.LookPath("nfcapd"); err != nil {
		t.Skipf("SKIPPED: no nfcapd (Debian: nfdump): %v", err)
	}
	ctx, dir := t.Context(), t.TempDir()
	goflow2 := filepath.Join(dir, "goflow2")
	install := exec.CommandContext(ctx, "go", "install", "github.com/netsampler/goflow2/v2/cmd/goflow2@v2.2.6")
	install.Env, install.Dir = append(os.Environ(), "GOBIN="+dir), dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("goflow2: %v\n%s", err, out)
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "weir/cmd/ingest")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	if *towardsOnly {
		fmt.Print(towardsKafka(t, dir, goflow2))
		return
	}
	var text strings.Builder
	fmt.Fprintf(&text, `%s, %s; v9 of %d flows a datagram, sender on one core, receiver on the other; medians of %d runs.

| no Kafka | loss-free flows/s, default buffer | with %d MiB | flows per CPU-second at saturation | RSS, MiB |
|---|---|---|---|---|
`, cmp.Or(model(), "unknown CPU"), runtime.Version(), v9Flows, receiveRuns, enlarged>>20)
	var ours, nf collected
	measure := func(c *collected, name string, command func(rcvbuf int) func(addr string, port int) *exec.Cmd, sized bool) {
		r := receive(t, command(0))
		c.def = r.lossFree()
		r.stop()
		r = receive(t, command(enlarged))
		if sized {
			c.large = r.lossFree()
		}
		c.perCPU, c.rss = saturated(r)
		r.stop()
		text.WriteString(c.row(name))
		t.Log(c.row(name))
	}
	measure(&ours, "Weir, flows thrown away once encoded", func(rcvbuf int) func(string, int) *exec.Cmd {
		return func(addr string, _ int) *exec.Cmd { return role(ctx, 1, "discard", addr, rcvbuf) }
	}, true)
	measure(&nf, "nfcapd 1.7.1, to its file", func(rcvbuf int) func(string, int) *exec.Cmd {
		return func(_ string, port int) *exec.Cmd {
			files, err := os.MkdirTemp(dir, "nfcapd")
			if err != nil {
				t.Fatal(err)
			}
			args := []string{"-w", files, "-b", "127.0.0.1", "-p", strconv.Itoa(port)}
			if rcvbuf > 0 {
				args = append(args, "-B", strconv.Itoa(rcvbuf))
			}
			return pinned(ctx, 1, "nfcapd", args...)
		}
	}, true)
	var go2 collected
	measure(&go2, "goflow2 2.2.6, to /dev/null", func(int) func(string, int) *exec.Cmd {
		return func(_ string, port int) *exec.Cmd {
			return pinned(ctx, 1, goflow2, "-listen", fmt.Sprintf("netflow://127.0.0.1:%d?count=1&blocking=true", port), "-addr", "", "-format", "bin",
				"-transport", "file", "-transport.file", "/dev/null")
		}
	}, false)
	fmt.Fprintf(&text, "\nWeir / nfcapd: flows per CPU-second %.2f, loss-free %.2f (default buffer), %.2f (enlarged).\n\n", ours.perCPU/nf.perCPU, ours.def/nf.def, ours.large/nf.large)

	text.WriteString(towardsKafka(t, dir, goflow2))
	fmt.Print(text.String())
	document(t, *receiveTable, "<!-- receiving: written by make bench-ingest -->", "<!-- receiving: end -->", text.String())
}

// towardsKafka measures the CPU time per flow that Kafka acknowledges.
func towardsKafka(t *testing.T, dir, goflow2 string) string {
	ctx := t.Context()
	c := kafkatest.Start(ctx, t)
	for _, pid := range c.PIDs() {
		if out, err := exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", "0", strconv.Itoa(pid)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	topic := func(name string) string {
		if _, err := adm.CreateTopic(ctx, 12, 1, nil, name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	on := func(name string) (n float64) { // records
		ends, err := adm.ListEndOffsets(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		ends.Each(func(o kadm.ListedOffset) { n += float64(o.Offset) })
		return n
	}
	decode := func() float64 {
		const n = 20_000_000
		out, err := role(ctx, 1, "decode", n).Output()
		return numbers(t, out, err)[0] / n / 1000
	}
	bare := func(run int) float64 {
		out, err := role(ctx, 1, "bare", c.Brokers()[0], topic(fmt.Sprintf("bare%d", run)), kafkaFlows/3).Output()
		v := numbers(t, out, err)
		return v[0] / v[1] / 1000
	}
	// perFlow returns the CPU time per flow, µs, over the flows that the kernel did not drop. With
	// exact, all of them must be on the topic.
	perFlow := func(name, topic string, exact bool, command func(addr string, port int) *exec.Cmd) float64 {
		r := receive(t, command)
		defer r.stop()
		r.blast(50_000, time.Second) // opens the connections and fetches the topic IDs
		before := on(topic)
		used := r.cpu()
		sent, dropped, _ := r.blast(kafkaRate, kafkaFlows*time.Second/kafkaRate)
		flows, records := (sent-dropped)*v9Flows, on(topic)-before
		for began := time.Now(); exact && records < flows && time.Since(began) < 30*time.Second; records = on(topic) - before {
			time.Sleep(200 * time.Millisecond)
		}
		cpu := r.cpu() - used
		if exact && records != flows || records == 0 {
			t.Errorf("%s: %.0f flows received, %.0f records on the topic", name, flows, records)
		}
		t.Logf("%s: %.0f flows, %.0f records, %.0f %% dropped by the kernel", name, flows, records, 100*dropped/sent)
		return cpu / flows * 1e6
	}
	weir := func(name string, run int, exact bool, env ...string) float64 {
		prefix := fmt.Sprintf("%s%d.", name, run)
		return perFlow(name, topic(prefix+"flows"), exact, func(addr string, _ int) *exec.Cmd {
			cmd := pinned(ctx, 1, filepath.Join(dir, "ingest"))
			cmd.Env = append(append(os.Environ(), "KAFKA_BROKERS="+c.Brokers()[0], "TOPIC_PREFIX="+prefix, "TOPIC_REPLICATION=1", "LISTEN_UDP="+addr, "METRICS_LISTEN=", "RCVBUF="+strconv.Itoa(enlarged),
				"PRODUCE_MAX_RECORDS=4000000", "PRODUCE_MAX_OCTETS=1000000000"), env...)
			return cmd
		})
	}
	kinds := []string{
		"decoding alone", "franz-go alone, the same octets, a record a flow", "Weir, a record a flow",
		"Weir, a record a flow, PRODUCER=batches", "Weir, PACK=50", "Weir, FORMAT=json", "goflow2 2.2.6, a record a flow",
	}
	all := make([][]float64, len(kinds))
	for run := range receiveRuns {
		for i, f := range []func() float64{
			decode,
			func() float64 { return bare(run) },
			func() float64 { return weir("single", run, true) },
			func() float64 { return weir("batches", run, true, "PRODUCER=batches") },
			func() float64 { return weir("packed", run, false, "FRAMING=delimited", "PACK=50") },
			func() float64 { return weir("json", run, true, "FORMAT=json") },
			func() float64 {
				name := topic(fmt.Sprintf("goflow%d", run))
				return perFlow("goflow2", name, false, func(_ string, port int) *exec.Cmd {
					return pinned(ctx, 1, goflow2, "-listen", fmt.Sprintf("netflow://127.0.0.1:%d?count=1&blocking=true", port), "-addr", "", "-format", "bin",
						"-transport", "kafka", "-transport.kafka.brokers", c.Brokers()[0], "-transport.kafka.topic", name)
				})
			},
		} {
			v := f()
			all[i] = append(all[i], v)
			t.Logf("%s: %.2f µs", kinds[i], v)
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "| %d flows, at %d a second, to acknowledging Kafka | CPU, µs a flow |\n|---|---|\n", kafkaFlows, kafkaRate)
	mid := make([]float64, len(kinds))
	for i, k := range kinds {
		mid[i] = middle(all[i])
		fmt.Fprintf(&text, "| %s | %.2f |\n", k, mid[i])
	}
	decoding, client, single, batches, packed, other := mid[0], mid[1], mid[2], mid[3], mid[4], mid[6]
	fmt.Fprintf(&text, "\nWeir, a record a flow, is %.2f times decoding and franz-go alone and %.1f times PACK=50; PRODUCER=batches is %.2f of it"+
		" and %.1f times PACK=50; goflow2 needs %.1f times as much as Weir, a record a flow.\n",
		single/(decoding+client), single/packed, batches/single, batches/packed, other/single)
	return text.String()
}
