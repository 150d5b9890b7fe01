package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/templates"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// before is the last commit whose ingest identifies definitions only by a 64-bit hash.
const before = "b879fb6"

// honest is the layout of the exporter in this test, RFC 7011 elements.
var honest = decode.Template{ID: 300, Fields: []decode.Field{
	{ID: 8, Length: 4}, {ID: 12, Length: 4}, {ID: 7, Length: 2}, {ID: 11, Length: 2}, {ID: 4, Length: 1},
	{ID: 5, Length: 1}, {ID: 6, Length: 1}, {ID: 10, Length: 4}, {ID: 14, Length: 4}, {ID: 1, Length: 8}, {ID: 2, Length: 8},
}}

// forged has the same hash as honest; internal/templates/collision_test.go constructs it.
var forged = decode.Template{ID: 300, Fields: []decode.Field{
	{PEN: 2687886153, ID: 210, Length: 1}, {PEN: 676088003, ID: 210, Length: 1}, {PEN: 3836311007, ID: 210, Length: 1},
	{PEN: 137794897, ID: 37, Length: 32767}, {PEN: 2748067911, ID: 29279, Length: 15354}, {PEN: 3792956523, ID: 32289, Length: 9523},
	{PEN: 1710939723, ID: 17591, Length: 7703}, {PEN: 2197436769, ID: 19978, Length: 4}, {ID: 14, Length: 4}, {ID: 1, Length: 8}, {ID: 2, Length: 8},
}}

// Ingests of two versions share a templates topic. Each must decode with the other's template, and
// an upgrade followed by a rollback must lose none. A forged layout with the hash of the honest
// layout must disturb no replica of this version, running or started later, and must not mislead a
// replica of the earlier version that starts later.
func TestIngestsOfTwoVersionsShareTemplates(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: builds and starts processes")
	}
	if xxhash.Sum64(honest.AppendLayout(nil)) != xxhash.Sum64(forged.AppendLayout(nil)) {
		t.Fatal("the layouts' hashes differ: nothing is tested")
	}
	oldBin, newBin := buildIngests(t.Context(), t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	w := &versions{t: t, broker: b.Addr(), prefix: "up.", k: newKafka(t, b.Addr())}
	exporter, forger := newSender(t), newSender(t)

	old1, new1 := w.ingest(ctx, "old1", oldBin), w.ingest(ctx, "new1", newBin)
	exporter.send(t, old1, message(1, templateSet(&honest)))
	exporter.send(t, new1, message(1, dataSet(1001)))
	w.want(ctx, "new1 decodes by the template that old1 received", "new1", 1, 1001)
	exporter.send(t, new1, message(2, templateSet(&honest)))
	exporter.send(t, old1, message(2, dataSet(1002)))
	w.want(ctx, "old1 decodes by the template that new1 received", "old1", 2, 1002)

	forger.send(t, new1, message(2, templateSet(&forged)))
	kafkatest.Poll(ctx, t, "the forged layout is on the topic", func() bool { return w.onTopic(ctx, 2, &forged) })
	exporter.send(t, new1, message(2, dataSet(1003)))
	w.want(ctx, "new1 has a forged layout too", "new1", 2, 1003)
	new1.stop(t)
	new2 := w.ingest(ctx, "new2", newBin)
	exporter.send(t, new2, message(2, dataSet(1004)))
	w.want(ctx, "new2 has read both layouts", "new2", 2, 1004)

	new2.stop(t)
	old1.stop(t)
	if n := len(w.k.read(ctx, w.prefix+"flows")); n != 4 {
		t.Errorf("flows: want the 4 that were sent, got %d", n)
	}
	w.compact(ctx, "down.")
	old2 := w.ingest(ctx, "old2", oldBin)
	exporter.send(t, old2, message(1, dataSet(1005)))
	exporter.send(t, old2, message(2, dataSet(1006)))
	w.want(ctx, "back at the version before, which received the template", "old2", 1, 1005)
	w.want(ctx, "back at the version before, which did not", "old2", 2, 1006)
	exporter.send(t, old2, message(3, templateSet(&honest)))
	exporter.send(t, old2, message(3, dataSet(1007)))
	w.want(ctx, "a template while only the version before runs", "old2", 3, 1007)

	old2.stop(t)
	new3 := w.ingest(ctx, "new3", newBin)
	for domain := range uint32(3) {
		port := uint16(1008 + domain)
		exporter.send(t, new3, message(domain+1, dataSet(port)))
		w.want(ctx, "forth again", "new3", domain+1, port)
	}
	new3.stop(t)
	if n := len(w.k.read(ctx, w.prefix+"flows")); n != 6 {
		t.Errorf("flows since: want the 6 that were sent, got %d", n)
	}
}

