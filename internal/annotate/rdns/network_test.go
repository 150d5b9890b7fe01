package rdns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"weir/pkg/flowpb"
)

// serve answers on a free port, over UDP and TCP, until the test ends.
func serve(t *testing.T, h dns.HandlerFunc) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: h}, {PacketConn: pc, Handler: h}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Errorf("name server: %v", err)
			}
			if err := <-ended; err != nil {
				t.Errorf("name server: %v", err)
			}
		})
	}
	return l.Addr().String()
}

// ask runs a Resolver against addr until every address has an answer.
func ask(t *testing.T, addr string, verify bool, addrs ...string) map[string]Answer {
	t.Helper()
	c := testConfig()
	c.Servers, c.PrivateServers, c.Verify = []string{addr}, []string{addr}, verify
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	got := map[string]Answer{}
	for _, a := range addrs {
		r.Want(netip.MustParseAddr(a))
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(got) < len(addrs) {
		select {
		case <-ctx.Done():
			t.Fatalf("no answer in time; known: %v", got)
		case <-tick.C:
		}
		for _, a := range addrs {
			if ans := r.Peek(netip.MustParseAddr(a)); ans.Status != flowpb.NameStatus_NAME_STATUS_PENDING {
				got[a] = ans
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	return got
}

// hostile is a reverse zone of everything that people put there.
var hostile = map[string][]string{
	"192.0.2.10": {"web.example.test."},
	"192.0.2.11": {`<script>alert\(1\)</script>.evil.test.`},
	"192.0.2.12": {`\000\027[31mred.test.`},
	"192.0.2.13": {"8.8.8.8."},
	"192.0.2.14": {"localhost."},
	"192.0.2.15": {"xn--80ak6aa92e.com."},
	"192.0.2.16": {"zeta.example.test.", "beta.example.test."},
	"192.0.2.17": {}, // the name exists, with no PTR
}

func hostileZone(w dns.ResponseWriter, m *dns.Msg) {
	reply := new(dns.Msg).SetReply(m)
	found := false
	for addr, names := range hostile {
		arpa, _ := dns.ReverseAddr(addr)
		if !strings.EqualFold(arpa, m.Question[0].Name) {
			continue
		}
		found = true
		for _, n := range names {
			rr, err := dns.NewRR(fmt.Sprintf("%s 45 IN PTR %s", arpa, n))
			if err != nil {
				panic(err)
			}
			reply.Answer = append(reply.Answer, rr)
		}
	}
	if !found {
		reply.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(reply)
}

// hostileAnswers returns the answers that the zone must give.
func hostileAnswers() map[string]Answer {
	ok := func(name string) Answer {
		return Answer{Name: name, Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR}
	}
	return map[string]Answer{
		"192.0.2.10":        ok("web.example.test"),
		"::ffff:192.0.2.10": ok("web.example.test"),
		"192.0.2.11":        status(flowpb.NameStatus_NAME_STATUS_INVALID),
		"192.0.2.12":        status(flowpb.NameStatus_NAME_STATUS_INVALID),
		"192.0.2.13":        status(flowpb.NameStatus_NAME_STATUS_INVALID),
		"192.0.2.14":        status(flowpb.NameStatus_NAME_STATUS_INVALID),
		"192.0.2.15":        ok("xn--80ak6aa92e.com"),
		"192.0.2.16":        ok("beta.example.test"),
		"192.0.2.17":        status(flowpb.NameStatus_NAME_STATUS_NODATA),
		"192.0.2.99":        status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN),
	}
}

func TestScenario23OnlyHostNamesLeaveAHostileZone(t *testing.T) {
	want := hostileAnswers()
	want["2001:db8::99"] = status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN)
	var addrs []string
	for a := range want {
		addrs = append(addrs, a)
	}
	if diff := cmp.Diff(want, ask(t, serve(t, hostileZone), false, addrs...)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestACutReplyIsAskedForOverTCP(t *testing.T) {
	addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		if w.LocalAddr().Network() == "udp" {
			reply.Truncated = true
		} else if rr, err := dns.NewRR(m.Question[0].Name + " 60 PTR long.example.com."); err == nil {
			reply.Answer = append(reply.Answer, rr)
		}
		_ = w.WriteMsg(reply)
	})
	want := map[string]Answer{"9.9.9.9": {Name: "long.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR}}
	if diff := cmp.Diff(want, ask(t, addr, false, "9.9.9.9")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestVerificationGoesOverTheNetworkToo(t *testing.T) {
	addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		text := m.Question[0].Name + " 60 PTR nine.example.com."
		if m.Question[0].Qtype == dns.TypeA {
			text = m.Question[0].Name + " 60 A 9.9.9.9"
		}
		if rr, err := dns.NewRR(text); err == nil {
			reply.Answer = append(reply.Answer, rr)
		}
		_ = w.WriteMsg(reply)
	})
	want := map[string]Answer{
		"9.9.9.9": {Name: "nine.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Verified: true, Source: flowpb.NameSource_NAME_SOURCE_PTR},
		"9.9.9.8": {Name: "nine.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR},
	}
	if diff := cmp.Diff(want, ask(t, addr, true, "9.9.9.9", "9.9.9.8")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAReplyToAnotherQuestionIsNoAnswer(t *testing.T) {
	addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		reply.Question[0].Name = "1.1.1.1.in-addr.arpa."
		if rr, err := dns.NewRR("1.1.1.1.in-addr.arpa. 60 PTR other.example.com."); err == nil {
			reply.Answer = append(reply.Answer, rr)
		}
		_ = w.WriteMsg(reply)
	})
	want := map[string]Answer{"9.9.9.9": status(flowpb.NameStatus_NAME_STATUS_TIMEOUT)}
	if diff := cmp.Diff(want, ask(t, addr, false, "9.9.9.9")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestNoServerThereIsATimeoutAtOnce(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.LocalAddr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]Answer{"9.9.9.9": status(flowpb.NameStatus_NAME_STATUS_TIMEOUT)}
	if diff := cmp.Diff(want, ask(t, addr, false, "9.9.9.9")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A memoryServer opens in-memory sockets to a name server without any name.
type memoryServer struct {
	mu      sync.Mutex
	queries []int // by socket
	open    int
	mute    bool
	strays  int // datagrams that no query asked for, before each reply
}

// A memorySocket is one end of a socket; messages keep their boundaries.
type memorySocket struct {
	net.Conn
	server *memoryServer
	number int
	once   sync.Once
}

func (s *memoryServer) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &memorySocket{Conn: near, server: s, number: len(s.queries)}
	s.queries = append(s.queries, 0)
	s.open++
	go s.serve(c.number, far)
	return c, nil
}

func (s *memoryServer) serve(number int, far net.Conn) {
	buf := make([]byte, maxQuery)
	for {
		n, err := far.Read(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.queries[number]++
		mute, strays := s.mute, s.strays
		s.mu.Unlock()
		if mute {
			continue
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) != nil {
			continue
		}
		reply := new(dns.Msg).SetRcode(m, dns.RcodeNameError)
		other := new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
		other.Id++
		for range strays {
			if b, err := other.Pack(); err == nil {
				_, _ = far.Write(b)
			}
		}
		if b, err := reply.Pack(); err == nil {
			_, _ = far.Write(b)
		}
	}
}

func (c *memorySocket) Close() error {
	c.once.Do(func() {
		c.server.mu.Lock()
		defer c.server.mu.Unlock()
		c.server.open--
	})
	return c.Conn.Close()
}

// state returns the numbers of queries by socket, and of sockets that are open.
func (s *memoryServer) state() (queries []int, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queries), s.open
}

// withMemory runs f in a bubble of virtual time with a running Resolver over s.
func withMemory(t *testing.T, s *memoryServer, f func(t *testing.T, r *Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := testConfig()
		c.Dial = s.dial
		r, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		running(t, r, f)
		synctest.Wait()
		if _, open := s.state(); open != 0 {
			t.Errorf("%d sockets are open after Run", open)
		}
	})
}

// A port that leaks to an attacker is of use for queriesPerSocket queries and socketLife at most.
func TestASocketCarriesFewQueriesForAShortTime(t *testing.T) {
	s := &memoryServer{}
	withMemory(t, s, func(t *testing.T, r *Resolver) {
		for n := range uint32(40) { // one after the other
			r.Want(publicAddress(n))
			expect(t, r, publicAddress(n), status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN))
		}
		if queries, open := s.state(); !slices.Equal(queries, []int{16, 16, 8}) || open != 1 {
			t.Errorf("queries by socket: %v, want 16, 16, 8; %d open, want 1", queries, open)
		}
		time.Sleep(socketLife)
		r.Want(publicAddress(100))
		expect(t, r, publicAddress(100), status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN))
		if queries, open := s.state(); !slices.Equal(queries, []int{16, 16, 8, 1}) || open != 1 {
			t.Errorf("queries by socket after %v: %v, want 16, 16, 8, 1; %d open, want 1", socketLife, queries, open)
		}
		for n := range uint32(64) { // at once
			r.Want(publicAddress(200 + n))
		}
		synctest.Wait()
		if _, open := s.state(); open > idleSockets {
			t.Errorf("%d idle sockets, want %d at most", open, idleSockets)
		}
	})
}

// The reply to a query that was given up may come later: its socket must carry no other query. Run ends while a reply
// is awaited.
func TestASocketWithoutReplyIsNotUsedAgain(t *testing.T) {
	s := &memoryServer{mute: true}
	withMemory(t, s, func(t *testing.T, r *Resolver) {
		r.Want(publicAddress(1))
		expect(t, r, publicAddress(1), status(flowpb.NameStatus_NAME_STATUS_PENDING))
		time.Sleep(2 * r.config.Timeout)
		expect(t, r, publicAddress(1), status(flowpb.NameStatus_NAME_STATUS_TIMEOUT))
		r.Want(publicAddress(2))
		synctest.Wait()
		if queries, open := s.state(); !slices.Equal(queries, []int{1, 1, 1}) || open != 1 {
			t.Errorf("queries by socket: %v, want 1, 1, 1; %d open, want that of the last", queries, open)
		}
	})
}

// Datagrams that are no reply to the query are passed over, up to a limit (RFC 5452 section 9.1).
func TestStrayDatagramsArePassedOver(t *testing.T) {
	for _, tt := range []struct {
		strays int
		want   flowpb.NameStatus
	}{{strayReplies - 1, flowpb.NameStatus_NAME_STATUS_NXDOMAIN}, {strayReplies, flowpb.NameStatus_NAME_STATUS_TIMEOUT}} {
		s := &memoryServer{strays: tt.strays}
		withMemory(t, s, func(t *testing.T, r *Resolver) {
			r.Want(publicAddress(1))
			expect(t, r, publicAddress(1), status(tt.want))
		})
	}
}

// A blind guess of the id counts only while a query is open (RFC 5452 section 7.2): a datagram that arrived before the
// query must not be taken for a reply. Here the datagram is sent from the server's own address, as a forged one seems
// to be.
func TestASocketThatReceivedADatagramBetweenQueriesIsNotUsedAgain(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	clients := make(chan net.Addr, 10)
	go func() {
		for buf := make([]byte, maxQuery); ; {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			clients <- from
			buf[2] |= 0x80 // QR: the query becomes a response without records
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	address := server.LocalAddr().String()
	n := &network{}
	defer n.close()
	ask := func() net.Addr {
		t.Helper()
		q := reverseQuestion(netip.MustParseAddr("9.9.9.9"))
		if _, err := n.exchange(t.Context(), q, "udp", address, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		return <-clients
	}
	first := ask()
	if again := ask(); runtime.GOOS == "linux" && again.String() != first.String() {
		t.Errorf("second query from %v, want %v: nothing arrived in between", again, first)
	}
	if _, err := server.WriteTo([]byte("a guess"), first); err != nil {
		t.Fatal(err)
	}
	awaitDatagram(t, n.idle[address][0])
	if again := ask(); again.String() == first.String() {
		t.Errorf("query from %v, in which a datagram waited already", again)
	}
	if got := len(n.idle[address]); got != 1 {
		t.Errorf("%d idle sockets, want that of the last query", got)
	}
}

// awaitDatagram waits until a datagram has arrived in a socket, and leaves it there.
func awaitDatagram(t *testing.T, s *socket) {
	t.Helper()
	raw, err := s.Conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return err == nil
	})
	if err != nil {
		t.Fatalf("no datagram arrived: %v", err)
	}
}

// A server with a host name may have a new address every minute. The sockets to its former addresses are not reused and
// must be closed.
func TestIdleSocketsOfAFormerAddressAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &memoryServer{}
		n := &network{dial: s.dial}
		for i := range 5 {
			server := fmt.Sprintf("192.0.2.%d:53", i)
			q := reverseQuestion(publicAddress(1))
			if _, err := n.exchange(t.Context(), q, "udp", server, time.Second); err != nil {
				t.Fatal(err)
			}
			time.Sleep(socketLife)
		}
		if _, open := s.state(); open != 1 || len(n.idle) != 1 {
			t.Errorf("%d sockets are open, to %d addresses; want the last", open, len(n.idle))
		}
		n.close()
	})
}
