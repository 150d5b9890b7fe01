package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/net/ipv4"

	"weir/internal/decode"
	"weir/internal/ingest"
	"weir/internal/kafka"
	"weir/internal/templates"
)

// The roles in which the program may be started.
const (
	receiveRole = "WEIR_BENCH_RECEIVE"
	receiveArgs = "WEIR_BENCH_ARGS"
)

// v9Flows is the number of flows in each datagram sent.
const v9Flows = 24

var receiveRoles = map[string]func(args []string){"send": sender, "discard": discarder, "decode": decoder, "bare": bareProducer, "talk": talker}

// A roleT takes the place of a test in helpers that need one. It panics instead of failing.
type roleT struct{ testing.TB }

func (roleT) Helper()           {}
func (roleT) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// dialUDP returns a socket to an address, with a large buffer.
func dialUDP(address string) *net.UDPConn {
	to, err := net.ResolveUDPAddr("udp4", address)
	if err != nil {
		panic(err)
	}
	c, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		panic(err)
	}
	_ = c.SetWriteBuffer(4 << 20) // as far as the kernel grants it
	return c
}

// sender sends v9 datagrams. Arguments: ADDRESS, datagrams per second (0: unlimited), milliseconds.
// It prints the number sent.
func sender(args []string) {
	c := dialUDP(args[0])
	rate, lasts := float64(number(args[1])), time.Duration(number(args[2]))*time.Millisecond
	if _, err := c.Write(packet(roleT{}, "v9_template.hex")); err != nil {
		panic(err)
	}
	time.Sleep(300 * time.Millisecond)
	const batch = 64
	pkts := vary(roleT{}, "v9", 512)
	ms := make([]ipv4.Message, len(pkts)) // the messages share the datagrams
	for i := range ms {
		ms[i].Buffers = [][]byte{pkts[i]}
	}
	pc := ipv4.NewPacketConn(c)
	sent, sequence := 0, uint32(2)
	for began := time.Now(); ; {
		after := time.Since(began)
		if after >= lasts {
			break
		}
		n := batch
		if rate > 0 {
			if n = min(int(rate*after.Seconds())-sent, batch); n <= 0 {
				time.Sleep(100 * time.Microsecond)
				continue
			}
		}
		at := sent % len(ms)
		some := ms[at:min(at+n, len(ms))]
		for i := range some {
			binary.BigEndian.PutUint32(some[i].Buffers[0][12:], sequence+uint32(i))
		}
		k, err := pc.WriteBatch(some, 0)
		if err != nil && k <= 0 {
			continue // the receiver is not there, or a queue is full: not sent
		}
		sent, sequence = sent+k, sequence+uint32(k)
	}
	fmt.Println(sent)
}

// discarder runs ingest without Kafka. Arguments: ADDRESS, octets of receive buffer.
func discarder(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	r, err := ingest.New(ingest.Config{
		Listen: []netip.AddrPort{netip.MustParseAddrPort(args[0])}, Receivers: 1, RcvBuf: number(args[1]), Replica: "bench", ParkFor: time.Second,
		Kafka:  kafka.Config{Brokers: []string{"127.0.0.1:1"}, ClientID: "bench", SessionTimeout: 10 * time.Second},
		Topics: kafka.TopicConfig{Prefix: "t.", Mode: "off", Partitions: 12},
	}, ingest.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Discard: true})
	if err != nil {
		panic(err)
	}
	if err := r.Run(ctx); err != nil {
		panic(err)
	}
	fmt.Println(r.Stats().Flows)
}

// decoded decodes datagrams and calls f with each flow, until it has decoded n flows.
func decoded(n int, f func(key, value []byte)) {
	d := decode.Decoder{State: templates.New(templates.Options{}), Replica: "bench"}
	m := decode.Meta{Exporter: netip.MustParseAddr("127.0.0.1"), Port: 40000, Received: 1_760_000_000_000_000_000}
	var r decode.Result
	d.Wire(packet(roleT{}, "v9_template.hex"), &m, &r)
	pkts := vary(roleT{}, "v9", 512)
	for i := 0; n > 0; i++ {
		d.Wire(pkts[i%len(pkts)], &m, &r)
		n -= len(r.Flows)
		if f == nil {
			continue
		}
		for _, s := range r.Flows {
			f(r.Buf[s.ValueEnd:s.KeyEnd], r.Buf[s.Start:s.ValueEnd])
		}
	}
}

// cpuTime returns the CPU time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// decoder decodes FLOWS flows and prints the CPU time, ns.
func decoder(args []string) {
	decoded(100_000, nil)
	before := cpuTime()
	decoded(number(args[0]), nil)
	fmt.Println((cpuTime() - before).Nanoseconds())
}

// bareProducer produces with franz-go alone, with the settings of ingest. Arguments: BROKER TOPIC
// FLOWS. It produces as many octets as ingest would, and prints the CPU time and the number of
// records.
func bareProducer(args []string) {
	var keys, values [][]byte
	decoded(512*v9Flows, func(k, v []byte) {
		keys, values = append(keys, append([]byte(nil), k...)), append(values, append([]byte(nil), v...))
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(args[0]), kgo.ProducerLinger(10*time.Millisecond), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MaxBufferedRecords(4_000_000), kgo.MaxBufferedBytes(1_000_000_000), kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: args[1], Value: values[0]}).FirstErr(); err != nil {
		panic(err)
	}
	pool := sync.Pool{New: func() any { return &kgo.Record{} }}
	done := func(r *kgo.Record, err error) {
		if err != nil {
			panic(err)
		}
		pool.Put(r)
	}
	before, sent := cpuTime(), 0
	for flows := number(args[2]); sent < flows; {
		now := time.Now()
		for range v9Flows {
			r := pool.Get().(*kgo.Record)
			*r = kgo.Record{Topic: args[1], Key: keys[sent%len(keys)], Value: values[sent%len(keys)], Timestamp: now}
			cl.TryProduce(ctx, r, done)
			sent++
		}
	}
	if err := cl.Flush(ctx); err != nil {
		panic(err)
	}
	fmt.Println((cpuTime() - before).Nanoseconds(), sent)
	_ = os.Stdout.Sync() // a pipe
	cl.Close()
}
