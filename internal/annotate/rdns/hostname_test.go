package rdns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var hostnameTests = []struct {
	name    string
	target  string
	private bool
	want    string // "": refused
}{
	{"an ordinary name", "web.example.com.", false, "web.example.com"},
	{"upper case becomes lower", "WEB.Example.COM.", false, "web.example.com"},
	{"no dot at the end", "web.example.com", false, "web.example.com"},
	{"underscore as service names have it", "_sip._tcp.example.com.", false, "_sip._tcp.example.com"},
	{"punycode stays punycode", "xn--80ak6aa92e.com.", false, "xn--80ak6aa92e.com"},
	{"digits in front", "4-3-2-1.isp.net.", false, "4-3-2-1.isp.net"},
	{"markup", "<script>alert(1)</script>.evil.com.", false, ""},
	{"terminal escape, as presentation form writes it", `\000\027[31mred.evil.com.`, false, ""},
	{"terminal escape, raw", "\x1b[31mred.evil.com.", false, ""},
	{"an escaped dot", `a\.b.evil.com.`, false, ""},
	{"octets above ASCII", "münchen.example.com.", false, ""},
	{"right-to-left override", "\u202egpj.example.com.", false, ""},
	{"Kelvin sign, which lower-cases to k", "\u212aey.example.com.", false, ""},
	{"an address", "8.8.8.8.", false, ""},
	{"the last label numeric", "host.123.", false, ""},
	{"a space", "a b.example.com.", false, ""},
	{"root", ".", false, ""},
	{"nothing", "", false, ""},
	{"one label", "router.", false, ""},
	{"an empty label", "a..example.com.", false, ""},
	{"label begins with a hyphen", "-a.example.com.", false, ""},
	{"label ends with a hyphen", "a-.example.com.", false, ""},
	{"label of 63 octets", strings.Repeat("a", 63) + ".example.com.", false, strings.Repeat("a", 63) + ".example.com"},
	{"label of 64 octets", strings.Repeat("a", 64) + ".example.com.", false, ""},
	{"253 octets", strings.Repeat("abcdefg.", 31) + "hello.", false, strings.Repeat("abcdefg.", 31) + "hello"},
	{"254 octets", strings.Repeat("abcdefg.", 31) + "hellos.", false, ""},
	{"localhost", "localhost.", false, ""},
	{"localhost of a private resolver", "localhost.", true, ""},
	{"below localhost", "www.localhost.", true, ""},
	{"looks like localhost", "mylocalhost.example.com.", false, "mylocalhost.example.com"},
	{"test from a public resolver", "web.example.test.", false, ""},
	{"test from a private resolver", "web.example.test.", true, "web.example.test"},
	{"local from a public resolver", "printer.local.", false, ""},
	{"home.arpa from a public resolver", "nas.home.arpa.", false, ""},
	{"home.arpa from a private resolver", "nas.home.arpa.", true, "nas.home.arpa"},
	{"the zone itself", "home.arpa.", false, ""},
	{"a reverse name", "4.3.2.1.in-addr.arpa.", false, ""},
	{"ends like a special name", "contest.com.", false, "contest.com"},
}

func TestHostnameRefusesWhatIsNotAHostName(t *testing.T) {
	for _, tt := range hostnameTests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := hostname(tt.target, tt.private)
			if ok != (tt.want != "") || got != tt.want {
				t.Errorf("hostname(%q, %v) = %q, %v; want %q", tt.target, tt.private, got, ok, tt.want)
			}
		})
	}
}

func TestCandidatesDoNotDependOnTheOrderOfTheAnswer(t *testing.T) {
	in := []string{"bb.example.com.", "long.name.example.com.", "<b>.example.com.", "aa.example.com.", "AA.example.com."}
	want := []string{"aa.example.com", "bb.example.com", "long.name.example.com"}
	for range in {
		in = append(in[1:], in[0])
		if diff := cmp.Diff(want, candidates(in, false)); diff != "" {
			t.Errorf("candidates(%q): (-want +got)\n%s", in, diff)
		}
	}
}

func FuzzHostname(f *testing.F) {
	for _, tt := range hostnameTests {
		f.Add(tt.target, tt.private)
	}
	f.Fuzz(func(t *testing.T, target string, private bool) {
		got, ok := hostname(target, private)
		if !ok {
			if got != "" {
				t.Fatalf("refused, but gives %q", got)
			}
			return
		}
		if len(got) > 253 || !strings.Contains(got, ".") {
			t.Fatalf("%q is not a host name of several labels", got)
		}
		for _, c := range []byte(got) {
			if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", rune(c)) {
				t.Fatalf("%q holds octet %#x", got, c)
			}
		}
		if _, err := netip.ParseAddr(got); err == nil {
			t.Fatalf("%q is an address", got)
		}
		if !strings.EqualFold(got, strings.TrimSuffix(target, ".")) {
			t.Fatalf("%q became %q", target, got)
		}
		if again, ok := hostname(got, private); !ok || again != got {
			t.Fatalf("%q is not accepted as it is given: %q", got, again)
		}
		if !private && slices.ContainsFunc(specialNames, func(z string) bool { return strings.HasSuffix("."+got, "."+z) }) {
			t.Fatalf("%q comes from a public zone", got)
		}
	})
}
