package rdns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"weir/pkg/flowpb"
)

func TestMain(m *testing.M) {
	if os.Getenv(serverRole) != "" {
		answerAll()
		return
	}
	goleak.VerifyTestMain(m)
}

// A script is a transport that answers by a function and collects the queries.
type script struct {
	answer func(question string, kind uint16, server string) (*dns.Msg, error)

	mu    sync.Mutex
	asked []string
}

func (s *script) exchange(
	_ context.Context, q *question, proto, server string, timeout time.Duration,
) (reply, error) {
	name, kind := q.name.String(), uint16(q.kind)
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s %s %s@%s", proto, dns.TypeToString[kind], name, server))
	s.mu.Unlock()
	m, err := s.answer(name, kind, server)
	if errors.Is(err, errSilent) {
		time.Sleep(timeout)
	}
	if err != nil {
		return reply{}, err
	}
	m.Question, m.Response = []dns.Question{{Name: name, Qtype: kind, Qclass: dns.ClassINET}}, true
	b, err := m.Pack()
	if err != nil {
		return reply{}, err
	}
	return parseReply(b, m.Id, q)
}

func (s *script) close() {}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

var errSilent = errors.New("no answer")

// zone makes a reply of answer records in master file form.
func zone(records ...string) (*dns.Msg, error) {
	m := new(dns.Msg)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			return nil, err
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m, nil
}

func rcode(code int, records ...string) (*dns.Msg, error) {
	m, err := zone(records...)
	if m != nil {
		m.Rcode = code
	}
	return m, err
}

// running runs f while r runs.
func running(t *testing.T, r *Resolver, f func(t *testing.T, r *Resolver)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	f(t, r)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// with runs f in a bubble of virtual time with a running Resolver over s.
func with(t *testing.T, c Config, s *script, f func(t *testing.T, r *Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, err := newResolver(c, s)
		if err != nil {
			t.Fatal(err)
		}
		running(t, r, f)
	})
}

var (
	host    = netip.MustParseAddr("93.184.216.34")
	unnamed = Answer{}
	hostOK  = Answer{Name: "www.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR}
)

const hostArpa = "34.216.184.93.in-addr.arpa."

func status(s flowpb.NameStatus) Answer { return Answer{Status: s} }

func expect(t *testing.T, r *Resolver, a netip.Addr, want Answer) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, r.Peek(a)); diff != "" {
		t.Errorf("Peek(%v): (-want +got)\n%s", a, diff)
	}
}

func unverified() Config {
	c := testConfig()
	c.Verify = false
	return c
}

