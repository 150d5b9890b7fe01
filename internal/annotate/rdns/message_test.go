package rdns

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// packed returns the response to a question with records in master file form.
func packed(t testing.TB, q *question, rcode int, records ...string) []byte {
	t.Helper()
	m, err := zone(records...)
	if err != nil {
		t.Fatal(err)
	}
	m.SetQuestion(q.name.String(), uint16(q.kind))
	m.Response, m.Id, m.Rcode = true, 7, rcode
	m.SetEdns0(maxUDPPayload, false)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Queries are what another library makes of the same question (RFC 1035, RFC 3596, RFC 6891).
func TestQueriesAreThoseOfAnotherLibrary(t *testing.T) {
	for _, text := range []string{"93.184.216.34", "0.0.0.1", "255.255.255.255", "2606:4700::1111", "::", "2001:db8:1234:5678:9abc:def0:fedc:ba98"} {
		a := netip.MustParseAddr(text)
		arpa, err := dns.ReverseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		longest := strings.Repeat(strings.Repeat("a", 62)+".", 4) + "b"
		kind := dns.TypeAAAA
		if a.Is4() {
			kind = dns.TypeA
		}
		for _, tt := range []struct {
			q    *question
			name string
			kind uint16
		}{
			{reverseQuestion(a), arpa, dns.TypePTR},
			{addressQuestion("www.example.com", a), "www.example.com.", kind},
			{addressQuestion(longest, a), longest + ".", kind},
			{&rootQuestion, ".", dns.TypeNS},
		} {
			got := appendQuery(nil, 4711, tt.q)
			m := new(dns.Msg).SetQuestion(tt.name, tt.kind).SetEdns0(maxUDPPayload, false)
			m.Id = 4711
			want, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s %s: got % x, want % x", tt.name, dns.TypeToString[tt.kind], got, want)
			}
		}
	}
}

// A response must have the id, the QR bit and the question of the query (RFC 5452 section 9.1); else it is passed over.
func TestAResponseToAnotherQueryIsPassedOver(t *testing.T) {
	q := reverseQuestion(host)
	good := packed(t, q, 0, hostArpa+" 300 PTR www.example.com.")
	if r, err := parseReply(good, 7, q); err != nil || !slices.Equal(r.targets, []string{"www.example.com."}) {
		t.Fatalf("the response: %+v, %v", r, err)
	}
	query := slices.Clone(good)
	query[2] &^= 0x80 // QR
	other := reverseQuestion(netip.MustParseAddr("93.184.216.35"))
	forward := &question{name: q.name, kind: dnsmessage.TypeA}
	upper := bytes.Replace(good, []byte("in-addr"), []byte("IN-Addr"), 1)
	for _, tt := range []struct {
		name    string
		message []byte
		id      uint16
		q       *question
		want    error
	}{
		{"another id", good, 8, q, errOther},
		{"a query", query, 7, q, errOther},
		{"another name", good, 7, other, errOther},
		{"another type", good, 7, forward, errOther},
		{"the name in capitals (RFC 4343)", upper, 7, q, nil},
		{"no header", good[:11], 7, q, errOther},
		{"a cut question", good[:20], 7, q, errOther},
		{"a cut answer", good[:len(good)-20], 7, q, errFormat},
	} {
		if _, err := parseReply(tt.message, tt.id, tt.q); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

// BADVERS (16) is NOERROR to whoever does not look at the extended RCODE (RFC 6891 section 6.1.3).
func TestTheRCODEIsExtended(t *testing.T) {
	q := reverseQuestion(host)
	r, err := parseReply(packed(t, q, dns.RcodeBadVers), 7, q)
	if err != nil || r.rcode != dns.RcodeBadVers {
		t.Errorf("RCODE %d, %v; want 16", r.rcode, err)
	}
}

// reference reads a response by another library.
func reference(m *dns.Msg, q *question) reply {
	r := reply{rcode: dnsmessage.RCode(m.Rcode), ttl: maxTTL, negative: minTTL}
	owner := m.Question[0].Name
	for range maxCNAMEs {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, owner) || h.Class != dns.ClassINET || h.Rdlength == 0 {
				continue
			}
			switch rr := rr.(type) {
			case *dns.PTR:
				if q.kind == dnsmessage.TypePTR {
					r.targets = append(r.targets, rr.Ptr)
					r.ttl = min(r.ttl, seconds(h.Ttl))
				}
			case *dns.A:
				if q.kind == dnsmessage.TypeA {
					a, _ := netip.AddrFromSlice(rr.A)
					r.contains = r.contains || a.Unmap() == q.address
					r.ttl = min(r.ttl, seconds(h.Ttl))
					next = "-"
				}
			case *dns.CNAME:
				if next == "" {
					next = rr.Target
					r.ttl = min(r.ttl, seconds(h.Ttl))
				}
			}
		}
		if len(r.targets) > 0 || next == "" || next == "-" {
			break
		}
		owner = next
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Rdlength > 0 {
			r.negative = clamp(seconds(min(soa.Hdr.Ttl, soa.Minttl)), maxNegative)
			break
		}
	}
	return r
}

