package demo

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

//go:embed zone.txt
var demoZone string

// A NameServer answers queries for names and addresses of a zone over UDP, on a free port of 127.0.0.1.
type NameServer struct {
	names map[netip.Addr]string   // fully qualified names
	addrs map[string][]netip.Addr // by fully qualified name
	srv   *dns.Server
	Addr  string // host:port
	ended chan error
}

// StartNameServer serves a zone until Close. A line of the zone holds a name and an address; ';' begins a comment.
func StartNameServer(zone string) (*NameServer, error) {
	s := &NameServer{names: map[netip.Addr]string{}, addrs: map[string][]netip.Addr{}, ended: make(chan error, 1)}
	for i, line := range strings.Split(zone, "\n") {
		line, _, _ = strings.Cut(line, ";")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 2 {
			return nil, fmt.Errorf("demo zone, line %d: %q: want a name and an address", i+1, line)
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			return nil, fmt.Errorf("demo zone, line %d: %w", i+1, err)
		}
		name := dns.Fqdn(f[0])
		s.names[a] = name
		s.addrs[name] = append(s.addrs[name], a)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("name server of the demo: %w", err)
	}
	s.Addr = pc.LocalAddr().String()
	started := make(chan struct{})
	s.srv = &dns.Server{PacketConn: pc, Handler: s, NotifyStartedFunc: func() { close(started) }}
	go func() { s.ended <- s.srv.ActivateAndServe() }()
	select {
	case <-started:
		return s, nil
	case err := <-s.ended:
		return nil, errors.Join(fmt.Errorf("name server of the demo: %w", err), pc.Close())
	}
}

// ServeDNS implements dns.Handler.
func (s *NameServer) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	reply := new(dns.Msg).SetReply(m)
	reply.Authoritative = true
	if len(m.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		_ = w.WriteMsg(reply) // the client asks again
		return
	}
	q := m.Question[0]
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 300}
	known := false
	for a, name := range s.names {
		arpa, err := dns.ReverseAddr(a.String())
		if err != nil || !strings.EqualFold(arpa, q.Name) {
			continue
		}
		known = true
		if q.Qtype == dns.TypePTR {
			reply.Answer = append(reply.Answer, &dns.PTR{Hdr: head, Ptr: name})
		}
	}
	for _, a := range s.addrs[strings.ToLower(q.Name)] {
		known = true
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			reply.Answer = append(reply.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	if !known {
		reply.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(reply) // the client asks again
}

// Close stops the server.
func (s *NameServer) Close() error {
	err := s.srv.Shutdown()
	return errors.Join(err, <-s.ended)
}
