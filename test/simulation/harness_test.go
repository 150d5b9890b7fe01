//go:build synctests

package simulation

import (
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Resolvers also ask for the name servers of the root, and names may have 255 octets (RFC 1035 section
// 2.3.4): then the forged name with a prefix is not a valid name.
func TestEveryAnswerOfNameServersHasAWireForm(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 61)+".", 4) // 249 octets on the wire
	questions := []dns.Question{
		{Name: ".", Qtype: dns.TypeNS}, {Name: long, Qtype: dns.TypeA}, {Name: "1.0.0.10.in-addr.arpa.", Qtype: dns.TypePTR},
		{Name: "2.100.51.198.in-addr.arpa.", Qtype: dns.TypePTR}, {Name: "h10.0.0.1.example.test.", Qtype: dns.TypeA},
	}
	synctest.Test(t, func(t *testing.T) {
		for fault := range nameFailures {
			for _, q := range questions {
				r := newNameServers(uint64(fault))
				r.fault = fault
				c := &nameConn{servers: r, stream: fault == namesTruncated, replies: make(chan []byte, 100)}
				for range 20 { // forged answers are drawn at random
					r.ask(c, new(dns.Msg).SetQuestion(q.Name, q.Qtype))
				}
				time.Sleep(time.Minute)
				if n := len(c.replies); (n == 0) != (fault == namesSilent || fault == namesUnreachable) {
					t.Errorf("name servers with fault %d sent %d answers to %v", fault, n, q)
				}
			}
		}
	})
}

// Stream time of a quiet partition is the receive time of its last record plus the wall clock since then.
func TestStreamTimeOfAQuietPartitionDoesNotPassTheNextRecord(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	now := time.Unix(946684800, 0)
	var receivedBefore, before time.Time
	for i := range 1000 {
		for _, m := range (traffic{trafficKind(i) % trafficKinds, 1}).records(rng, now) {
			received := time.Unix(0, int64(m.TimeReceivedNs))
			if streamTime := receivedBefore.Add(now.Sub(before)); i > 0 && streamTime.After(received) {
				t.Fatalf("a record of %v is received at %v: stream time is %v then", now, received, streamTime)
			}
			receivedBefore, before = received, now
		}
		now = now.Add(duration(rng, 5*time.Second))
	}
}