func TestScenario24AThousandWantsAreOneQuestion(t *testing.T) {
	s := &script{answer: func(string, uint16, string) (*dns.Msg, error) { return zone(hostArpa + " 300 PTR www.example.com.") }}
	with(t, unverified(), s, func(t *testing.T, r *Resolver) {
		expect(t, r, host, unnamed)
		for range 1000 {
			r.Want(host)
			r.Want(netip.AddrFrom16(host.As16())) // the same, IPv4-mapped
		}
		expect(t, r, host, hostOK)
		if s.count() != 1 {
			t.Errorf("asked %d times, want once: %q", s.count(), s.asked)
		}
		if diff := cmp.Diff([]string{"udp PTR " + hostArpa + "@192.0.2.53:53"}, s.asked); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestScenario24ANameIsAskedAnewOnlyWhenItsTTLIsOverAndItIsWanted(t *testing.T) {
	s := &script{answer: func(string, uint16, string) (*dns.Msg, error) { return zone(hostArpa + " 300 PTR www.example.com.") }}
	with(t, unverified(), s, func(t *testing.T, r *Resolver) {
		r.Want(host)
		synctest.Wait()
		time.Sleep(299 * time.Second)
		r.Want(host)
		synctest.Wait()
		if s.count() != 1 {
			t.Errorf("within its TTL it was asked %d times, want once", s.count())
		}
		time.Sleep(time.Hour)
		expect(t, r, host, hostOK)
		if s.count() != 1 {
			t.Errorf("nobody wanted it, it was asked %d times, want once", s.count())
		}
		r.Want(host)
		synctest.Wait()
		if s.count() != 2 {
			t.Errorf("wanted after its TTL, it was asked %d times, want twice", s.count())
		}
	})
}

func TestScenario24HowLongAnAnswerIsInForce(t *testing.T) {
	tests := []struct {
		name  string
		reply func() (*dns.Msg, error)
		want  Answer
		ttl   time.Duration
	}{
		{"TTL 0 counts as a minute", func() (*dns.Msg, error) { return zone(hostArpa + " 0 PTR www.example.com.") }, hostOK, time.Minute},
		{"a week counts as a day", func() (*dns.Msg, error) { return zone(hostArpa + " 604800 PTR www.example.com.") }, hostOK, 24 * time.Hour},
		{"the least TTL along the CNAMEs of RFC 2317", func() (*dns.Msg, error) {
			return zone(hostArpa+" 120 CNAME 34.32/27.216.184.93.in-addr.arpa.", "34.32/27.216.184.93.in-addr.arpa. 900 PTR www.example.com.")
		}, hostOK, 120 * time.Second},
		{"NXDOMAIN by the SOA's TTL", func() (*dns.Msg, error) {
			return rcode(dns.RcodeNameError, "184.93.in-addr.arpa. 600 SOA ns. host. 1 7200 900 1209600 3600")
		}, status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN), 600 * time.Second},
		{"NXDOMAIN by the SOA's minimum", func() (*dns.Msg, error) {
			return rcode(dns.RcodeNameError, "184.93.in-addr.arpa. 3600 SOA ns. host. 1 7200 900 1209600 90")
		}, status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN), 90 * time.Second},
		{"NXDOMAIN for an hour at most", func() (*dns.Msg, error) {
			return rcode(dns.RcodeNameError, "10.in-addr.arpa. 10800 SOA ns. host. 1 7200 900 1209600 10800")
		}, status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN), time.Hour},
		{"NXDOMAIN without SOA", func() (*dns.Msg, error) { return rcode(dns.RcodeNameError) }, status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN), time.Minute},
		{"no PTR", func() (*dns.Msg, error) {
			return zone("184.93.in-addr.arpa. 600 SOA ns. host. 1 7200 900 1209600 300")
		}, status(flowpb.NameStatus_NAME_STATUS_NODATA), 300 * time.Second},
		{"another name's PTR", func() (*dns.Msg, error) {
			return zone("1.2.3.4.in-addr.arpa. 300 PTR www.example.com.")
		}, status(flowpb.NameStatus_NAME_STATUS_NODATA), time.Minute},
		{"a circle of CNAMEs", func() (*dns.Msg, error) {
			return zone(hostArpa+" 300 CNAME a.example.com.", "a.example.com. 300 CNAME "+hostArpa)
		}, status(flowpb.NameStatus_NAME_STATUS_NODATA), time.Minute},
		{"a target that is no host name", func() (*dns.Msg, error) {
			return zone(hostArpa + " 300 PTR 8.8.8.8.")
		}, status(flowpb.NameStatus_NAME_STATUS_INVALID), 300 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answer: func(string, uint16, string) (*dns.Msg, error) { return tt.reply() }}
			with(t, unverified(), s, func(t *testing.T, r *Resolver) {
				r.Want(host)
				expect(t, r, host, tt.want)
				time.Sleep(tt.ttl - time.Second)
				r.Want(host)
				synctest.Wait()
				if s.count() != 1 {
					t.Errorf("asked again before %v: %q", tt.ttl, s.asked)
				}
				time.Sleep(time.Second + time.Millisecond)
				expect(t, r, host, tt.want) // known until something better is
				r.Want(host)
				synctest.Wait()
				if s.count() != 2 {
					t.Errorf("asked %d times after %v, want twice", s.count(), tt.ttl)
				}
			})
		})
	}
}

