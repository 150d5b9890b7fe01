//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka/broker"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/pkg/flowpb"
)

const (
	hostileMemory = 400_000_000 // MEMORY_MAX, octets
	hostileFor    = 60 * time.Second
)

// honestFrom is the source of the honest exporter. No hostile sender uses it.
var honestFrom = netip.MustParseAddr("127.200.0.1")

// TestMemoryMaxHoldsUnderAttack runs ingest with a small MEMORY_MAX while senders try to fill
// everything that ingest stores. Its RSS must stay below MEMORY_MAX, and every flow of an honest
// exporter must be on the topic or in a counter. The broker runs in the test's own process, so that
// its memory does not count as ingest's.
func TestMemoryMaxHoldsUnderAttack(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The broker must not compact during the test: the compaction of a topic full of forged
	// templates would keep it busy for seconds.
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	broker.Mend(b)
	brokers := b.ListenAddrs()[0]
	ports, err := kafkatest.FreePorts(4)
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	w := &world{t: t, bin: build(ctx, t, t.TempDir())}
	p := w.start("ingest", "KAFKA_BROKERS="+brokers, fmt.Sprintf("MEMORY_MAX=%d", hostileMemory), "REPLICA=attacked", "LOG_LEVEL=error",
		"LISTEN_UDP="+at(0)+","+at(1), "LISTEN_TCP="+at(2), "TRUSTED_PROXIES=127.255.0.0/16", "RECEIVERS=2",
		"DRAIN=2s", "FLUSH=5s") // and 1 s: 4 s less than terminate allows, for a process that the attack leaves with a full memory
	kafkatest.Poll(ctx, t, "ingest is ready", func() bool { code, _ := p.ready(); return code == http.StatusOK })

	attack, stop := context.WithTimeout(ctx, hostileFor)
	defer stop()
	honest := &numbered{to: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at(1)))}
	var all sync.WaitGroup
	all.Go(func() { honest.send(attack, t) })
	udp := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at(0)))
	for i, make := range hostileDatagrams {
		all.Go(func() { forge(attack, t, udp, rand.New(rand.NewPCG(1, uint64(i))), make) })
	}
	all.Go(func() { connect(attack, at(2)) })
	most, samples := 0, 0
	all.Go(func() {
		for attack.Err() == nil {
			if n := p.resident(); n > 0 {
				most, samples = max(most, n), samples+1
			}
			select {
			case <-attack.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	seen := &numbers{}
	all.Go(func() { seen.read(ctx, t, brokers, honest) })
	<-attack.Done()
	text, _ := p.shown()
	// A data set waits in memory for at most a second; then it is on the undecoded topic.
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && seen.count()+honest.lost(p, at(1)) < honest.sent(); {
		wait(ctx, 200*time.Millisecond)
	}
	honest.done.Store(true)
	all.Wait()
	peak := p.rss(t)
	var parts []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "weir_ingest_memory_octets") {
			parts = append(parts, strings.TrimPrefix(strings.TrimSpace(line), "weir_ingest_memory_octets"))
		}
	}
	t.Logf("MEMORY_MAX %d MB; RSS at most %d MB in %d samples, VmHWM %d MB; honest: sent %d flows, on the topic %d, counted as lost %d; parts: %s",
		hostileMemory/1_000_000, most/1_000_000, samples, peak/1_000_000, honest.sent(), seen.count(), honest.lost(p, at(1)), strings.Join(parts, " "))
	if max(peak, most) >= hostileMemory {
		t.Errorf("RSS reached %d MB: want less than MEMORY_MAX, %d MB", max(peak, most)/1_000_000, hostileMemory/1_000_000)
	}
	for part, used := range samplesOf(text, "weir_ingest_memory_octets") {
		if most := samplesOf(text, "weir_ingest_memory_max_octets")[part]; used > most*1.01 {
			t.Errorf("%s: %.0f octets are accounted, its bound is %.0f", part, used, most)
		}
	}
	if n := seen.count() + honest.lost(p, at(1)); n != honest.sent() {
		t.Errorf("of %d flows of the honest exporter %d are on the topic or counted", honest.sent(), n)
	}
	if n := seen.count(); n < honest.sent()/2 {
		t.Errorf("of %d flows of the honest exporter only %d are on the topic", honest.sent(), n)
	}
	p.terminate(t)
}

// samplesOf returns the samples of a metric by their labels.
func samplesOf(text, metric string) map[string]float64 {
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		labels, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if labels, ok := strings.CutPrefix(labels, metric+"{"); ok {
			all[labels], _ = strconv.ParseFloat(value, 64)
		}
	}
	return all
}

// resident returns VmRSS, octets; 0 if the process has ended.
func (p *process) resident() int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n << 10
}

// be returns octets in network order: uint8, uint16, uint32 and octets.
func be(parts ...any) []byte { return appendBE(nil, parts...) }

