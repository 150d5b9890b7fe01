//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/cli/retime"
	"weir/internal/decode"
	"weir/internal/templates"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/payloads"
	"weir/pkg/flowpb"
	"weir/test/pairs"
)

var (
	soakFor = flag.Duration("soak", 0, "how long TestSoak goes on, whole minutes; 0: not at all")
	soakAt  = flag.Int("soakat", 0, "number of the first minute's fault, from 0 to 5")
	soakDoc = flag.String("soakdoc", "", "document whose soak table is written")
)

// soakPace is the interval at which the soak sends two datagrams: one of numbered conversations and
// one of a capture.
const soakPace = 8 * time.Millisecond

// TestSoak runs everything for a long time: three replicas behind nginx, two enrichs, three Kafka
// nodes, numbered conversations and captures in a loop. It causes a fault every minute. After each,
// no flow or connection may be missing or duplicated, and no process may grow.
func TestSoak(t *testing.T) {
	minutes := int(*soakFor / time.Minute)
	if minutes == 0 {
		t.Skip("SKIPPED: run by make soak")
	}
	if _, err := os.Stat(nginxModule); err != nil {
		t.Skipf("SKIPPED: no balancer for UDP: %v (Debian: nginx-light libnginx-mod-stream)", err)
	}
	if deadline, ok := t.Deadline(); ok && time.Until(deadline) < *soakFor+4*time.Minute {
		t.Fatalf("-soak %v: want a -timeout that is longer", *soakFor)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *soakFor+6*time.Minute)
	defer cancel()
	w := &world{t: t, bin: build(ctx, t, t.TempDir()), c: kafkatest.Start(ctx, t)}
	if !w.c.Own() {
		t.Skip("SKIPPED: the test must not kill the nodes of KAFKA_BROKERS")
	}
	s := &soak{w: w, farm: w.farm(ctx, t, "soak.", "127.0.0.1"), loops: loops(t), datagrams: map[uint64]*datagram{}, dropped: map[string]int{}, began: time.Now()}
	for i := range s.enrich {
		s.startEnrich(i)
	}
	for i := range s.enrich {
		kafkatest.Poll(ctx, t, "enrich is ready", func() bool { code, _ := s.enrich[i].ready(); return code == http.StatusOK })
	}
	reading, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	s.read(reading, t, &ended)
	sending := make(chan struct{})
	s.failed = make(chan error, 1)
	go func() {
		defer close(s.failed)
		if err := s.send(t, sending); err != nil {
			s.failed <- err
		}
	}()

	for m := range minutes {
		s.minute(ctx, t, m)
		if t.Failed() {
			break
		}
	}
	close(sending)
	if err := <-s.failed; err != nil {
		t.Error(err)
	}
	s.settled(ctx, t, time.Now(), time.Now(), "at the end")
	stop()
	ended.Wait()
	for _, p := range append(s.farm.in[:], s.enrich[:]...) {
		p.terminate(t)
	}
	s.grown(t)
	s.table(t)
}

// A datagram records the time at which a datagram of a capture was sent, and its flows that were
// read.
type datagram struct {
	of    string
	at    time.Time
	flows int
	seen  []uint32 // record offsets
}

// soak holds the processes, the ledger of datagrams sent, and the messages read.
type soak struct {
	w       *world
	farm    *farm
	enrich  [2]*process
	loops   []*loop
	ledger  pairs.Ledger
	began   time.Time
	rows    []soakRow
	failed  chan error     // of the sender; closed when it has ended
	dropped map[string]int // datagrams, by socket

	mu        sync.Mutex // guards the fields below
	datagrams map[uint64]*datagram
	problems  []string
	lossy     [][2]time.Time // when datagrams may have been lost
}

// soakRow holds the measurements of a minute.
type soakRow struct {
	fault                         string
	from                          time.Time
	sent, connections             int
	settled                       time.Duration // after the fault's end
	ingestRSS, enrichRSS          float64       // MiB, of the processes that are never killed
	ingestRoutines, enrichRoutine float64
}

// A loop sends a capture repeatedly, from an exporter with its own address.
type loop struct {
	ip    net.IP
	name  string
	first []byte
	data  [][]byte
	at    int
	round int64
	sent  uint32 // records, for IPFIX' sequence numbers; else datagrams
	conn  *net.UDPConn
	dec   decode.Decoder // counts the flows of its datagrams
}