func TestScenario24FailuresAreAskedAgainEverLater(t *testing.T) {
	s := &script{answer: func(string, uint16, string) (*dns.Msg, error) { return rcode(dns.RcodeServerFailure) }}
	with(t, unverified(), s, func(t *testing.T, r *Resolver) {
		// A failure is cached (RFC 9520): for 30 s, doubling up to 5 min. Each time a query and a retry are
		// sent.
		for i, wait := range []time.Duration{30, 60, 120, 240, 300, 300} {
			r.Want(host)
			expect(t, r, host, status(flowpb.NameStatus_NAME_STATUS_SERVFAIL))
			if want := 2 * (i + 1); s.count() != want {
				t.Fatalf("asked %d times, want %d", s.count(), want)
			}
			time.Sleep(wait*time.Second - time.Millisecond)
			r.Want(host)
			synctest.Wait()
			if want := 2 * (i + 1); s.count() != want {
				t.Fatalf("asked again before %v s", wait)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

func TestScenario24AnOldNameStandsInForADay(t *testing.T) {
	silent := false
	s := &script{}
	s.answer = func(string, uint16, string) (*dns.Msg, error) {
		if silent {
			return nil, errSilent
		}
		return zone(hostArpa + " 300 PTR www.example.com.")
	}
	with(t, unverified(), s, func(t *testing.T, r *Resolver) {
		r.Want(host)
		synctest.Wait()
		silent = true
		start := time.Now()
		for time.Since(start) < 24*time.Hour {
			time.Sleep(10 * time.Minute)
			r.Want(host)
			expect(t, r, host, hostOK)
		}
		time.Sleep(10 * time.Minute)
		r.Want(host)
		time.Sleep(time.Minute)
		expect(t, r, host, status(flowpb.NameStatus_NAME_STATUS_TIMEOUT))
	})
}

func TestTheSecondServerIsAskedWhenTheFirstFails(t *testing.T) {
	c := unverified()
	c.Servers = []string{"192.0.2.1:53", "192.0.2.2:53"}
	s := &script{answer: func(_ string, _ uint16, server string) (*dns.Msg, error) {
		if server == "192.0.2.1:53" {
			return nil, errSilent
		}
		return zone(hostArpa + " 300 PTR www.example.com.")
	}}
	with(t, c, s, func(t *testing.T, r *Resolver) {
		r.Want(host)
		expect(t, r, host, status(flowpb.NameStatus_NAME_STATUS_PENDING))
		time.Sleep(2 * time.Second)
		expect(t, r, host, hostOK)
		if diff := cmp.Diff([]string{"udp PTR " + hostArpa + "@192.0.2.1:53", "udp PTR " + hostArpa + "@192.0.2.2:53"}, s.asked); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestScenario22ASilentServerIsAskedOnceASecondUntilItAnswers(t *testing.T) {
	var mu sync.Mutex
	silent := true
	s := &script{}
	s.answer = func(name string, _ uint16, _ string) (*dns.Msg, error) {
		mu.Lock()
		defer mu.Unlock()
		if silent {
			return nil, errSilent
		}
		return zone(name + " 300 PTR www.example.com.")
	}
	c := unverified()
	c.Queue = 1000
	with(t, c, s, func(t *testing.T, r *Resolver) {
		want := func(n int) {
			for i := range n {
				r.Want(netip.AddrFrom4([4]byte{9, 9, byte(i >> 8), byte(i)}))
			}
		}
		want(1000)
		time.Sleep(10 * time.Second)
		if got := r.Stats(); got.Down != 1 {
			t.Fatalf("%d servers down, want 1", got.Down)
		}
		before := s.count()
		time.Sleep(20 * time.Second)
		if n := s.count() - before; n < 15 || n > 21 {
			t.Errorf("asked %d times in 20 s, want about one a second", n)
		}
		if before > 100 {
			t.Errorf("%d questions before the server was given up, want some dozens", before)
		}
		mu.Lock()
		silent = false
		mu.Unlock()
		time.Sleep(5 * time.Second)
		if got := r.Stats(); got.Down != 0 || got.Answers[flowpb.NameStatus_NAME_STATUS_OK] < 900 {
			t.Errorf("after it answered: %d down, %d names, want 0 and nearly all of 1000", got.Down, got.Answers[flowpb.NameStatus_NAME_STATUS_OK])
		}
	})
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	s := &script{answer: func(string, uint16, string) (*dns.Msg, error) { return nil, errSilent }}
	c := unverified()
	c.Queue, c.InFlight = 10, 1
	with(t, c, s, func(t *testing.T, r *Resolver) {
		synctest.Wait()
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{9, 9, 9, byte(i)}) }
		r.Want(addr(0))
		synctest.Wait() // in flight; the next ten fill the queue
		for i := 1; i < 21; i++ {
			r.Want(addr(i))
		}
		if got := r.Stats(); got.Dropped != 10 || got.Pending != 11 {
			t.Errorf("%d dropped, %d pending; want 10 and 11", got.Dropped, got.Pending)
		}
		expect(t, r, addr(1), status(flowpb.NameStatus_NAME_STATUS_PENDING))
		expect(t, r, addr(20), status(flowpb.NameStatus_NAME_STATUS_DROPPED))
	})
}

func TestQuestionsAreLimitedByRate(t *testing.T) {
	s := &script{answer: func(name string, _ uint16, _ string) (*dns.Msg, error) {
		return zone(name + " 300 PTR www.example.com.")
	}}
	c := unverified()
	c.Rate, c.Queue = 10, 1000
	with(t, c, s, func(t *testing.T, r *Resolver) {
		for i := range 500 {
			r.Want(netip.AddrFrom4([4]byte{9, 9, byte(i >> 8), byte(i)}))
		}
		time.Sleep(10 * time.Second)
		if n := s.count(); n < 95 || n > 102 {
			t.Errorf("%d questions in 10 s, want 10 a second", n)
		}
	})
}

func TestScenario25SpecialUseAddressesAreAskedOfPrivateServersOnly(t *testing.T) {
	answer := func(name string, _ uint16, _ string) (*dns.Msg, error) {
		return zone(name + " 300 PTR nas.example.test.")
	}
	private, mapped := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("::ffff:10.1.2.3")
	loopback := netip.MustParseAddr("127.0.0.1")

	s := &script{answer: answer}
	with(t, unverified(), s, func(t *testing.T, r *Resolver) {
		for _, a := range []netip.Addr{private, mapped, loopback, {}} {
			r.Want(a)
			expect(t, r, a, status(flowpb.NameStatus_NAME_STATUS_SUPPRESSED))
		}
		if s.count() != 0 {
			t.Errorf("asked: %q", s.asked)
		}
	})

	s = &script{answer: answer}
	c := unverified()
	c.PrivateServers = []string{"10.0.0.53:53"}
	with(t, c, s, func(t *testing.T, r *Resolver) {
		r.Want(private)
		r.Want(loopback)
		r.Want(host)
		expect(t, r, private, Answer{Name: "nas.example.test", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR})
		expect(t, r, loopback, status(flowpb.NameStatus_NAME_STATUS_SUPPRESSED))
		expect(t, r, host, status(flowpb.NameStatus_NAME_STATUS_INVALID)) // .test from a public zone
		for _, q := range s.asked {
			if (q == "udp PTR 3.2.1.10.in-addr.arpa.@10.0.0.53:53") == (q == "udp PTR "+hostArpa+"@192.0.2.53:53") {
				t.Errorf("asked: %s", q)
			}
		}
		if s.count() != 2 {
			t.Errorf("asked %d times, want twice: %q", s.count(), s.asked)
		}
	})
}

func TestANameIsVerifiedByItsOwnAddresses(t *testing.T) {
	s := &script{}
	s.answer = func(name string, kind uint16, _ string) (*dns.Msg, error) {
		switch {
		case kind == dns.TypePTR && name == hostArpa:
			return zone(hostArpa+" 900 PTR b.example.com.", hostArpa+" 900 PTR a.example.com.")
		case name == "a.example.com.":
			return zone("a.example.com. 300 A 192.0.2.1") // another host's
		case name == "b.example.com.":
			return zone("b.example.com. 300 CNAME c.example.com.", "c.example.com. 100 A 93.184.216.34")
		default:
			return rcode(dns.RcodeNameError)
		}
	}
	with(t, testConfig(), s, func(t *testing.T, r *Resolver) {
		r.Want(host)
		expect(t, r, host, Answer{Name: "b.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Verified: true, Source: flowpb.NameSource_NAME_SOURCE_PTR})
		asked := s.count()
		time.Sleep(101 * time.Second) // the address record's TTL bounds the verification
		r.Want(host)
		synctest.Wait()
		if s.count() == asked {
			t.Error("not asked anew when the address record's TTL was over")
		}
	})
}

func TestIPv6NamesAreVerifiedByAAAA(t *testing.T) {
	v6 := netip.MustParseAddr("2606:4700::1111")
	s := &script{answer: func(name string, kind uint16, _ string) (*dns.Msg, error) {
		switch kind {
		case dns.TypePTR:
			return zone(name + " 900 PTR one.example.com.")
		case dns.TypeAAAA:
			return zone("one.example.com. 300 AAAA 2606:4700::1111")
		default:
			return nil, errors.New("not expected")
		}
	}}
	with(t, testConfig(), s, func(t *testing.T, r *Resolver) {
		r.Want(v6)
		expect(t, r, v6, Answer{Name: "one.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Verified: true, Source: flowpb.NameSource_NAME_SOURCE_PTR})
	})
}

func TestSwitchedOffNothingIsAsked(t *testing.T) {
	s := &script{answer: func(string, uint16, string) (*dns.Msg, error) { return nil, errSilent }}
	with(t, Config{}, s, func(t *testing.T, r *Resolver) {
		r.Want(host)
		expect(t, r, host, status(flowpb.NameStatus_NAME_STATUS_DISABLED))
		if s.count() != 0 {
			t.Errorf("asked: %q", s.asked)
		}
	})
}

func BenchmarkPeek(b *testing.B) {
	s := &script{}
	r, err := newResolver(testConfig(), s)
	if err != nil {
		b.Fatal(err)
	}
	r.record(host, result{answer: hostOK, ttl: time.Hour})
	b.ReportAllocs()
	for b.Loop() {
		r.Peek(host)
	}
}

// After a restart the addresses of all held connections are wanted at once. They wait behind those of new
// connections, and share the limit on queries with them. Addresses that do not fit are refused, so that the
// caller stops.
func TestAddressesWantedLaterWaitForThoseWantedNow(t *testing.T) {
	s := &script{answer: func(name string, _ uint16, _ string) (*dns.Msg, error) {
		return zone(name + " 300 PTR www.example.com.")
	}}
	c := unverified()
	c.Rate, c.Queue, c.InFlight = 10, 50, 1
	with(t, c, s, func(t *testing.T, r *Resolver) {
		synctest.Wait()
		addr := func(net byte, i int) netip.Addr { return netip.AddrFrom4([4]byte{9, 9, net, byte(i)}) }
		taken := 0
		for i := range 200 {
			if r.WantLater(addr(1, i)) {
				taken++
			}
		}
		if taken < 50 || taken > 50+10 { // the questions of the first second may be asked meanwhile
			t.Fatalf("%d addresses are taken for later, want 50 to 60", taken)
		}
		for i := range 20 {
			r.Want(addr(2, i))
		}
		expect(t, r, addr(1, 49), status(flowpb.NameStatus_NAME_STATUS_PENDING))
		time.Sleep(3 * time.Second) // 30 questions
		for i := range 20 {
			if got := r.Peek(addr(2, i)); got.Status != flowpb.NameStatus_NAME_STATUS_OK {
				t.Fatalf("address %d of a new connection: want its name after 3 s, got %v", i, got.Status)
			}
		}
		if n := s.count(); n > 33 {
			t.Errorf("%d questions in 3 s, want 10 a second", n)
		}
		time.Sleep(10 * time.Second)
		if got := r.Peek(addr(1, 49)); got.Name != "www.example.com" {
			t.Errorf("want the name of an address wanted later after 13 s, got %+v", got)
		}
		if got := r.Stats(); got.Dropped != 0 {
			t.Errorf("%d addresses counted as dropped, want none", got.Dropped)
		}
	})
}

// The preferred server is probed and used again although the other answers and the queue is never empty.
func TestThePreferredServerIsUsedAgainWhileTheQueueIsFull(t *testing.T) {
	c := unverified()
	c.Servers = []string{"192.0.2.1:53", "192.0.2.2:53"}
	c.Timeout, c.Queue, c.InFlight = 100*time.Millisecond, 5000, 1
	var recovered atomic.Bool
	var preferred atomic.Int64
	s := &script{answer: func(name string, _ uint16, server string) (*dns.Msg, error) {
		if server == "192.0.2.1:53" {
			if !recovered.Load() {
				return nil, errSilent
			}
			preferred.Add(1)
		}
		time.Sleep(10 * time.Millisecond)
		return zone(name + " 300 PTR www.example.com.")
	}}
	with(t, c, s, func(t *testing.T, r *Resolver) {
		for n := range uint32(c.Queue) {
			r.Want(publicAddress(n))
		}
		time.Sleep(5 * time.Second)
		if got := r.Stats(); got.Down != 1 {
			t.Fatalf("%d servers down, want the first", got.Down)
		}
		recovered.Store(true)
		time.Sleep(5 * time.Second)
		if n := preferred.Load(); n < 200 || r.Stats().Pending == 0 {
			t.Errorf("the preferred server was asked %d times in 5 s, want nearly 100 a second; %d pending", n, r.Stats().Pending)
		}
	})
}

// Dropped addresses are not remembered: an unknown address is reported as dropped while its queue is full, and for
// droppedLife after it had room again. The queue of special-use addresses is another.
func TestAnUnknownAddressCountsAsDroppedForAWhile(t *testing.T) {
	c := unverified()
	c.PrivateServers, c.Queue, c.InFlight = []string{"10.0.0.53:53"}, 4, 1
	unknown, private := netip.MustParseAddr("9.9.9.200"), netip.MustParseAddr("10.9.9.9")
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &script{answer: func(name string, _ uint16, _ string) (*dns.Msg, error) {
			<-release
			return zone(name + " 300 PTR www.example.com.")
		}}
		r, err := newResolver(c, s)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		r.Want(publicAddress(0))
		synctest.Wait() // in flight
		for n := range uint32(4) {
			r.Want(publicAddress(1 + n))
		}
		expect(t, r, unknown, unnamed) // full, but nothing was dropped
		r.Want(publicAddress(100))
		expect(t, r, unknown, status(flowpb.NameStatus_NAME_STATUS_DROPPED))
		expect(t, r, private, unnamed)
		time.Sleep(time.Hour) // the server does not answer: still full
		expect(t, r, unknown, status(flowpb.NameStatus_NAME_STATUS_DROPPED))
		close(release)
		synctest.Wait()
		time.Sleep(droppedLife - time.Second)
		expect(t, r, unknown, status(flowpb.NameStatus_NAME_STATUS_DROPPED))
		time.Sleep(2 * time.Second)
		expect(t, r, unknown, unnamed)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
