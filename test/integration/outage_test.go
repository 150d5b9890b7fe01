//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "weir/internal/weirtest/kafka"
)

// rss returns the peak memory of a process, octets.
func (p *process) rss(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	n, _ := strconv.Atoi(strings.Fields(rest)[0])
	return n << 10
}

// v5Flows is the number of flows in each datagram of a blast.
const v5Flows = 30

// A blast sends v5 datagrams from one socket, with sequence numbers that count flows.
type blast struct {
	to       []net.Conn
	pkt      []byte
	sequence uint32
	sent     int // datagrams
	boot     time.Time
}

// newBlast returns a blast that sends to the processes in turn, from one address.
func newBlast(t *testing.T, processes ...*process) *blast {
	t.Helper()
	b := &blast{pkt: make([]byte, 24+48*v5Flows), boot: time.Now().Add(-time.Hour)}
	for _, p := range processes {
		c, err := net.Dial("udp", p.udp)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		b.to = append(b.to, c)
	}
	binary.BigEndian.PutUint16(b.pkt, 5)
	binary.BigEndian.PutUint16(b.pkt[2:], v5Flows)
	for i := range v5Flows {
		r := b.pkt[24+48*i:]
		copy(r, []byte{10, 0, 0, byte(i), 198, 51, 100, 7})
		binary.BigEndian.PutUint32(r[16:], 10)
		binary.BigEndian.PutUint32(r[20:], 1000)
		binary.BigEndian.PutUint16(r[34:], 443)
		r[38] = 6
	}
	return b
}

// send sends n datagrams, at most perSecond a second (0: unlimited).
func (b *blast) send(t *testing.T, n int, perSecond float64) {
	t.Helper()
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for began, i := time.Now(), 0; i < n; {
		if perSecond > 0 && float64(i) >= perSecond*time.Since(began).Seconds() {
			<-pause.C
			continue
		}
		now := time.Now()
		binary.BigEndian.PutUint32(b.pkt[4:], uint32(now.Sub(b.boot).Milliseconds()))
		binary.BigEndian.PutUint32(b.pkt[8:], uint32(now.Unix()))
		binary.BigEndian.PutUint32(b.pkt[16:], b.sequence)
		for r := range v5Flows { // all different
			binary.BigEndian.PutUint32(b.pkt[24+48*r:], 10<<24|uint32(b.sent*v5Flows+r)&0xffffff)
		}
		if _, err := b.to[b.sent%len(b.to)].Write(b.pkt); err != nil {
			t.Fatal(err)
		}
		b.sequence += v5Flows
		b.sent++
		i++
	}
}

// onTopic returns the number of records of a topic.
func onTopic(ctx context.Context, t *testing.T, brokers []string, topic string) (n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
	return n
}

// TestEveryFlowIsOnTheTopicOrCounted sends more than ingest can hold. Every flow must be on the
// topic, dropped by the kernel, or dropped because the buffer was full: the three figures and the
// loss by sequence numbers must agree exactly.
func TestEveryFlowIsOnTheTopicOrCounted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := build(ctx, t, t.TempDir())
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "weir/cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := kafkatest.Start(ctx, t)
	if !c.Own() {
		t.Skip("SKIPPED: the test stops nodes, which it must not do with those of KAFKA_BROKERS")
	}
	w := &world{t: t, c: c, bin: dir}
	small := []string{"RECEIVERS=1", "RCVBUF=16384", "PRODUCE_MAX_RECORDS=20000"}
	replicas := []*process{w.ingest(ctx, "one", small...), w.ingest(ctx, "two", small...)}
	for _, p := range replicas {
		kafkatest.Poll(ctx, t, "ingest is ready", func() bool { code, _ := p.ready(); return code == http.StatusOK })
	}
	sum := func(name, part string) (n int) {
		for _, p := range replicas {
			n += int(p.sum(name, part))
		}
		return n
	}
	b := newBlast(t, replicas...)
	b.send(t, 10, 100) // the first sequence numbers must be received
	kafkatest.Poll(ctx, t, "the first flows are there", func() bool { return onTopic(ctx, t, c.Brokers(), "netflow.flows") == 10*v5Flows })
	if sum("weir_ingest_socket_drops_total", "") != 0 {
		t.Fatal("ten datagrams in a tenth of a second were dropped")
	}

	c.Pause() // a blocked broker
	b.send(t, 20_000, 20_000)
	c.Resume()
	b.send(t, 20_000, 0)
	kafkatest.Poll(ctx, t, "the buffers are empty", func() bool { return sum("weir_ingest_buffered_flows", "") == 0 })
	b.send(t, 10, 100) // so must the last; the kernel reports the drops of a socket with its next datagram
	kafkatest.Poll(ctx, t, "the last flows are there", func() bool { return sum("weir_ingest_buffered_flows", "") == 0 })
	sent, kernel := b.sent*v5Flows, v5Flows*sum("weir_ingest_socket_drops_total", "")
	full := sum("weir_ingest_dropped_flows_total", `reason="buffer_full"`)
	if all := sum("weir_ingest_dropped_flows_total", ""); all != full || full != sum("weir_ingest_dropped_flows_total", `exporter="127.0.0.1"`) {
		t.Errorf("want drops only because the buffer was full, all counted for the exporter: %d of %d", full, all)
	}
	for _, p := range replicas {
		p.terminate(t)
	}
	there := onTopic(ctx, t, c.Brokers(), "netflow.flows")

	cmd := exec.CommandContext(ctx, filepath.Join(dir, "weir"), "exporters", "--json")
	cmd.Env = append(os.Environ(), "KAFKA_BROKERS="+strings.Join(c.Brokers(), ","))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var line struct {
		Exporter string
		Flows    int
		Lost     *int
		Of       int
		Unit     string `json:"lost_unit"`
	}
	if err := json.Unmarshal(out, &line); err != nil || line.Lost == nil {
		t.Fatalf("weir exporters: %v\n%s", err, out)
	}
	t.Logf("sent %d flows: %d on the topic, %d dropped by the kernel, %d because the buffer was full; lost by sequence numbers %d of %d %s",
		sent, there, kernel, full, *line.Lost, line.Of, line.Unit)
	if there+kernel+full != sent {
		t.Errorf("%d flows are unaccounted for", sent-there-kernel-full)
	}
	if *line.Lost != kernel || line.Of != sent || line.Flows != there+full {
		t.Errorf("by sequence numbers %d of %d are lost, received %d: want %d of %d, %d", *line.Lost, line.Of, line.Flows, kernel, sent, there+full)
	}
	if kernel == 0 || full == 0 {
		t.Error("want drops of both kinds")
	}
}