// loops returns the captures of testdata, and those of ../shared if it exists.
func loops(t *testing.T) (all []*loop) {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../../testdata/captures/*.pcap", "../../../shared/captures/*.pcap"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	names := map[string]bool{}
	for _, f := range files {
		if names[filepath.Base(f)] {
			continue
		}
		names[filepath.Base(f)] = true
		first, data := split(t, payloads.Of(t, f))
		if len(data) == 0 || !slices.Contains([]uint16{1, 5, 7, 9, 10}, binary.BigEndian.Uint16(data[0])) {
			continue
		}
		all = append(all, &loop{ip: net.IPv4(127, 0, 1, byte(len(all))), name: filepath.Base(f), sent: uint32(len(all)) << 20, first: first, data: data, dec: decode.Decoder{State: templates.New(templates.Options{})}})
	}
	if len(all) < 3 {
		t.Fatalf("want more than %d captures", len(all))
	}
	return all
}

// next returns the loop's next datagram, different from all before: its times are moved to now and
// its sequence number continues. It also decodes the datagram's flows.
func (l *loop) next(now time.Time) (pkt []byte, hash uint64, flows int) {
	from := netip.MustParseAddrPort("127.0.0.1:1")
	if l.at == len(l.data) {
		l.at = 0
		l.round++
	}
	pkt = slices.Clone(l.data[l.at])
	l.at++
	offset, when := 8, 4
	switch binary.BigEndian.Uint16(pkt) {
	case 1, 5, 7:
		offset, when = 16, 8
	case 9:
		offset, when = 12, 8
	}
	m := retime.New(l.dec.State)
	m.Move(pkt, from, now.UnixNano(), now.Unix()-int64(binary.BigEndian.Uint32(pkt[when:])))
	if v := binary.BigEndian.Uint16(pkt); v == 1 { // it has no sequence number: nanoseconds are free
		binary.BigEndian.PutUint32(pkt[12:], l.sent%1e9)
	} else {
		binary.BigEndian.PutUint32(pkt[offset:], l.sent)
	}
	var r decode.Result
	l.dec.Read(pkt, &decode.Meta{Exporter: from.Addr(), Port: 1, Received: now.UnixNano()}, &r)
	flows = len(r.Messages)
	if flows > 0 {
		hash = r.Messages[0].DatagramHash
	}
	if v := binary.BigEndian.Uint16(pkt); v == 9 {
		l.sent++
	} else {
		l.sent += uint32(flows)
	}
	if binary.BigEndian.Uint16(pkt) == 1 {
		l.sent++
	}
	return pkt, hash, flows
}

func (s *soak) startEnrich(i int) {
	s.enrich[i] = s.w.start("enrich", "TOPIC_PREFIX=soak.", fmt.Sprintf("INSTANCE=soak-%d", i), "KAFKA_SESSION_TIMEOUT=6s", "DNS_ENABLED=false",
		"PAIR_IDLE=20s", "PAIR_ACTIVE_TIMEOUT=15s", "PAIR_LATE_GRACE=60s")
}

// read reads both topics until ctx ends.
func (s *soak) read(ctx context.Context, t *testing.T, ended *sync.WaitGroup) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.w.c.Brokers()...), kgo.ConsumeTopics("soak.flows", "soak.connections"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(250*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	ended.Go(func() {
		defer cl.Close()
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				if err := s.ledger.Take(r.Topic, r.Value, func(m *flowpb.FlowMessage) bool { return !s.ofCapture(m) }); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// ofCapture records a flow of a capture.
func (s *soak) ofCapture(m *flowpb.FlowMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.datagrams[m.DatagramHash]
	if d == nil {
		return false
	}
	if slices.Contains(d.seen, m.RecordOffset) && len(s.problems) < 20 {
		s.problems = append(s.problems, "a flow of a capture is on the topic twice: "+identity(m))
	}
	d.seen = append(d.seen, m.RecordOffset)
	return true
}

func (s *soak) send(t *testing.T, stop chan struct{}) error {
	source := pairs.NewSource(s.farm.balancer, 41, &s.ledger)
	for _, l := range s.loops {
		var err error
		if l.conn, err = net.DialUDP("udp", &net.UDPAddr{IP: l.ip}, s.farm.balancer.RemoteAddr().(*net.UDPAddr)); err != nil {
			return err
		}
		defer func() { _ = l.conn.Close() }() // datagrams are not flushed
		if l.first != nil {
			var r decode.Result
			l.dec.Read(l.first, &decode.Meta{Exporter: netip.MustParseAddr("127.0.0.1"), Port: 1, Received: time.Now().UnixNano()}, &r)
			_, _ = l.conn.Write(l.first) // sent again below
		}
	}
	tick := time.NewTicker(soakPace)
	defer tick.Stop()
	templates := time.NewTicker(20 * time.Second)
	defer templates.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-stop:
			return source.Finish(time.Now())
		case <-templates.C:
			for _, l := range s.loops {
				if l.first != nil {
					_, _ = l.conn.Write(l.first) // the balancer may be away
				}
			}
		case <-tick.C:
			now := time.Now()
			_ = source.Send(now) // as above
			l := s.loops[turn%len(s.loops)]
			pkt, hash, flows := l.next(now)
			if flows > 0 {
				s.mu.Lock()
				if s.datagrams[hash] != nil {
					s.mu.Unlock()
					return fmt.Errorf("a datagram was made twice, %x", pkt)
				}
				s.datagrams[hash] = &datagram{of: l.name, at: now, flows: flows}
				s.mu.Unlock()
			}
			_, _ = l.conn.Write(pkt)
		}
	}
}

// memory is the time before its end during which a killed process may have held received data in
// memory, with Kafka on the same two cores.
const memory = 5 * time.Second

// lose records that datagrams may have been lost since from.
func (s *soak) lose(from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lossy = append(s.lossy, [2]time.Time{from.Add(-memory), time.Now().Add(time.Second)})
}

func (s *soak) explained(at time.Time) bool {
	return slices.ContainsFunc(s.lossy, func(w [2]time.Time) bool { return at.After(w[0]) && at.Before(w[1]) })
}

// fault causes the fault of a minute and returns its description. The third replica and the second
// enrich are never killed: they show whether a process grows.
func (s *soak) fault(ctx context.Context, t *testing.T, minute int) string {
	began := time.Now()
	switch minute % 6 {
	case 0:
		i := minute / 6 % 2
		s.farm.in[i].kill()
		s.pause(ctx, t, 2*time.Second)
		s.farm.start(ctx, t, i)
		s.lose(began)
		kafkatest.Poll(ctx, t, "ingest is ready again", func() bool { code, _ := s.farm.in[i].ready(); return code == http.StatusOK })
		return "ingest killed"
	case 1:
		s.enrich[0].kill()
		s.pause(ctx, t, 5*time.Second)
		s.startEnrich(0)
		kafkatest.Poll(ctx, t, "enrich is ready again", func() bool { code, _ := s.enrich[0].ready(); return code == http.StatusOK })
		return "enrich killed"
	case 2:
		i := minute / 6 % kafkatest.Nodes
		s.w.c.Kill(i)
		s.pause(ctx, t, 10*time.Second)
		if err := s.w.c.StartNode(i); err != nil {
			t.Fatal(err)
		}
		s.w.c.WaitUp(ctx, t, kafkatest.Nodes)
		return "a broker killed, 10 s"
	case 3:
		s.farm.stopBalancer()
		s.pause(ctx, t, time.Second)
		s.farm.startBalancer(ctx, t)
		s.lose(began)
		return "balancer restarted"
	case 4:
		for i := range kafkatest.Nodes {
			s.w.c.Kill(i)
		}
		s.pause(ctx, t, 5*time.Second)
		for i := range kafkatest.Nodes {
			if err := s.w.c.StartNode(i); err != nil {
				t.Fatal(err)
			}
		}
		s.w.c.WaitUp(ctx, t, kafkatest.Nodes)
		return "all brokers killed, 5 s"
	default:
		s.w.c.Pause()
		s.pause(ctx, t, 20*time.Second)
		s.w.c.Resume()
		s.w.c.WaitUp(ctx, t, kafkatest.Nodes)
		return "Kafka away, 20 s"
	}
}

func (s *soak) pause(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		t.Fatal("the condition did not hold in time")
	}
}

// minute causes a fault in the first half of a minute and waits for its end.
func (s *soak) minute(ctx context.Context, t *testing.T, m int) {
	t.Helper()
	from, end := time.Now(), s.began.Add(time.Duration(m+1)*time.Minute)
	s.pause(ctx, t, 10*time.Second)
	fault := s.fault(ctx, t, m+*soakAt)
	over := time.Now()
	s.settled(ctx, t, over, over.Add(-30*time.Second), fault)
	row := &s.rows[len(s.rows)-1]
	row.from, row.settled = from, time.Since(over)
	row.ingestRSS, row.ingestRoutines = s.farm.in[2].sum("process_resident_memory_bytes", "")/(1<<20), s.farm.in[2].sum("go_goroutines", "")
	row.enrichRSS, row.enrichRoutine = s.enrich[1].sum("process_resident_memory_bytes", "")/(1<<20), s.enrich[1].sum("go_goroutines", "")
	t.Logf("minute %d: %s; %d flows sent, %d connections; all there after %v; RSS %.0f and %.0f MiB, goroutines %.0f and %.0f",
		m+1, fault, row.sent, row.connections, row.settled.Round(100*time.Millisecond), row.ingestRSS, row.enrichRSS, row.ingestRoutines, row.enrichRoutine)
	s.pause(ctx, t, max(0, time.Until(end)))
}

// settleWithin bounds the time until all sent data has been reported, including one-sided
// conversations, which wait for PAIR_IDLE.
const settleWithin = 90 * time.Second

// settled waits until all flows sent before a time are on the topic, and all conversations sent
// before another time are reported.
func (s *soak) settled(ctx context.Context, t *testing.T, flows, talks time.Time, after string) {
	t.Helper()
	for deadline := time.Now().Add(settleWithin); ; s.pause(ctx, t, 200*time.Millisecond) {
		v, r := s.ledger.Judge(flows), s.ledger.Judge(talks)
		select {
		case err := <-s.failed:
			if err != nil {
				t.Fatal(err)
			}
		default:
		}
		s.mu.Lock()
		sent, unexplained, of := v.Sent, 0, map[string]int{}
		lost := map[time.Time]bool{} // datagrams missing without a fault
		for _, at := range v.Missing {
			if !s.explained(at) {
				unexplained++
				lost[at] = true
			}
		}
		for _, d := range s.datagrams {
			if !d.at.Before(flows) {
				continue
			}
			sent += d.flows
			if n := d.flows - len(d.seen); n != 0 && !s.explained(d.at) {
				unexplained += n
				of[d.of] += n
				lost[d.at] = true
			}
		}
		problems := append(slices.Clone(v.Problems), s.problems...)
		s.mu.Unlock()
		if len(problems) > 0 {
			t.Fatalf("%s, problems:\n%s", after, strings.Join(problems, "\n"))
		}
		// The kernel may drop datagrams while a fault keeps the machine busy; its drops are
		// counted.
		drops := s.drops(t)
		if len(lost) <= drops && r.Unreported == 0 {
			if v.Apart > 0 {
				t.Logf("%s: %d conversations are not checked: this test was delayed between their directions", after, v.Apart)
			}
			if unexplained > 0 {
				t.Logf("%s: %d flows of %d datagrams are missing; the kernel dropped %d", after, unexplained, len(lost), drops)
			}
			s.rows = append(s.rows, soakRow{fault: after, sent: sent, connections: v.Connections})
			return
		}
		if time.Now().After(deadline) {
			for _, p := range s.enrich {
				t.Logf("enrich: %.0f flows consumed, %.0f behind, %.0f open, %.0f transactions committed, %.0f aborted; its last words:\n%s", p.sum("weir_enrich_flows_total", ""), p.sum("weir_enrich_lag", ""),
					p.sum("weir_enrich_connections_open", ""), p.sum("weir_enrich_commits_total", ""), p.sum("weir_enrich_aborts_total", ""), last(p.out.String(), 2000))
			}
			for at := range lost {
				t.Logf("a datagram of %v before the end of the fault is missing", flows.Sub(at).Round(time.Millisecond))
			}
			t.Fatalf("%s: of %d flows %d in %d datagrams are missing that no fault explains (of captures: %v), the kernel dropped %d; of the conversations %d lack the connection they should have", after, sent, unexplained, len(lost), of, drops, r.Unreported)
		}
	}
}

// drops returns the number of datagrams that the kernel has dropped at the sockets of the balancer
// and the replicas, closed sockets included.
func (s *soak) drops(t *testing.T) (all int) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // sl local remote st queues timer retransmits uid timeout inode ref pointer drops
		if len(f) != 13 {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if err != nil {
			continue
		}
		for _, p := range s.farm.ports {
			if strings.HasSuffix(p, fmt.Sprintf(":%d", port)) {
				n, _ := strconv.Atoi(f[12])
				s.dropped[f[9]] = n
			}
		}
	}
	for _, n := range s.dropped {
		all += n
	}
	return all
}

// grown compares the first third of the minutes with the last third, for the processes that were
// never killed.
func (s *soak) grown(t *testing.T) {
	rows := s.rows[:len(s.rows)-1] // the last row is that of the end
	n := len(rows) / 3
	if n < 3 {
		t.Logf("%d minutes are too few to detect growth", len(rows))
		return
	}
	// The first minutes are left out: they fill the connections held for LATE_GRACE, and batches.
	early, late := rows[n/2:n/2+n], rows[len(rows)-n:]
	for what, of := range map[string]func(soakRow) float64{
		"ingest's memory": func(r soakRow) float64 { return r.ingestRSS }, "enrich's memory": func(r soakRow) float64 { return r.enrichRSS },
		"ingest's goroutines": func(r soakRow) float64 { return r.ingestRoutines }, "enrich's goroutines": func(r soakRow) float64 { return r.enrichRoutine },
	} {
		a, b := median(early, of), median(late, of)
		t.Logf("%s: %.0f early, %.0f late", what, a, b)
		if b > 1.25*a+10 {
			t.Errorf("%s grew from %.0f to %.0f", what, a, b)
		}
	}
}

func median(rows []soakRow, of func(soakRow) float64) float64 {
	var v []float64
	for _, r := range rows {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// lost returns the number of missing flows sent between two times.
func (s *soak) lost(from, to time.Time) (n int) {
	in := func(at time.Time) bool { return !at.Before(from) && at.Before(to) }
	for _, at := range s.ledger.Judge(time.Now()).Missing {
		if in(at) {
			n++
		}
	}
	for _, d := range s.datagrams {
		if in(d.at) {
			n += d.flows - len(d.seen)
		}
	}
	return n
}

// table writes the section of the soak in the document.
func (s *soak) table(t *testing.T) {
	if *soakDoc == "" || t.Failed() {
		return
	}
	end := s.rows[len(s.rows)-1]
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs; %d minutes, %d captures; %d flows sent, %d lost with killed replicas and balancers, the rest on the topic once; %d connections, each once.\n\n",
		runtime.Version(), runtime.NumCPU(), len(s.rows)-1, len(s.loops), end.sent, s.lost(s.began, time.Now()), end.connections)
	b.WriteString("| minute | fault | flows sent | lost with it | all there, after its end | RSS, ingest / enrich, MiB | goroutines |\n|---|---|---|---|---|---|---|\n")
	for i, r := range s.rows[:len(s.rows)-1] {
		to := time.Now()
		if i+2 < len(s.rows) {
			to = s.rows[i+1].from
		}
		fmt.Fprintf(&b, "| %d | %s | %d | %d | %.1f s | %.0f / %.0f | %.0f / %.0f |\n", i+1, r.fault, r.sent, s.lost(r.from, to), r.settled.Seconds(), r.ingestRSS, r.enrichRSS, r.ingestRoutines, r.enrichRoutine)
	}
	text, err := os.ReadFile(*soakDoc)
	if err != nil {
		t.Fatal(err)
	}
	const from, until = "<!-- soak: written by make soak -->\n", "<!-- soak: end -->"
	before, rest, ok := strings.Cut(string(text), from)
	_, after, ended := strings.Cut(rest, until)
	if !ok || !ended {
		t.Fatalf("%s has no soak section", *soakDoc)
	}
	if err := os.WriteFile(*soakDoc, []byte(before+from+b.String()+until+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// last returns the last n octets of a text.
func last(s string, n int) string { return s[max(0, len(s)-n):] }