// appendBE appends the octets of be to b.
func appendBE(b []byte, parts ...any) []byte {
	for _, v := range parts {
		switch v := v.(type) {
		case uint8:
			b = append(b, v)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

// flowSet returns a set of v9 or IPFIX.
func flowSet(id uint16, content ...[]byte) []byte {
	c := bytes.Join(content, nil)
	return be(id, uint16(4+len(c)), c)
}

func ipfix(domain uint32, sets ...[]byte) []byte {
	c := bytes.Join(sets, nil)
	return be(uint16(10), uint16(16+len(c)), uint32(time.Now().Unix()), uint32(0), domain, c)
}

// template returns a template record whose fields are one octet long and have consecutive element
// numbers from first on.
func template(id, fields, first uint16) []byte {
	b := be(id, fields)
	for i := range fields {
		b = appendBE(b, 1+(first+i)%32_000, uint16(1))
	}
	return b
}

// names returns options records of interfaces with long names, and of samplers.
func names(r *rand.Rand) []byte {
	options := flowSet(3, be(uint16(300), uint16(3), uint16(1), uint16(10), uint16(4), uint16(34), uint16(4), uint16(82), uint16(65535)))
	var records []byte
	for range 200 {
		text := bytes.Repeat([]byte{'a' + byte(r.IntN(26))}, 250)
		records = appendBE(records, r.Uint32(), r.Uint32N(1<<20)+1, uint8(250), text)
	}
	return ipfix(r.Uint32N(4), options, flowSet(300, records))
}

// samplers returns options records with an ID and a rate.
func samplers(r *rand.Rand) []byte {
	options := flowSet(3, be(uint16(301), uint16(2), uint16(1), uint16(302), uint16(4), uint16(305), uint16(2)), be(uint16(302), uint16(2), uint16(1), uint16(48), uint16(4), uint16(34), uint16(2)))
	var records []byte
	for range 8000 {
		records = appendBE(records, r.Uint32(), uint16(1+r.UintN(1000)))
	}
	return ipfix(r.Uint32N(4), options, flowSet(302, records))
}

// hostileDatagrams are functions that make the datagrams of the senders.
var hostileDatagrams = []func(*rand.Rand) []byte{
	// Wide templates, each with a different layout.
	func(r *rand.Rand) []byte {
		var sets [][]byte
		for range 3 {
			sets = append(sets, flowSet(2, template(256+uint16(r.UintN(60_000)), 4000, uint16(r.UintN(32_000)))))
		}
		return ipfix(r.Uint32N(4), sets...)
	},
	// A wide template and its data, which confirms it at once.
	func(r *rand.Rand) []byte {
		id := 256 + uint16(r.UintN(60_000))
		return ipfix(r.Uint32N(4), flowSet(2, template(id, 4000, uint16(r.UintN(32_000)))), flowSet(id, make([]byte, 4000)))
	},
	// Many small templates.
	func(r *rand.Rand) []byte {
		var records []byte
		for range 100 {
			records = appendBE(records, template(256+uint16(r.UintN(60_000)), 2+uint16(r.UintN(8)), uint16(r.UintN(500))))
		}
		return ipfix(r.Uint32N(1000), flowSet(2, records))
	},
	names,
	samplers,
	// Data sets without a template, full or empty.
	func(r *rand.Rand) []byte {
		return ipfix(r.Uint32(), flowSet(256+uint16(r.UintN(60_000)), make([]byte, 1400)))
	},
	func(r *rand.Rand) []byte {
		return ipfix(r.Uint32(), flowSet(256+uint16(r.UintN(100)), make([]byte, 60_000)))
	},
	func(r *rand.Rand) []byte {
		var sets [][]byte
		for range 5000 {
			sets = append(sets, flowSet(256+uint16(r.UintN(60_000))))
		}
		return ipfix(r.Uint32(), sets...)
	},
	// Export streams, each with its own domain, and sequence numbers that jump.
	func(r *rand.Rand) []byte {
		return be(uint16(5), uint16(1), uint32(1000), uint32(time.Now().Unix()), uint32(0), r.Uint32(), uint16(r.UintN(65_536)), uint16(0), make([]byte, 48))
	},
	// Many records of one octet.
	func(r *rand.Rand) []byte {
		return ipfix(1, flowSet(2, be(uint16(400), uint16(1), uint16(4), uint16(1))), flowSet(400, make([]byte, 800)))
	},
}

// forge sends datagrams, each from a different source: forged addresses of 127.0.0.0/8, or any IPv6
// address through a trusted proxy.
func forge(ctx context.Context, t *testing.T, to *net.UDPAddr, r *rand.Rand, make func(*rand.Rand) []byte) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		from, proxied := net.IPv4(127, byte(1+r.IntN(100)), byte(r.IntN(256)), byte(1+r.IntN(250))), r.IntN(2) == 0
		if proxied {
			from = net.IPv4(127, 255, 0, byte(1+r.IntN(250)))
		}
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: from}, to)
		if err != nil {
			t.Errorf("a socket of %v: %v", from, err)
			return
		}
		for range 2 {
			pkt := make(r)
			if proxied {
				pkt = append(proxyHeader(r), pkt...)
			}
			_, _ = c.Write(pkt) // fails when ingest has closed its socket
		}
		_ = c.Close()
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

// proxyHeader returns a header of the PROXY protocol, version 2, for UDP over IPv6.
func proxyHeader(r *rand.Rand) []byte {
	source := be(uint32(0x20010db8), r.Uint32N(1<<16), uint32(0), r.Uint32N(1<<16))
	return be([]byte("\r\n\r\n\x00\r\nQUIT\n"), uint8(0x21), uint8(0x22), uint16(36), source, source, uint16(r.UintN(65_536)), uint16(4739))
}

// connect keeps the maximum number of connections open. Each sends templates until they are
// refused, and 64 KB of options data, and then stays idle.
func connect(ctx context.Context, to string) {
	var all sync.WaitGroup
	defer all.Wait()
	for source := range 8 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 150, 0, byte(1+source))}, Timeout: 5 * time.Second}
		for i := range 60 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(uint64(source), uint64(i)))
				for ctx.Err() == nil {
					c, err := d.DialContext(ctx, "tcp4", to)
					if err != nil {
						wait(ctx, time.Second) // the host is busy
						continue
					}
					speak(ctx, c, r)
					_ = c.Close()
				}
			})
		}
	}
}

