//go:build synctests

package simulation

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"weir/internal/annotate/rdns"
	"weir/pkg/flowpb"
)

// namesProfile has failing name servers, and members that come and go. Names must be found again once the
// servers answer.
var namesProfile = profile{
	name: "names", class: exact, share: 1,
	setup: func(rng *rand.Rand) setup {
		s := usualSetup(rng)
		s.Names = true
		return s
	},
	weight: []weighted{{24, drawTraffic}, {6, drawNameFault}, {1, drawStart}, {1, drawStop}, {1, drawKill}, {3, drawSilence}},
}

const findNames = "names" // a name or its status is wrong, does not come back, or a report waited for it

// A nameFault is a fault of the name servers that lasts for a while.
type nameFault struct {
	What nameFailure
	For  time.Duration
}

type nameFailure int

const (
	namesSound       nameFailure = iota
	namesSilent                  // no answer
	namesSlow                    // answers after 0.5 to 4 s: some are late
	namesServfail                //
	namesRefused                 //
	namesForged                  // false answers, with another id or question, come before the true one
	namesTruncated               // answers do not fit into a datagram
	namesUnreachable             // no route
	nameFailures
)

func drawNameFault(rng *rand.Rand) action {
	return nameFault{1 + nameFailure(rng.IntN(int(nameFailures)-1)), duration(rng, 40*time.Second)}
}

func (a nameFault) String() string {
	return fmt.Sprintf("name servers are %s for %v", [nameFailures]string{"sound", "silent", "slow", "failing", "refusing", "forged", "truncating", "unreachable"}[a.What], a.For)
}

func (a nameFault) run(w *world, _ *rand.Rand) {
	r := w.resolver
	r.mu.Lock()
	r.fault, r.faults = a.What, r.faults+1
	now := r.faults
	r.mu.Unlock()
	w.after(a.For, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.faults == now {
			r.fault = namesSound
		}
	})
}

// nameServers simulates the name servers of all members.
type nameServers struct {
	mu     sync.Mutex // guards the fields below
	rng    *rand.Rand // draws the delay of answers
	fault  nameFailure
	faults int // so far
}

// streamNames is the number of the random stream of the name servers.
const streamNames = 101

func newNameServers(seed uint64) *nameServers {
	return &nameServers{rng: rand.New(rand.NewPCG(seed, streamNames))}
}

// config returns the resolver settings of a member.
func (r *nameServers) config(h *host) rdns.Config {
	if r == nil {
		return rdns.Config{Enabled: false}
	}
	servers := []string{"192.0.2.53:53", "192.0.2.54:53"}
	return rdns.Config{
		Enabled: true, Servers: servers, PrivateServers: servers, Verify: true, Timeout: 2 * time.Second, Rate: 500, InFlight: 16, Queue: 1000, CacheSize: 10_000,
		Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
			h.mu.Lock()
			cut := h.refuse
			h.mu.Unlock()
			r.mu.Lock()
			defer r.mu.Unlock()
			if cut || r.fault == namesUnreachable {
				return nil, errCut
			}
			c := &nameConn{servers: r, stream: network == "tcp", replies: make(chan []byte, 8), closed: make(chan struct{})}
			if c.stream {
				return c, nil
			}
			return namePacketConn{c}, nil
		},
	}
}

// nameOf returns the content of the zones for an address.
func nameOf(a netip.Addr) rdns.Answer {
	b := a.As4()
	switch {
	case a.IsMulticast():
		return rdns.Answer{Status: flowpb.NameStatus_NAME_STATUS_SUPPRESSED}
	case b[3]%4 == 3:
		return rdns.Answer{Status: flowpb.NameStatus_NAME_STATUS_NXDOMAIN}
	case b[0] == 198 && b[3] == 2:
		return rdns.Answer{Status: flowpb.NameStatus_NAME_STATUS_NODATA}
	}
	return rdns.Answer{
		Name: fmt.Sprintf("h%d.%d.%d.%d.example.test", b[0], b[1], b[2], b[3]), Status: flowpb.NameStatus_NAME_STATUS_OK,
		Verified: b[3]%4 != 2, Source: flowpb.NameSource_NAME_SOURCE_PTR,
	}
}

