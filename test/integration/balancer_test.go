//go:build integration

package integration

import (
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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/templates"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
	"weir/pkg/flowpb"
)

// nginxModule is the path of nginx' stream module in Debian (libnginx-mod-stream).
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

const replicas = 3

// A farm is a number of ingest replicas behind nginx, which sends each datagram to the next
// replica, with a PROXY header.
type farm struct {
	w        *world
	prefix   string
	ip       string   // of all of it, and of the exporter
	ports    []string // addresses with ports: the replicas', then the balancer's
	in       [replicas]*process
	balancer *net.UDPConn // the exporter's socket to the balancer
	anyPort  bool         // there is more than one exporter port
	nginx    *exec.Cmd
}

func (w *world) farm(ctx context.Context, t *testing.T, prefix, ip string) *farm {
	t.Helper()
	f := &farm{w: w, prefix: prefix, ip: ip}
	for range replicas + 1 {
		f.ports = append(f.ports, freeUDP(t, ip))
	}
	for i := range replicas {
		f.start(ctx, t, i)
	}
	f.ready(ctx, t)
	f.startBalancer(ctx, t)
	f.exporter(t)
	return f
}

// startBalancer starts nginx, also after it was killed.
func (f *farm) startBalancer(ctx context.Context, t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	var servers strings.Builder
	for _, p := range f.ports[:replicas] {
		fmt.Fprintf(&servers, "server %s max_fails=0; ", p)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(`load_module %s;
daemon off; worker_processes 1; pid %s/pid; error_log stderr error;
events { worker_connections 4096; }
stream {
  upstream ingest { %s }
  server { listen %s udp rcvbuf=4m; proxy_pass ingest; proxy_protocol on; proxy_responses 0; proxy_timeout 1s; }
}
`, nginxModule, dir, &servers, f.ports[replicas])), 0o600); err != nil {
		t.Fatal(err)
	}
	out := &locked.Buffer{}
	f.nginx = exec.Command("nginx", "-p", dir, "-c", conf)
	f.nginx.Stdout, f.nginx.Stderr = out, out
	if err := f.nginx.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.stopBalancer()
		if t.Failed() {
			t.Logf("nginx:\n%.2000s", out)
		}
	})
	to, err := net.ResolveUDPAddr("udp", f.ports[replicas])
	if err != nil {
		t.Fatal(err)
	}
	kafkatest.Poll(ctx, t, "nginx listens", func() bool { // its port is taken
		l, err := net.ListenUDP("udp", to)
		if err == nil {
			_ = l.Close()
		}
		return err != nil
	})
}

// stopBalancer stops nginx and its worker, which holds the socket.
func (f *farm) stopBalancer() {
	if f.nginx.ProcessState == nil {
		_ = f.nginx.Process.Signal(os.Interrupt)
		_ = f.nginx.Wait()
	}
}

// exporter opens a new exporter socket, from which datagrams are sent from now on.
func (f *farm) exporter(t *testing.T) {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", f.ports[replicas])
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f.balancer = c
}

func freeUDP(t *testing.T, ip string) string {
	t.Helper()
	l, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.LocalAddr().String()
}

func (f *farm) start(ctx context.Context, t *testing.T, i int) {
	t.Helper()
	f.in[i] = f.w.start("ingest", "LISTEN_UDP="+f.ports[i], "TRUSTED_PROXIES=127.0.0.0/8,::1/128", "TOPIC_PREFIX="+f.prefix,
		fmt.Sprintf("REPLICA=r%d", i), "KAFKA_SESSION_TIMEOUT=3s")
	kafkatest.Poll(ctx, t, "ingest listens", func() bool { return strings.Contains(f.in[i].out.String(), "msg=listening") })
}

func (f *farm) ready(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, p := range f.in {
		kafkatest.Poll(ctx, t, "the replica is ready", func() bool { code, _ := p.ready(); return code == http.StatusOK })
	}
}

// written waits until a replica holds no flow in memory.
func (f *farm) written(ctx context.Context, t *testing.T, i int) {
	t.Helper()
	kafkatest.Poll(ctx, t, "all is acknowledged", func() bool {
		text, ok := f.in[i].shown()
		return ok && strings.Contains(text, "weir_ingest_buffered_flows 0\n") && strings.Contains(text, "weir_ingest_parked_sets 0\n")
	})
}

