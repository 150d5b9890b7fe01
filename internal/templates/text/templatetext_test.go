package text

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/decode"
	"weir/internal/ipfix"
)

func some() []Entry {
	return []Entry{
		{netip.MustParseAddr("192.0.2.1"), 9, 7, decode.Template{ID: 256, Fields: []decode.Field{{ID: 8, Length: 4}, {ID: 40001, Length: 2}}}},
		{netip.MustParseAddr("2001:db8::1"), 10, 1 << 31, decode.Template{ID: 65535, Fields: []decode.Field{{PEN: 29305, ID: 1, Length: 8}, {ID: 82, Length: ipfix.VarLen}, {PEN: 4294967295, ID: 9, Length: 1}}}},
		{netip.Addr{}, 9, 0, decode.Template{ID: 257, Options: true, Scopes: 1, Fields: []decode.Field{{ID: 2, Length: 4}, {ID: 34, Length: 4}}}},
	}
}

const text = `template 256, version 9, domain 7 of 192.0.2.1
         8                  4  sourceIPv4Address
         40001              2  NF_F_XLATE_SRC_ADDR_IPV4
template 65535, version 10, domain 2147483648 of 2001:db8::1
         29305/1            8  reverseOctetDeltaCount
         82          variable  interfaceName
         4294967295/9        1  ?
template 257 of options, version 9, domain 0
         2                  4  interface  scope
         34                 4  samplingInterval
`

var comparer = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestTheTextOfTemplates(t *testing.T) {
	got, err := Parse(strings.NewReader("# a remark\n\n" + text + "flow     v9 192.0.2.1\noptions  template 256\n  x\nerror    header\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(some(), got, comparer); d != "" {
		t.Errorf("read (-want +got):\n%s", d)
	}
	var lines []string
	for _, e := range some() {
		lines = append(lines, string(Append(nil, &e)))
	}
	want := strings.ReplaceAll(text, "NF_F_XLATE_SRC_ADDR_IPV4", "?") // whatever the name is
	have := strings.Join(lines, "\n") + "\n"
	if d := cmp.Diff(fieldsOf(want), fieldsOf(have)); d != "" {
		t.Errorf("written (-want +got):\n%s", d)
	}
}

// fieldsOf drops the name of 40001, which the registry may spell as it likes.
func fieldsOf(s string) (out []string) {
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); f[0] == "40001" {
			line = strings.Join(f[:2], " ")
		}
		out = append(out, line)
	}
	return out
}

func TestEveryWrongLineIsNamed(t *testing.T) {
	_, err := Parse(strings.NewReader(`template 255, version 9, domain 0
template 256, version 5, domain 0
template 256, version 9, domain 4294967296
template 256, version 9, domain 0 of router
template 256, version 9, domain 0
  8 four
  8 65535
  8 4 sourceIPv4Address scope
  70000 4
templates
template 300, version 10, domain 0
`))
	for _, want := range []string{
		"line 1: template id 255", "line 2: ", "line 3: domain 4294967296", `line 4: exporter "router"`,
		"line 6: field", "line 7: field", "line 8: field", "line 9: field", `line 10: "templates"`, "line 11: template 300",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in:\n%v", want, err)
		}
	}
}

// What can be read is written so that it is read as the same.
func FuzzParse(f *testing.F) {
	f.Add(text)
	f.Add("template 256, version 10, domain 0\n 1/2 3\n")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := Parse(strings.NewReader(s))
		if err != nil {
			return
		}
		var b []byte
		for i := range all {
			b = append(Append(b, &all[i]), '\n')
		}
		again, err := Parse(strings.NewReader(string(b)))
		if d := cmp.Diff(all, again, comparer); err != nil || d != "" {
			t.Errorf("%v (-first +again):\n%s\n%s", err, d, b)
		}
	})
}