// addressIn returns the address in the name of a question: that of a PTR, or a name of nameOf.
func addressIn(q string) (netip.Addr, bool) {
	labels := strings.Split(q, ".")
	if len(labels) < 4 {
		return netip.Addr{}, false
	}
	labels = labels[:4]
	if strings.HasSuffix(q, ".in-addr.arpa.") {
		labels[0], labels[1], labels[2], labels[3] = labels[3], labels[2], labels[1], labels[0]
	}
	a, err := netip.ParseAddr(strings.TrimPrefix(strings.Join(labels, "."), "h"))
	return a, err == nil
}

// answer returns the true reply to a question.
func answer(m *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(m)
	q := m.Question[0]
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
	if q.Name == "." {
		reply.Answer = []dns.RR{&dns.NS{Hdr: header, Ns: "ns.example.test."}}
		return reply
	}
	a, ok := addressIn(q.Name)
	if !ok {
		return reply.SetRcode(m, dns.RcodeNameError)
	}
	is := nameOf(a)
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: "example.test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.example.test.", Mbox: "a.example.test.", Minttl: 60}
	switch {
	case is.Status == flowpb.NameStatus_NAME_STATUS_NXDOMAIN:
		reply.SetRcode(m, dns.RcodeNameError)
		reply.Ns = []dns.RR{soa}
	case is.Status == flowpb.NameStatus_NAME_STATUS_NODATA:
		reply.Ns = []dns.RR{soa}
	case q.Qtype == dns.TypePTR:
		reply.Answer = []dns.RR{&dns.PTR{Hdr: header, Ptr: is.Name + "."}}
	case is.Verified:
		reply.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IP(a.AsSlice())}}
	default:
		reply.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 99)}}
	}
	return reply
}

// forged returns a false answer: with another ID, or to another question.
func forged(m *dns.Msg, id bool) *dns.Msg {
	reply := new(dns.Msg).SetReply(m)
	q := m.Question[0]
	if id {
		reply.Id++
	} else {
		reply.Question = []dns.Question{{Name: "forged.example.test.", Qtype: q.Qtype, Qclass: q.Qclass}}
	}
	reply.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: 60}, Ptr: "forged.example.test."}}
	return reply
}

// ask answers a question received over c.
func (r *nameServers) ask(c *nameConn, m *dns.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	after := time.Duration(1+r.rng.IntN(30)) * time.Millisecond
	reply := answer(m)
	switch r.fault {
	case namesSilent, namesUnreachable:
		return
	case namesSlow:
		after = 500*time.Millisecond + time.Duration(r.rng.IntN(3500))*time.Millisecond
	case namesServfail:
		reply = new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
	case namesRefused:
		reply = new(dns.Msg).SetRcode(m, dns.RcodeRefused)
	case namesForged:
		c.deliver(0, forged(m, true))
		if r.rng.IntN(4) == 0 {
			c.deliver(0, forged(m, false))
		}
	case namesTruncated:
		if !c.stream {
			reply.Answer, reply.Truncated = nil, true
		}
	case namesSound, nameFailures:
	}
	c.deliver(after, reply)
}

// A nameConn is a socket to a name server: a connected UDP socket, or a stream.
type nameConn struct {
	servers *nameServers
	stream  bool
	replies chan []byte
	rest    []byte // of a reply that was read in part
	closed  chan struct{}
	once    sync.Once

	mu       sync.Mutex
	deadline time.Time // of Read
}

func (c *nameConn) deliver(after time.Duration, m *dns.Msg) {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	if c.stream {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	time.AfterFunc(after, func() {
		select {
		case c.replies <- b:
		default:
		}
	})
}

// Write implements net.Conn. p must be a single question.
func (c *nameConn) Write(p []byte) (int, error) {
	m, octets := new(dns.Msg), p
	if c.stream {
		octets = p[2:]
	}
	if err := m.Unpack(octets); err != nil {
		return 0, err
	}
	c.servers.ask(c, m)
	return len(p), nil
}

// Read implements net.Conn.
func (c *nameConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		c.mu.Lock()
		deadline := c.deadline
		c.mu.Unlock()
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		select {
		case c.rest = <-c.replies:
		case <-c.closed:
			return 0, net.ErrClosed
		case <-t.C:
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; !c.stream {
		c.rest = nil
	}
	return n, nil
}

// Close implements net.Conn.
func (c *nameConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// LocalAddr implements net.Conn.
func (c *nameConn) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 50000} }

// RemoteAddr implements net.Conn.
func (c *nameConn) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 53), Port: 53} }

