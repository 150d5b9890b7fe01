package exporters

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/decode"
)

const example = `
exporters:
  - address: 192.0.2.1
    name: edge-1
    site: fra
    address_plan: corp
    sampling_default: 1000
    interfaces: {1: ge-0/0/1, 2: "ge-0/0/2"}
  - address: 192.0.2.0/24
    sampling_override: 500
  - {address: 2001:db8::/32, name: 7, allow: true}
  - {address: 0.0.0.0/0, allow: false}
`

func TestTheLongestPrefixCounts(t *testing.T) {
	table, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]*Entry{
		"192.0.2.1":    {Exporter: decode.Exporter{Name: "edge-1", Site: "fra", AddressPlan: "corp", SamplingDefault: 1000, Interfaces: map[uint32]string{1: "ge-0/0/1", 2: "ge-0/0/2"}}, Of: netip.MustParsePrefix("192.0.2.1/32")},
		"192.0.2.2":    {Exporter: decode.Exporter{SamplingOverride: 500}, Of: netip.MustParsePrefix("192.0.2.0/24")},
		"198.51.100.1": {Denied: true, Of: netip.MustParsePrefix("0.0.0.0/0")},
		"2001:db8::1":  {Exporter: decode.Exporter{Name: "7"}, Of: netip.MustParsePrefix("2001:db8::/32")},
		"2001:db9::1":  nil,
	} {
		if d := cmp.Diff(want, table.Lookup(netip.MustParseAddr(addr)), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("%s (-want +got):\n%s", addr, d)
		}
	}
	if table.Lookup(netip.Addr{}) != nil {
		t.Error("no address has an entry")
	}
}

func TestEveryMistakeIsNamedWithLineAndKey(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"an unknown key and a rate of 0", "exporters:\n- address: 192.0.2.1\n  nam: x\n  sampling_default: 0\n", []string{"line 3: nam: unknown key", `line 4: sampling_default: "0"`}},
		{"no address", "exporters:\n- name: x\n", []string{"line 2: address: is missing"}},
		{"two entries of one address", "exporters:\n- address: 192.0.2.1\n- address: 192.0.2.1/32\n", []string{"line 3: address: 192.0.2.1/32 is there twice"}},
		{"bits beyond the prefix", "exporters:\n- address: 192.0.2.1/24\n", []string{"line 2: address: 192.0.2.1/24 has bits beyond its length: want 192.0.2.0/24"}},
		{"not an address", "exporters:\n- address: edge\n", []string{`line 2: address: "edge": want`}},
		{"an index that is none", "exporters:\n- address: 192.0.2.1\n  interfaces:\n    one: a\n    2: b\n", []string{`line 4: interfaces: "one"`}},
		{"allow is no yes", "exporters:\n- address: 192.0.2.1\n  allow: maybe\n", []string{"line 3: allow: maybe: want true or false"}},
		{"another top level", "hosts: []\n", []string{"line 1: hosts: unknown key"}},
		{"a list of words", "exporters: [a]\n", []string{"line 1: entry: want keys and values"}},
		{"a name that is a list", "exporters:\n- address: 192.0.2.1\n  name: [a]\n", []string{"line 3: name: want text"}},
		{"a control character", "exporters:\n- address: 192.0.2.1\n  name: \"a\\u0007\"\n", []string{"line 3: name:"}},
		{"no YAML", "exporters: [", []string{"1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if err == nil {
				t.Fatal("want an error")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("want %q in:\n%v", w, err)
				}
			}
		})
	}
}

func TestNothingSaidIsAllowed(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "exporters:\n", "exporters: []\n"} {
		if table, err := Parse([]byte(text)); err != nil || table.Len() != 0 {
			t.Errorf("%q: want an empty table, got %v, %v", text, table, err)
		}
	}
}

func TestAWrongFileLeavesTheOldOneInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exporters.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(example)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Reload(); changed || err != nil {
		t.Errorf("unchanged file: got %v, %v", changed, err)
	}
	write("exporters:\n- name: x\n")
	if changed, err := f.Reload(); changed || err == nil || !strings.Contains(err.Error(), path+": line 2: address") {
		t.Errorf("wrong file: got %v, %v", changed, err)
	}
	if f.Table().Len() != 4 {
		t.Errorf("want the previous 4 entries, got %d", f.Table().Len())
	}
	write("exporters:\n- address: 192.0.2.9\n")
	if changed, err := f.Reload(); !changed || err != nil || f.Table().Len() != 1 {
		t.Errorf("right file: got %v, %v, %d entries", changed, err, f.Table().Len())
	}
	if _, err := Open(path + ".none"); err == nil {
		t.Error("a missing file: want an error")
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	table, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr("198.51.100.1")
	if n := testing.AllocsPerRun(100, func() { table.Lookup(a) }); n != 0 {
		t.Errorf("want 0 allocations, got %v", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	table, err := Parse([]byte(example))
	if err != nil {
		b.Fatal(err)
	}
	a := netip.MustParseAddr("198.51.100.1") // of three lengths, the last
	b.ReportAllocs()
	for b.Loop() {
		table.Lookup(a)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("exporters:\n- address: 192.0.2.1\n  interfaces:\n    1: &a x\n    2: *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := Parse(text)
		if (table == nil) == (err == nil) {
			t.Errorf("table %v, error %v: want one of them", table, err)
		}
	})
}