// TestKafkaAwayForAMinute stops Kafka for a minute at 50 000 flows a second. Memory must stay
// within its bound, drops must be counted, and the buffered flows must be delivered at once when
// Kafka returns.
func TestKafkaAwayForAMinute(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	dir := build(ctx, t, t.TempDir())
	c := kafkatest.New(ctx, t)
	up := func() {
		for i := range kafkatest.Nodes {
			if err := c.StartNode(i); err != nil {
				t.Fatal(err)
			}
		}
		c.WaitUp(ctx, t, kafkatest.Nodes)
	}
	up()
	w := &world{t: t, c: c, bin: dir}
	const bound = 704 << 20
	p := w.ingest(ctx, "one", fmt.Sprintf("MEMORY_MAX=%d", bound), "PARK_MAX_OCTETS=33554432", "UNDECODED_BURST=33554432", "TEMPLATES_MAX=65536")
	kafkatest.Poll(ctx, t, "ingest is ready", func() bool { code, _ := p.ready(); return code == http.StatusOK })
	b := newBlast(t, p)
	dropped := func() int { return int(p.sum("weir_ingest_dropped_flows_total", "")) }
	buffered := func() int { return int(p.sum("weir_ingest_buffered_flows", "")) }
	delivered := func() int { return int(p.sum("weir_ingest_flows_total", "")) - dropped() - buffered() }
	b.send(t, 100, 1000)

	// Measure the time of delivery when the buffer is full.
	c.Pause()
	b.send(t, 20_000, 10_000)
	held, began := buffered(), time.Now()
	c.Resume()
	kafkatest.Poll(ctx, t, "the buffer is empty", func() bool { return buffered() == 0 })
	throughput := float64(held) / time.Since(began).Seconds()

	for i := range kafkatest.Nodes {
		c.Kill(i)
	}
	const rate, away = 50_000, 60 * time.Second
	b.send(t, int(rate*away.Seconds())/v5Flows, float64(rate)/v5Flows)
	held = buffered()
	up()
	began = time.Now()
	before := delivered()
	kafkatest.Poll(ctx, t, "the buffer is empty", func() bool { return buffered() == 0 })
	took := time.Since(began)
	kernel, lost := v5Flows*int(p.sum("weir_ingest_socket_drops_total", "")), dropped()
	if own := int(p.sum("weir_ingest_dropped_flows_total", `exporter="127.0.0.1",reason="buffer_full"`)); own != dropped() {
		t.Errorf("of %d dropped flows %d are counted by exporter and reason", dropped(), own)
	}
	rss := p.rss(t)
	p.terminate(t)
	there := onTopic(ctx, t, c.Brokers(), "netflow.flows")
	t.Logf("throughput %.0f flows/s; after %v away: %d flows held, %d dropped; delivered %v after the brokers' return (%d before it); RSS %d MiB at most, bound %d MiB; sent %d, on the topic %d",
		throughput, away, held, lost, took, before, rss>>20, bound>>20, b.sent*v5Flows, there)
	if want := 2*time.Second + time.Duration(float64(held)/throughput*float64(time.Second)); took > want {
		t.Errorf("want everything delivered within %v, it took %v", want, took)
	}
	if rss > bound {
		t.Errorf("RSS %d MiB is beyond the bound of %d MiB", rss>>20, bound>>20)
	}
	if lost == 0 {
		t.Error("nothing was dropped: want more flows than the buffer holds")
	}
	if there+lost+kernel != b.sent*v5Flows {
		t.Errorf("sent %d, on the topic %d, dropped %d and by the kernel %d: %d are unaccounted for", b.sent*v5Flows, there, lost, kernel, b.sent*v5Flows-there-lost-kernel)
	}
}
