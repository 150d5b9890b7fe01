package rdns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzReply reads whatever a server may send: nothing panics, and no answer is
// in force for less than a minute or more than a day.
func FuzzReply(f *testing.F) {
	for _, records := range [][]string{
		{hostArpa + " 300 PTR www.example.com."},
		{hostArpa + " 120 CNAME 34.32/27.216.184.93.in-addr.arpa.", "34.32/27.216.184.93.in-addr.arpa. 900 PTR www.example.com."},
		{hostArpa + " 300 CNAME " + hostArpa},
		{"184.93.in-addr.arpa. 4294967295 SOA ns. host. 1 7200 900 1209600 0"},
		{hostArpa + ` 0 PTR \000\255.example.com.`},
	} {
		m, err := zone(records...)
		if err != nil {
			f.Fatal(err)
		}
		m.SetQuestion(hostArpa, dns.TypePTR)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil || len(m.Question) != 1 {
			return // the transport refuses it
		}
		list, ttl := ptrTargets(m)
		if ttl = clamp(ttl, maxTTL); ttl < minTTL || ttl > maxTTL {
			t.Errorf("in force for %v", ttl)
		}
		if ttl := negativeTTL(m); ttl < minTTL || ttl > maxNegative {
			t.Errorf("negative in force for %v", ttl)
		}
		for _, n := range candidates(list, true) {
			if _, ok := dns.IsDomainName(n); !ok {
				t.Errorf("%q is a name, but not to DNS", n)
			}
		}
		if ok, _ := containsAddress(m, netip.Addr{}); ok {
			t.Error("holds no address")
		}
	})
}
