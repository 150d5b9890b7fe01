package rdns

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"weir/pkg/flowpb"
)

// publicAddress returns the n-th of 2^26 public addresses.
func publicAddress(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{64 | byte(n>>24&3), byte(n >> 16), byte(n >> 8), byte(n)})
}

// fullResolver returns a Resolver that does not run, with known addresses in its cache and a full queue.
func fullResolver(b *testing.B, known uint32) *Resolver {
	b.Helper()
	r, err := newResolver(Config{
		Enabled: true, Servers: []string{"192.0.2.53:53"}, Verify: true, Timeout: 2 * time.Second, Rate: 500, InFlight: 256,
		Queue: 65_536, CacheSize: 500_000,
	}, &script{})
	if err != nil {
		b.Fatal(err)
	}
	for n := range known {
		res := result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_NXDOMAIN}, ttl: time.Hour}
		if n%2 == 0 {
			res.answer = Answer{
				Name: fmt.Sprintf("host-%d.customers.example.net", n), Status: flowpb.NameStatus_NAME_STATUS_OK,
				Source: flowpb.NameSource_NAME_SOURCE_PTR,
			}
		}
		r.record(publicAddress(n), res)
	}
	for n := range uint32(r.config.Queue) {
		r.Want(netip.AddrFrom4([4]byte{80, byte(n >> 16), byte(n >> 8), byte(n)}))
	}
	return r
}

// BenchmarkNames measures what the two ends of a connection cost: each end is wanted when the connection opens and
// read when it is reported.
func BenchmarkNames(b *testing.B) {
	const known = 400_000
	for _, bench := range []struct {
		name string
		next func(rng *rand.Rand, zipf *rand.Zipf, i uint32) netip.Addr
	}{
		{"refused", func(_ *rand.Rand, _ *rand.Zipf, i uint32) netip.Addr { return publicAddress(1<<24 + i) }},
		{"cached name", func(rng *rand.Rand, _ *rand.Zipf, _ uint32) netip.Addr {
			return publicAddress(rng.Uint32N(known) &^ 1)
		}},
		{"cached absence", func(rng *rand.Rand, _ *rand.Zipf, _ uint32) netip.Addr {
			return publicAddress(rng.Uint32N(known) | 1)
		}},
		{"Zipf over 1 M", func(_ *rand.Rand, zipf *rand.Zipf, _ uint32) netip.Addr {
			return publicAddress(uint32(zipf.Uint64()))
		}},
		{"special use", func(_ *rand.Rand, _ *rand.Zipf, i uint32) netip.Addr {
			return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := fullResolver(b, known)
			rng := rand.New(rand.NewPCG(1, 2))
			zipf := rand.NewZipf(rng, 1.1, 1, 1_000_000-1)
			addrs := make([]netip.Addr, 1<<20)
			for i := range addrs {
				addrs[i] = bench.next(rng, zipf, uint32(i))
			}
			at := 0
			before := cpuTime(b)
			b.ReportAllocs()
			for b.Loop() {
				for range 2 {
					a := addrs[at&(len(addrs)-1)]
					at++
					r.Want(a)
					r.Peek(a)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
	b.Run("off", func(b *testing.B) {
		r, err := newResolver(Config{}, &script{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			for range 2 {
				r.Want(host)
				r.Peek(host)
			}
		}
	})
}

// serverRole, in the environment, makes the test program a name server on the UDP socket that is its fd 3.
const serverRole = "WEIR_RDNS_BENCH_SERVER"

// answerAll is the name server of BenchmarkAnswered. Every address has a name, and every name that address.
func answerAll() {
	file := os.NewFile(3, "socket")
	pc, err := net.FilePacketConn(file)
	if err != nil {
		panic(err)
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) != nil || len(m.Question) != 1 {
			continue
		}
		reply := new(dns.Msg).SetReply(m)
		q := m.Question[0]
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 3600}
		l := strings.Split(q.Name, ".")
		switch q.Qtype {
		case dns.TypePTR:
			name := fmt.Sprintf("host-%s-%s-%s-%s.customers.example.net.", l[3], l[2], l[1], l[0])
			reply.Answer = []dns.RR{&dns.PTR{Hdr: head, Ptr: name}}
		case dns.TypeA:
			a := netip.MustParseAddr(strings.ReplaceAll(strings.TrimPrefix(l[0], "host-"), "-", "."))
			reply.Answer = []dns.RR{&dns.A{Hdr: head, A: a.AsSlice()}}
		}
		b, err := reply.Pack()
		if err != nil {
			panic(err)
		}
		_, _ = pc.WriteTo(b, from)
	}
}

// cpuTime returns the CPU time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAnswered measures the CPU of this process for an address that is asked, answered and verified: two queries.
// The name server is another process.
func BenchmarkAnswered(b *testing.B) {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	file, err := pc.File()
	if err != nil {
		b.Fatal(err)
	}
	addr := pc.LocalAddr().String()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append(os.Environ(), serverRole+"=1"), []*os.File{file}, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_ = pc.Close()
	_ = file.Close()
	const inFlight = 16
	r, err := New(Config{
		Enabled: true, Servers: []string{addr}, Verify: true, Timeout: 2 * time.Second, Rate: 1_000_000, InFlight: inFlight,
		Queue: 65_536, CacheSize: 500_000,
	})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	var last netip.Addr
	for i := range uint32(b.N) {
		last = publicAddress(i)
		r.Want(last)
		for i%inFlight == 0 && r.Stats().Pending > 8*inFlight {
			time.Sleep(50 * time.Microsecond)
		}
	}
	for r.Stats().Pending > 0 {
		time.Sleep(50 * time.Microsecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	if got := r.Peek(last); !got.Verified || binary.BigEndian.Uint32(last.AsSlice()) == 0 {
		b.Fatalf("the name of %v: %+v", last, got)
	}
	s := r.Stats()
	b.ReportMetric(float64(s.Questions)/float64(b.N), "questions/op")
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
	_ = cmd.Wait() // killed
}

// BenchmarkMessages compares libraries: the query for an address and its response, by the code in use (dnsmessage and
// appendQuery) and by miekg/dns.
func BenchmarkMessages(b *testing.B) {
	q := reverseQuestion(host)
	response := packed(b, q, 0, hostArpa+" 300 PTR www.example.com.", "184.93.in-addr.arpa. 600 SOA ns. host. 1 7200 900 1209600 3600")
	b.Run("dnsmessage", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, maxUDPPayload)
		for b.Loop() {
			buf = appendQuery(buf[:0], 7, reverseQuestion(host))
			if r, err := parseReply(response, 7, q); err != nil || len(r.targets) != 1 {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("miekg", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			arpa, err := dns.ReverseAddr(host.String())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := new(dns.Msg).SetQuestion(arpa, dns.TypePTR).SetEdns0(maxUDPPayload, false).Pack(); err != nil {
				b.Fatal(err)
			}
			m := new(dns.Msg)
			if err := m.Unpack(response); err != nil || len(reference(m, q).targets) != 1 {
				b.Fatal(m, err)
			}
		}
	})
}