func (f *farm) send(t *testing.T, pkts ...[]byte) {
	t.Helper()
	pace := time.NewTicker(2 * time.Millisecond) // slow enough for the sockets' buffers
	defer pace.Stop()
	for _, p := range pkts {
		if _, err := f.balancer.Write(p); err != nil {
			t.Fatal(err)
		}
		<-pace.C
	}
}

func (f *farm) terminate(t *testing.T) {
	t.Helper()
	for _, p := range f.in {
		p.terminate(t)
	}
}

// split separates the messages of a capture into templates with options data and messages with flow
// records alone. first is a message with all templates, or nil if there are none.
func split(t *testing.T, messages [][]byte) (first []byte, data [][]byte) {
	t.Helper()
	var once, head []byte
	seen := map[string]bool{}
	optionsIDs := map[uint16]bool{}
	for _, m := range messages {
		header, templateSet, optionsSet := 20, uint16(0), uint16(1)
		switch binary.BigEndian.Uint16(m) {
		case 9:
		case 10:
			header, templateSet, optionsSet = 16, 2, 3
		default:
			data = append(data, m)
			continue
		}
		head = m[:header]
		rest := append([]byte(nil), head...)
		for b := m[header:]; len(b) >= 4; {
			id, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
			if n < 4 || n > len(b) {
				t.Fatalf("a set of %d octets in %d", n, len(b))
			}
			set := b[:n]
			b = b[n:]
			switch {
			case id == optionsSet:
				optionsIDs[binary.BigEndian.Uint16(set[4:])] = true
			case id == templateSet:
			case id >= 256 && !optionsIDs[id]:
				rest = append(rest, set...)
				continue
			}
			if !seen[string(set)] && (id < 256 || len(seen) < 8) {
				seen[string(set)] = true
				once = append(once, set...)
			}
		}
		if len(rest) > header {
			data = append(data, whole(rest))
		}
	}
	if once == nil {
		return nil, data
	}
	return whole(append(append([]byte(nil), head...), once...)), data
}

// whole sets the length field of a message, if its version has one, to the length of the message.
func whole(m []byte) []byte {
	if binary.BigEndian.Uint16(m) == 10 {
		binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	}
	return m
}

// identity returns the identity of a record: the datagram's hash and the record's offset in it.
func identity(m *flowpb.FlowMessage) string {
	return fmt.Sprintf("%016x %d", m.DatagramHash, m.RecordOffset)
}

// records returns the identities of the records that the decoder finds in each message.
func records(t *testing.T, first []byte, data [][]byte) (byMessage [][]string) {
	t.Helper()
	d := decode.Decoder{State: templates.New(templates.Options{})}
	meta := &decode.Meta{Exporter: netip.MustParseAddr("127.0.0.1"), Port: 1, Received: 1}
	var r decode.Result
	if first != nil {
		d.Read(first, meta, &r)
	}
	for _, m := range data {
		d.Read(m, meta, &r)
		var ids []string
		for _, f := range r.Messages {
			ids = append(ids, identity(f))
		}
		byMessage = append(byMessage, ids)
	}
	return byMessage
}

// number sets the sequence numbers of IPFIX messages as RFC 7011 section 3.1 defines them: the
// number of data records sent before. softflowd also counts the records of the message itself.
func number(t *testing.T, first []byte, data [][]byte) {
	t.Helper()
	sent := uint32(0)
	for i, ids := range records(t, first, data) {
		binary.BigEndian.PutUint32(data[i][8:], sent)
		sent += uint32(len(ids))
	}
}

// gaps returns the number of flows that are missing by the sequence numbers on the topic: between
// datagrams and within a datagram.
func gaps(flows []*flowpb.FlowMessage) (lost int) {
	there := map[uint32]int{}
	for _, m := range flows {
		there[m.SequenceNum]++
	}
	next := uint32(0)
	for _, at := range slices.Sorted(maps.Keys(there)) {
		lost += int(int32(at - next))
		next = at + uint32(there[at])
	}
	return lost
}

// arrived returns the identities of the flows that all reads.
func (f *farm) arrived(ctx context.Context, t *testing.T, want int) (got map[string]int) {
	t.Helper()
	return identities(f.all(ctx, t, want))
}