// buildIngests builds ingest at the commit before and at the present tree.
func buildIngests(ctx context.Context, t *testing.T) (oldBin, newBin string) {
	t.Helper()
	dir := t.TempDir()
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	oldBin, newBin = filepath.Join(dir, "old"+suffix), filepath.Join(dir, "new"+suffix)
	run := func(in, name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = in
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
		return nil
	}
	if err := run("", "git", "cat-file", "-e", before+"^{commit}"); err != nil {
		t.Skipf("SKIPPED: commit %s is not in this clone, so the version before was NOT tested: git fetch --unshallow\n%v", before, err)
	}
	src, tar := filepath.Join(dir, "src"), filepath.Join(dir, "src.tar")
	if err := os.Mkdir(src, 0o750); err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{
		run(top, "git", "archive", "-o", tar, before, "go.mod", "go.sum", "cmd/ingest", "internal", "pkg"),
		run(src, "tar", "-xf", tar),
		run(src, "go", "build", "-buildvcs=false", "-o", oldBin, "./cmd/ingest"),
		run(top, "go", "build", "-o", newBin, "./cmd/ingest"),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	return oldBin, newBin
}

// versions holds replicas of ingest on one broker.
type versions struct {
	t      *testing.T
	broker string
	prefix string // of the topics
	k      *kafkaClient
}

// compact switches to topics of another prefix. Their templates topic holds the records of the
// present one after compaction: the last record of each key.
func (w *versions) compact(ctx context.Context, prefix string) {
	w.t.Helper()
	c := kafka.Config{Brokers: []string{w.broker}}
	last, at := map[string]kafka.Record{}, map[string]int64{}
	err := kafka.ReadWhole(ctx, c, w.prefix+"templates", func(r kafka.Record) {
		k := string(r.Key)
		last[k], at[k] = kafka.Record{Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value)}, r.Offset
	})
	if err != nil {
		w.t.Fatal(err)
	}
	keys := slices.SortedFunc(maps.Keys(last), func(a, b string) int { return cmp.Compare(at[a], at[b]) })
	var records []kafka.Record
	for _, k := range keys {
		records = append(records, last[k])
	}
	w.prefix = prefix
	if err := kafka.Ensure(ctx, c, topics(prefix), nil, kafka.Templates); err != nil {
		w.t.Fatal(err)
	}
	if err := kafka.Write(ctx, c, prefix+"templates", records); err != nil {
		w.t.Fatal(err)
	}
}

type replica struct {
	cmd *exec.Cmd
	out *locked.Buffer
	udp *net.UDPAddr
}

// ingest starts a replica and waits until it is ready.
func (w *versions) ingest(ctx context.Context, name, bin string) *replica {
	w.t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		w.t.Fatal(err)
	}
	at := udp.LocalAddr().(*net.UDPAddr)
	if err := udp.Close(); err != nil {
		w.t.Fatal(err)
	}
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		w.t.Fatal(err)
	}
	metrics := fmt.Sprintf("127.0.0.1:%d", ports[0])
	r := &replica{cmd: exec.CommandContext(ctx, bin), out: &locked.Buffer{}, udp: at}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	r.cmd.Env = append(os.Environ(), "KAFKA_BROKERS="+w.broker, "TOPIC_PREFIX="+w.prefix, fmt.Sprintf("TOPIC_PARTITIONS=%d", partitions),
		"REPLICA="+name, "LISTEN_UDP="+at.String(), "METRICS_LISTEN="+metrics, "DRAIN=0s",
		"PARK_FOR=1m") // data waits for a template on its way, not on the topic of undecoded sets
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		if w.t.Failed() {
			w.t.Logf("%s:\n%.4000s", name, r.out)
		}
	})
	kafkatest.Poll(ctx, w.t, name+" is ready", func() bool {
		resp, err := http.Get("http://" + metrics + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK && strings.Contains(r.out.String(), "msg=listening")
	})
	return r
}