// opts returns the number of OPT records.
func opts(m *dns.Msg) (n int) {
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n
}

// FuzzReply reads any response: nothing panics, lives are within their limits, and what another library can read says
// the same to it.
func FuzzReply(f *testing.F) {
	q := reverseQuestion(host)
	for _, records := range [][]string{
		{hostArpa + " 300 PTR www.example.com.", hostArpa + " 20 PTR example.com."},
		{hostArpa + " 120 CNAME 34.32/27.216.184.93.in-addr.arpa.", "34.32/27.216.184.93.in-addr.arpa. 900 PTR www.example.com."},
		{hostArpa + " 300 CNAME " + hostArpa},
		{"184.93.in-addr.arpa. 4294967295 SOA ns. host. 1 7200 900 1209600 0"},
		{hostArpa + ` 0 PTR \000\255.example.com.`},
		{hostArpa + ` 60 PTR a\.b.example.com.`, hostArpa + " 60 PTR good.example.com."},
		{`a\.b.example.com. 60 PTR bad.example.com.`, hostArpa + " 60 PTR good.example.com."},
	} {
		f.Add(packed(f, q, 0, records...))
	}
	f.Add(packed(f, q, dns.RcodeBadVers))
	// A CNAME without RDATA, before a PTR of the root: found by fuzzing.
	f.Add([]byte("\x00\a\x810\x00\x01\x00\x02\x00\x0000\x0234\x03216\x03184\x0293\ain-Addr\x04ArpA\x00\x00\f\x00\x01\x0234\x03216" +
		"\x03184\x0293\ain-Addr\x04ArpA\x00\x00\x05\x00\x010000\x00\x00\x00\x00\f\x00\x010000\x00\x00\x00\x00)000000\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1 {
			b[0], b[1] = 0, 7
		}
		got, err := parseReply(b, 7, q)
		if err != nil || got.truncated {
			return
		}
		if ttl := clamp(got.ttl, maxTTL); ttl < minTTL || ttl > maxTTL || got.negative < minTTL || got.negative > maxNegative {
			t.Errorf("lives of %v and %v", ttl, got.negative)
		}
		names := candidates(got.targets, true)
		for _, n := range names {
			if _, ok := dns.IsDomainName(n); !ok {
				t.Errorf("%q is a name, but not to DNS", n)
			}
		}
		m := new(dns.Msg)
		if m.Unpack(b) != nil || len(m.Question) != 1 {
			return
		}
		want := reference(m, q)
		if opts(m) > 1 { // malformed (RFC 6891 section 6.1.1): the other library takes the last
			want.rcode = got.rcode
		}
		if diff := cmp.Diff(candidates(want.targets, true), names); diff != "" {
			t.Errorf("names: (-want +got)\n%s", diff)
		}
		if len(got.targets) != len(want.targets) || got.negative != want.negative || got.rcode != want.rcode || got.ttl != want.ttl {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// Each reply of a chain of CNAMEs is read anew from its beginning, maxCNAMEs times at most: the greatest message costs
// a bounded number of records, and the chain ends without a name.
func TestAChainOfCNAMEsIsBounded(t *testing.T) {
	q := reverseQuestion(host)
	records := []string{hostArpa + " 60 CNAME " + chain(0)}
	for i := range 40 {
		records = append(records, dns.Fqdn("c"+string(rune('a'+i%26))+".example.com")+" 60 CNAME c.example.com.")
	}
	for i := range maxCNAMEs {
		records = append(records, chain(i)+" 60 CNAME "+chain(i+1))
	}
	records = append(records, chain(maxCNAMEs)+" 60 PTR far.example.com.")
	r, err := parseReply(packed(t, q, 0, records...), 7, q)
	if err != nil || len(r.targets) != 0 || r.ttl != time.Minute {
		t.Errorf("got %+v, %v; want no name", r, err)
	}
}

func chain(i int) string {
	return "c" + string(rune('0'+i/10)) + string(rune('0'+i%10)) + ".example.com."
}