func identities(flows []*flowpb.FlowMessage) map[string]int {
	got := map[string]int{}
	for _, m := range flows {
		got[identity(m)]++
	}
	return got
}

// all reads the flows topic, read_committed, until it has want records and no more arrive for 3 s,
// or none arrive for 20 s.
func (f *farm) all(ctx context.Context, t *testing.T, want int) (flows []*flowpb.FlowMessage) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.w.c.Brokers()...), kgo.ConsumeTopics(f.prefix+"flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	different := map[string]bool{}
	for last := time.Now(); ; {
		try, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(try)
		cancel()
		fetches.EachRecord(func(r *kgo.Record) {
			last = time.Now()
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				t.Fatal(err)
			}
			if a, _ := netip.AddrFromSlice(m.SamplerAddress); a != netip.MustParseAddr(f.ip) || !f.anyPort && int(m.ExporterPort) != f.balancer.LocalAddr().(*net.UDPAddr).Port {
				t.Fatalf("exporter %v:%d: want the exporter of the PROXY header", a, m.ExporterPort)
			}
			flows = append(flows, &m)
			different[identity(&m)] = true
		})
		if quiet := time.Since(last); quiet > 20*time.Second || len(different) >= want && quiet > 3*time.Second || ctx.Err() != nil {
			return flows
		}
	}
}

// exactlyOnce checks that each record was read exactly once. may reports whether a message may be
// missing. It returns the number of flows missing with such messages.
func exactlyOnce(t *testing.T, want [][]string, got map[string]int, may func(message int) bool) (lost int) {
	t.Helper()
	n, missing, twice := 0, 0, 0
	times := map[string]int{} // a datagram may be in two captures
	for _, ids := range want {
		for _, id := range ids {
			times[id]++
		}
	}
	for i, ids := range want {
		for _, id := range ids {
			if times[id] == 0 {
				continue // checked already
			}
			n += times[id]
			switch k := got[id]; {
			case k == times[id]:
			case k > times[id]:
				twice++
			case may != nil && may(i):
				lost++
			default:
				missing++
			}
			delete(got, id)
			times[id] = 0
		}
	}
	if missing > 0 || twice > 0 || len(got) > 0 {
		t.Errorf("of %d flows: %d are missing, %d were read more than once, and %d unknown flows were read", n, missing, twice, len(got))
	}
	t.Logf("%d flows, each once; %d were lost with a killed process", n-missing-lost, lost)
	return lost
}

func distinct(want [][]string) int {
	all := map[string]bool{}
	for _, ids := range want {
		for _, id := range ids {
			all[id] = true
		}
	}
	return len(all)
}

func count(want [][]string) (n int) {
	for _, ids := range want {
		n += len(ids)
	}
	return n
}