// SetDeadline implements net.Conn.
func (c *nameConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn: a Write does not wait.
func (c *nameConn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *nameConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

// A namePacketConn is a nameConn of UDP: the resolver's library looks for a net.PacketConn.
type namePacketConn struct{ *nameConn }

var errConnected = errors.New("the socket is connected")

// ReadFrom implements net.PacketConn.
func (namePacketConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errConnected }

// WriteTo implements net.PacketConn.
func (namePacketConn) WriteTo([]byte, net.Addr) (int, error) { return 0, errConnected }

// namesReturn is the time within which names are looked up again after failures of servers and zones.
const namesReturn = 6 * time.Minute

// returnPort marks the conversations that must have names.
const returnPort = 50000

// settle ends all faults of name servers, waits until all names may be looked up again, and opens connections
// of all hosts.
func (r *nameServers) settle(w *world) {
	r.mu.Lock()
	r.fault, r.faults = namesSound, r.faults+1
	r.mu.Unlock()
	if w.plan.Profile.name != namesProfile.name {
		return
	}
	time.Sleep(namesReturn)
	w.openAll(returnPort - 1) // for a zone that was silent, a single address is looked up first
	time.Sleep(30 * time.Second)
	w.openAll(returnPort)
}

// openAll sends flows of all hosts.
func (w *world) openAll(port uint32) {
	for n := range uint64(12) {
		received := time.Now()
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{10, 0, 0, byte(n)}, DstAddr: []byte{198, 51, 100, byte(n % 3)}, SrcPort: port, DstPort: 443, Proto: 17,
			SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 100, Packets: 1, SamplingRate: 1, TimeResolutionUs: 1000, DatagramHash: uint64(port)<<8 | n,
			TimeReceivedNs: uint64(received.UnixNano()), TimeExportNs: uint64(received.UnixNano()),
		}
		times(m, received.Add(-time.Second), received)
		w.send(m)
	}
	if err := w.client.Flush(w.ctx); err != nil {
		panic(err)
	}
}

// reportWithin is the time after its deadline within which a connection must be reported when only names and
// members fail.
const reportWithin = 30 * time.Second

// judge compares the names in a report with the zones.
func (r *nameServers) judge(w *world, c report) {
	for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
		a, ok := netip.AddrFromSlice(e.GetAddress())
		if !ok {
			continue
		}
		want := nameOf(a.Unmap())
		got := rdns.Answer{Name: e.Name, Status: e.NameStatus, Verified: e.NameVerified, Source: e.NameSource}
		again := c.Responder.GetPort() == returnPort || c.Initiator.GetPort() == returnPort
		unverified := want
		unverified.Verified = false
		switch got.Status {
		case flowpb.NameStatus_NAME_STATUS_UNSPECIFIED, flowpb.NameStatus_NAME_STATUS_PENDING, flowpb.NameStatus_NAME_STATUS_TIMEOUT, flowpb.NameStatus_NAME_STATUS_SERVFAIL:
			if got.Name != "" || got.Verified || got.Source != 0 || again {
				w.find(findNames, "%v: %+v, want %+v (%s)", a, got, want, c.at)
			}
		default:
			if got != want && (again || got != unverified) {
				w.find(findNames, "%v: %+v, want %+v (%s)", a, got, want, c.at)
			}
		}
	}
	waited := time.Duration(c.EmittedUnixNs - c.FirstReceivedUnixNs)
	single := c.Forward.GetRecords()+c.Reverse.GetRecords() == 1
	if w.plan.Profile.name == namesProfile.name && single && waited > w.pairing.Idle+reportWithin {
		w.find(findNames, "connection %x was reported %v after its only record (%s)", c.ConnectionId, waited, c.at)
	}
}