func (r *replica) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatalf("ingest had ended: %v\n%s", err, r.out)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("ingest: %v\n%s", err, r.out)
	}
}

// want waits for the flow to a port and checks that the replica decoded it with the honest layout.
func (w *versions) want(ctx context.Context, what, replica string, domain uint32, port uint16) {
	w.t.Helper()
	kafkatest.Poll(ctx, w.t, what, func() bool {
		for _, r := range w.k.read(ctx, w.prefix+"flows") {
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				w.t.Fatal(err)
			}
			if m.GetObservationDomainId() != domain || m.GetDstPort() != uint32(port) {
				continue
			}
			src, _ := netip.AddrFromSlice(m.GetSrcAddr())
			if m.GetReplica() != replica || src.String() != "10.0.0.1" || m.GetBytes() != 1500 || m.GetPackets() != 3 {
				w.t.Fatalf("%s: want a flow of 1500 octets in 3 packets from 10.0.0.1 by %s, got %v", what, replica, &m)
			}
			return true
		}
		return false
	})
}

// onTopic reports whether a layout of the domain's template is on the topic.
func (w *versions) onTopic(ctx context.Context, domain uint32, l *decode.Template) bool {
	var all templates.Entries
	if err := kafka.ReadWhole(ctx, kafka.Config{Brokers: []string{w.broker}}, w.prefix+"templates", func(r kafka.Record) {
		if err := all.Take(r.Key, r.Value); err != nil {
			w.t.Error(err)
		}
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all.All() {
		if e.Template != nil && e.State.GetDomain() == domain && e.Template.SameLayout(l) {
			return true
		}
	}
	return false
}

// A sender sends from one source port.
type sender struct{ *net.UDPConn }

func newSender(t *testing.T) sender {
	t.Helper()
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return sender{l}
}

func (s sender) send(t *testing.T, to *replica, pkt []byte) {
	t.Helper()
	if _, err := s.WriteToUDP(pkt, to.udp); err != nil {
		t.Fatal(err)
	}
}

// message returns an IPFIX message with one set, RFC 7011 section 3.1.
func message(domain uint32, set []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 10)
	b = binary.BigEndian.AppendUint16(b, uint16(16+len(set)))
	b = binary.BigEndian.AppendUint32(b, uint32(time.Now().Unix()))
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, domain)
	return append(b, set...)
}

// templateSet returns a set with one template, RFC 7011 section 3.4.1.
func templateSet(l *decode.Template) []byte {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, l.ID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.Fields)))
	for _, f := range l.Fields {
		if f.PEN == 0 {
			b = binary.BigEndian.AppendUint16(b, f.ID)
			b = binary.BigEndian.AppendUint16(b, f.Length)
			continue
		}
		b = binary.BigEndian.AppendUint16(b, f.ID|0x8000)
		b = binary.BigEndian.AppendUint16(b, f.Length)
		b = binary.BigEndian.AppendUint32(b, f.PEN)
	}
	return setOf(2, b)
}

// dataSet returns a set with one record of the honest layout: 3 UDP packets from 10.0.0.1.
func dataSet(dstPort uint16) []byte {
	b := []byte{10, 0, 0, 1, 10, 0, 0, 2}
	b = binary.BigEndian.AppendUint16(b, 5353)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = append(b, 17, 0, 0)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 2)
	b = binary.BigEndian.AppendUint64(b, 1500)
	b = binary.BigEndian.AppendUint64(b, 3)
	return setOf(300, b)
}

func setOf(id uint16, content []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(content)))
	return append(b, content...)
}