// TestReplicasBehindAUDPBalancer runs three replicas behind nginx, on three Kafka nodes. The
// distribution of datagrams to the replicas, and the times at which replicas run, must not matter.
func TestReplicasBehindAUDPBalancer(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skipf("SKIPPED: no balancer: %v (Debian: nginx-light libnginx-mod-stream)", err)
	}
	if _, err := os.Stat(nginxModule); err != nil {
		t.Skipf("SKIPPED: no balancer for UDP: %v (Debian: libnginx-mod-stream)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	w := &world{t: t, bin: build(ctx, t, t.TempDir()), c: kafkatest.Start(ctx, t)}
	first, data := split(t, capturedMessages(t))
	number(t, first, data)
	want := records(t, first, data)
	if n := count(want); n < 10_000 {
		t.Fatalf("the capture holds %d flows: too few for the test", n)
	}

	t.Run("templates once, before the data", func(t *testing.T) {
		f := w.farm(ctx, t, "early.", "127.0.0.1")
		f.send(t, first)
		f.send(t, data...)
		exactlyOnce(t, want, f.arrived(ctx, t, count(want)), nil)
		for i, p := range f.in {
			if n := strings.Count(p.out.String(), "first datagram of an exporter"); n != 1 {
				t.Errorf("replica %d saw %d exporters: want one, and a part of its datagrams", i, n)
			}
		}
		f.terminate(t)
	})
	t.Run("captures of many exporters, their templates once", func(t *testing.T) {
		files, _ := filepath.Glob("../../../shared/captures/*.pcap")
		if len(files) == 0 {
			t.Skip("SKIPPED: no captures in ../shared")
		}
		f := w.farm(ctx, t, "many.", "127.0.0.1")
		f.anyPort = true
		var all [][]string
		var later []func()
		for _, path := range files {
			first, data := split(t, payloads.Of(t, path))
			all = append(all, records(t, first, data)...)
			f.exporter(t) // each capture has its own port; all have the same address
			if first != nil {
				f.send(t, first)
			}
			from := f.balancer
			later = append(later, func() { f.balancer = from; f.send(t, data...) })
		}
		time.Sleep(time.Second) // ports that the replicas do not know yet count as another exporter
		for _, send := range later {
			send()
		}
		exactlyOnce(t, all, f.arrived(ctx, t, distinct(all)), nil)
		t.Logf("%d captures", len(files))
		f.terminate(t)
	})
	t.Run("the same with IPv6 only", func(t *testing.T) {
		if l, err := net.ListenPacket("udp", "[::1]:0"); err != nil {
			t.Skipf("SKIPPED: no IPv6 here: %v", err)
		} else {
			_ = l.Close()
		}
		f := w.farm(ctx, t, "six.", "::1")
		f.send(t, first)
		f.send(t, data...)
		exactlyOnce(t, want, f.arrived(ctx, t, count(want)), nil)
		f.terminate(t)
	})
	t.Run("each replica killed and started again meanwhile", func(t *testing.T) {
		f := w.farm(ctx, t, "killed.", "127.0.0.1")
		f.send(t, first)
		for i, m := range data {
			if n := len(data) / (replicas + 1); i > 0 && i%n == 0 && i/n <= replicas {
				f.written(ctx, t, i/n-1)
				f.in[i/n-1].kill()
				f.start(ctx, t, i/n-1)
			}
			f.send(t, m)
		}
		exactlyOnce(t, want, f.arrived(ctx, t, count(want)), nil)
		f.terminate(t)
	})
	t.Run("each replica killed in the middle of its work", func(t *testing.T) {
		f := w.farm(ctx, t, "middle.", "127.0.0.1")
		f.send(t, first)
		// A datagram that a replica had received before it was killed may have been in its memory.
		// nginx sends to the replicas in turn; the templates came first.
		killed := map[int]int{} // replica → the next message
		for i, m := range data {
			if n := len(data) / (replicas + 1); i > 0 && i%n == 0 && i/n <= replicas {
				killed[i/n-1] = i
				f.in[i/n-1].kill()
				f.start(ctx, t, i/n-1)
			}
			f.send(t, m)
		}
		flows := f.all(ctx, t, count(want))
		lost := exactlyOnce(t, want, identities(flows), func(i int) bool { return i < killed[(i+1)%replicas] })
		if n := gaps(flows); n != lost {
			t.Errorf("%d flows were lost with a killed process: the sequence numbers on the topic say %d", lost, n)
		}
		f.terminate(t)
	})
	t.Run("templates after the data, and all replicas restarted in between", func(t *testing.T) {
		f := w.farm(ctx, t, "late.", "127.0.0.1")
		f.send(t, data...)
		time.Sleep(2 * time.Second) // some sets have moved to the topic, others are in memory
		f.terminate(t)
		for i := range replicas {
			f.start(ctx, t, i)
		}
		f.ready(ctx, t)
		if n := len(f.arrived(ctx, t, 0)); n != 0 {
			t.Errorf("%d flows before their templates", n)
		}
		f.send(t, first)
		exactlyOnce(t, want, f.arrived(ctx, t, count(want)), nil)
		f.terminate(t)
	})
	t.Run("a replica killed in the middle of a pass", func(t *testing.T) {
		f := w.farm(ctx, t, "pass.", "127.0.0.1")
		f.send(t, data...)
		time.Sleep(2500 * time.Millisecond) // all sets are on the topic
		f.send(t, first)
		for i := range replicas - 1 {
			time.Sleep(40 * time.Millisecond)
			f.in[i].kill()
		}
		for i := range replicas - 1 {
			f.start(ctx, t, i)
		}
		exactlyOnce(t, want, f.arrived(ctx, t, count(want)), nil)
		f.terminate(t)
	})
}