func speak(ctx context.Context, c net.Conn, r *rand.Rand) {
	options := be(uint16(256), uint16(9), uint16(1), uint16(149), uint16(1))
	for range 8 {
		options = appendBE(options, uint16(210), uint16(0))
	}
	first := [][]byte{ipfix(1, flowSet(3, options)), ipfix(1, flowSet(256, make([]byte, 65_000)))}
	for id := range uint16(60) {
		first = append(first, ipfix(1, flowSet(2, template(300+id, 4000, uint16(r.UintN(32_000))))))
	}
	for _, b := range first {
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(b); err != nil {
			return
		}
	}
	wait(ctx, time.Duration(20+r.IntN(30))*time.Second)
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// A numbered exporter sends v9 flows with consecutive numbers as source addresses, and its template
// every second.
type numbered struct {
	to    *net.UDPAddr
	flows atomic.Int64
	done  atomic.Bool // the test no longer waits for flows
}

// numberedFlows is the number of flows in a datagram.
const numberedFlows = 20

func (n *numbered) send(ctx context.Context, t *testing.T) {
	c, err := net.DialUDP("udp4", &net.UDPAddr{IP: honestFrom.AsSlice()}, n.to)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	layout := flowSet(0, be(uint16(256), uint16(5), uint16(8), uint16(4), uint16(12), uint16(4), uint16(1), uint16(4), uint16(2), uint16(4), uint16(4), uint16(1)))
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for sequence := uint32(0); ctx.Err() == nil; sequence++ {
		var records []byte
		if sequence%200 == 0 {
			records = layout
		}
		var data []byte
		for i := range uint32(numberedFlows) {
			data = appendBE(data, 10<<24|(sequence*numberedFlows+i)&0xffffff, uint32(0xc6336407), uint32(1000), uint32(10), uint8(6))
		}
		pkt := be(uint16(9), uint16(numberedFlows), uint32(time.Now().UnixMilli()), uint32(time.Now().Unix()), sequence, uint32(7), records, flowSet(256, data))
		if _, err := c.Write(pkt); err != nil {
			t.Errorf("the honest exporter: %v", err)
			return
		}
		n.flows.Add(numberedFlows)
		<-pause.C
	}
}

func (n *numbered) sent() int { return int(n.flows.Load()) }

// lost returns the number of the exporter's flows that are counted as lost: dropped by the kernel
// at the exporter's socket, not accepted by Kafka, or in sets without a known template.
func (n *numbered) lost(p *process, socket string) int {
	own := `exporter="` + honestFrom.String() + `"`
	return numberedFlows*int(p.sum("weir_ingest_socket_drops_total", socket)+p.sum("weir_ingest_undecoded_sets_total", own)) +
		int(p.sum("weir_ingest_dropped_flows_total", own))
}

// numbers records the flows of the honest exporter on the topic.
type numbers struct {
	mu  sync.Mutex
	all map[uint32]int
}

func (n *numbers) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.all)
}

// read reads the topic until done is set.
func (n *numbers) read(ctx context.Context, t *testing.T, addr string, of *numbered) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("netflow.flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	n.mu.Lock()
	n.all = map[uint32]int{}
	n.mu.Unlock()
	for ctx.Err() == nil && !of.done.Load() {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		cl.PollFetches(poll).EachRecord(func(r *kgo.Record) {
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				t.Errorf("a flow: %v", err)
				return
			}
			if !bytes.Equal(m.SamplerAddress, honestFrom.AsSlice()) {
				return
			}
			if len(m.SrcAddr) != 4 || m.DstPort != 0 || m.Bytes != 1000 || m.Packets != 10 {
				t.Errorf("a flow of the honest exporter differs from the flow sent: %v", &m)
			}
			n.mu.Lock()
			n.all[binary.BigEndian.Uint32(m.SrcAddr)]++
			n.mu.Unlock()
		})
		cancel()
	}
	for number, times := range n.all {
		if times != 1 {
			t.Errorf("flow %d of the honest exporter is on the topic %d times", number&0xffffff, times)
			return
		}
	}
}
