package rdns

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"weir/pkg/flowpb"
)

// A result is the outcome of the lookup of an address.
type result struct {
	answer Answer
	ttl    time.Duration // life of the answer; 0 for a failure
	retry  time.Duration // of a failure without a query: time until its zone may be asked; else 0
}

// failed reports whether the lookup gave no answer, in contrast to a known absence of a name.
func (r result) failed() bool {
	return r.answer.Status == flowpb.NameStatus_NAME_STATUS_SERVFAIL ||
		r.answer.Status == flowpb.NameStatus_NAME_STATUS_TIMEOUT
}

// followCNAMEs follows the CNAMEs of a reply from its question (RFC 2317 delegates reverse zones by them) and
// returns the records of the wanted type at the end, with the least TTL on the way.
func followCNAMEs(reply *dns.Msg) (records []dns.RR, ttl time.Duration) {
	owner, kind := reply.Question[0].Name, reply.Question[0].Qtype
	ttl = maxTTL
	for range 16 { // bounds a loop of CNAMEs
		next := ""
		for _, rr := range reply.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, owner) || h.Class != dns.ClassINET {
				continue
			}
			switch cname, ok := rr.(*dns.CNAME); {
			case h.Rrtype == kind:
				records = append(records, rr)
				ttl = min(ttl, seconds(h.Ttl))
			case ok && next == "":
				next = cname.Target
				ttl = min(ttl, seconds(h.Ttl))
			}
		}
		if len(records) > 0 || next == "" {
			break
		}
		owner = next
	}
	return records, ttl
}

// ptrTargets returns the targets of the PTR records of a reply.
func ptrTargets(reply *dns.Msg) (list []string, ttl time.Duration) {
	records, ttl := followCNAMEs(reply)
	for _, rr := range records {
		if ptr, ok := rr.(*dns.PTR); ok {
			list = append(list, ptr.Ptr)
		}
	}
	return list, ttl
}

// containsAddress reports whether the address records of a reply contain a.
func containsAddress(reply *dns.Msg, a netip.Addr) (ok bool, ttl time.Duration) {
	records, ttl := followCNAMEs(reply)
	for _, rr := range records {
		var ip []byte
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if b, valid := netip.AddrFromSlice(ip); valid && b.Unmap() == a {
			return true, ttl
		}
	}
	return false, ttl
}

// negativeTTL returns the life of a missing name: the lesser of the SOA's TTL and its minimum (RFC 2308 section
// 5).
func negativeTTL(reply *dns.Msg) time.Duration {
	for _, rr := range reply.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return clamp(seconds(min(soa.Hdr.Ttl, soa.Minttl)), maxNegative)
		}
	}
	return minTTL
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func clamp(d, most time.Duration) time.Duration { return max(minTTL, min(d, most)) }
