package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/weirtest/captures"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/name, or rewrites that file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("%s: -want +got\n%s", path, d)
	}
}

func TestGoldenCaptures(t *testing.T) {
	for _, name := range []string{
		"softflowd_v1_synth_adj", "softflowd_v5_synth_adj", "softflowd_v9_ether_mpls_synth", "softflowd_v9_sampled10_lo",
		"softflowd_v10_biflow_synth_adj", "softflowd_v10_time_micro_synth", "pmacct_nfprobe_v9min", "nfpcapd_lo",
	} {
		t.Run(name, func(t *testing.T) {
			golden(t, "decode/"+name+".jsonl", run(t, "", "decode", "--json", captures.File(name+".pcap")).out)
		})
	}
	for _, name := range []string{"softflowd_v9_sampled10_lo", "softflowd_v10_biflow_synth_adj"} {
		t.Run(name+" for people", func(t *testing.T) {
			golden(t, "decode/"+name+".txt", run(t, "", "decode", captures.File(name+".pcap")).out)
		})
	}
}

// The counts come from a separate decoder of a few lines that uses the lengths only.
func TestCountsOfCaptures(t *testing.T) {
	for name, want := range map[string]string{
		"nfpcapd_lo":                     "datagrams=2 flows=0 options=0 templates=0 undecoded=0 errors=2", // nfdump's own protocol
		"nfreplay_v5":                    "datagrams=3 flows=82 options=0 templates=0 undecoded=0 errors=0",
		"nfreplay_v9":                    "datagrams=5 flows=92 options=0 templates=13 undecoded=0 errors=0",
		"pmacct_nfprobe_v10":             "datagrams=9 flows=33 options=0 templates=4 undecoded=0 errors=0",
		"pmacct_nfprobe_v10min":          "datagrams=6 flows=33 options=0 templates=4 undecoded=0 errors=0",
		"pmacct_nfprobe_v5":              "datagrams=1 flows=29 options=0 templates=0 undecoded=0 errors=0",
		"pmacct_nfprobe_v9":              "datagrams=7 flows=33 options=0 templates=4 undecoded=0 errors=0",
		"pmacct_nfprobe_v9min":           "datagrams=6 flows=33 options=0 templates=4 undecoded=0 errors=0",
		"pmacct_nfprobe_v9samp":          "datagrams=308 flows=2317 options=36 templates=108 undecoded=0 errors=0",
		"softflowd_psamp_synth":          "datagrams=70 flows=69 options=0 templates=1 undecoded=0 errors=0",
		"softflowd_v1_synth_adj":         "datagrams=2 flows=30 options=0 templates=0 undecoded=0 errors=0",
		"softflowd_v5_sampled10_lo":      "datagrams=1 flows=9 options=0 templates=0 undecoded=0 errors=0",
		"softflowd_v5_synth_adj":         "datagrams=2 flows=30 options=0 templates=0 undecoded=0 errors=0",
		"softflowd_v9_big":               "datagrams=381 flows=12000 options=24 templates=120 undecoded=0 errors=0",
		"softflowd_v9_ether_mpls_synth":  "datagrams=3 flows=34 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v9_sampled10_lo":      "datagrams=1 flows=13 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v9_synth_adj":         "datagrams=3 flows=34 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v10_big":              "datagrams=381 flows=12000 options=24 templates=120 undecoded=0 errors=0",
		"softflowd_v10_biflow_synth_adj": "datagrams=3 flows=28 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v10_loadbalanced_big": "datagrams=423 flows=12000 options=48 templates=240 undecoded=0 errors=0",
		"softflowd_v10_sampled10_lo":     "datagrams=1 flows=13 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v10_synth_adj":        "datagrams=3 flows=34 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v10_tcp_synth":        "datagrams=0 flows=0 options=0 templates=0 undecoded=0 errors=0", // IPFIX over TCP
		"softflowd_v10_time_micro_synth": "datagrams=2 flows=34 options=1 templates=5 undecoded=0 errors=0",
		"softflowd_v10_time_sec_synth":   "datagrams=2 flows=34 options=1 templates=5 undecoded=0 errors=0",
	} {
		got := run(t, "", "decode", "--json", captures.File(name+".pcap"))
		if got.last() != want || got.code != 0 {
			t.Errorf("%s:\nwant %s\n got %s (exit code %d)", name, want, got.last(), got.code)
		}
		linesOf(t, got.out).match(t, want)
	}
}

// Hex datagrams of a NetFlow v9 exporter with domain 0.
const (
	v9Header     = "00090001000003e86553f1000000000100000000"
	v9Template   = v9Header + "00000010" + "01000002" + "00080004000c0004" // 256: source and destination
	v9Data       = v9Header + "0100000c" + "0a0000010a000002"
	v9DataOther  = v9Header + "0101000c" + "0a0000030a000004" // 257
	v9Template1  = v9Header + "00000010" + "01010002" + "00080004000c0004"
	v9DataBefore = v9Header + "0100000c" + "0a0000010a000002" + "00000010" + "01000002" + "00080004000c0004"
)

func TestDataBeforeItsTemplateIsPrintedAfterIt(t *testing.T) {
	tests := []struct {
		name  string
		stdin []string
		want  string // records in order; flows by their source
		last  string
	}{
		{
			"in a later datagram",
			[]string{v9Data, v9Data, v9DataOther, v9Template},
			"template 10.0.0.1 10.0.0.1",
			"datagrams=4 flows=2 options=0 templates=1 undecoded=1 errors=0",
		},
		{
			"several templates later, in the order of arrival",
			[]string{v9DataOther, v9Data, v9Template1 + v9Template[len(v9Header):], v9Data},
			"template template 10.0.0.3 10.0.0.1 10.0.0.1",
			"datagrams=4 flows=3 options=0 templates=2 undecoded=0 errors=0",
		},
		{
			"within its datagram it stands where it stood",
			[]string{v9DataBefore},
			"10.0.0.1 template",
			"datagrams=1 flows=1 options=0 templates=1 undecoded=0 errors=0",
		},
		{
			"nowhere",
			[]string{v9Data, v9DataOther},
			"",
			"datagrams=2 flows=0 options=0 templates=0 undecoded=2 errors=0",
		},
		{
			"a refused template is none",
			[]string{v9Data, v9Header + "00000008" + "01000000"},
			"error:bad_template",
			"datagrams=2 flows=0 options=0 templates=0 undecoded=1 errors=1",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, strings.Join(tt.stdin, "\n")+"\n", "decode", "--json", "-")
			if records := linesOf(t, got.out).records(); records != tt.want || got.last() != tt.last || got.code != 0 {
				t.Errorf("want %q, %s\n got %q, %s (exit code %d)", tt.want, tt.last, records, got.last(), got.code)
			}
		})
	}
}

func TestATemplateCountsInLaterInputs(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first.hex"), filepath.Join(t.TempDir(), "second.hex")
	for path, text := range map[string]string{first: v9Data + "\n", second: v9Template + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := run(t, "", "decode", first, second, "--json", "--hex", v9DataOther)
	if want := "datagrams=3 flows=1 options=0 templates=1 undecoded=1 errors=0"; got.last() != want {
		t.Errorf("want %s, got %s", want, got.last())
	}
}

func TestHexText(t *testing.T) {
	tests := []struct {
		name, stdin string
		args        []string
		out         string
		last        string
	}{
		{"nothing", "", []string{"-"}, "", "datagrams=0 flows=0 options=0 templates=0 undecoded=0 errors=0"},
		{
			"an empty line is an empty datagram", "\n", []string{"-"},
			`{"record":"error","offset":0,"cause":"short","what":"version","datagram":1}`,
			"datagrams=1 flows=0 options=0 templates=0 undecoded=0 errors=1",
		},
		{
			"an odd number of digits", "000", []string{"-"},
			`{"record":"error","offset":1,"cause":"bad_hex","what":"second hex digit of an octet","datagram":1}`,
			"datagrams=1 flows=0 options=0 templates=0 undecoded=0 errors=1",
		},
		{
			"binary on standard input", "\x00\x01", []string{"-"},
			`{"record":"error","offset":0,"cause":"bad_hex","what":"hex digit","datagram":1}`,
			"datagrams=1 flows=0 options=0 templates=0 undecoded=0 errors=1",
		},
		{
			"--hex comes first and may be repeated", "0008", []string{"-", "--hex", "", "--hex", "0 0"},
			`{"record":"error","offset":0,"cause":"short","what":"version","datagram":1}` + "\n" +
				`{"record":"error","offset":0,"cause":"short","what":"version","datagram":2}` + "\n" +
				`{"record":"error","offset":0,"cause":"unknown_version","what":"version","datagram":3}`,
			"datagrams=3 flows=0 options=0 templates=0 undecoded=0 errors=3",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, tt.stdin, append([]string{"decode", "--json"}, tt.args...)...)
			if out := strings.TrimSuffix(got.out, "\n"); out != tt.out || got.errout != tt.last+"\n" || got.code != 0 {
				t.Errorf("want\n%s\n%s\ngot\n%s\n%s(exit code %d)", tt.out, tt.last, out, got.errout, got.code)
			}
		})
	}
}

func TestInputsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	whole, err := os.ReadFile(captures.File("softflowd_v5_synth_adj.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	cut, program := filepath.Join(dir, "cut.pcap"), filepath.Join(dir, "program")
	for path, b := range map[string][]byte{cut: whole[:len(whole)-1], program: []byte("\x7fELF\x00")} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := captures.File("softflowd_v5_synth_adj.pcap")
	tests := []struct {
		name   string
		args   []string
		errout []string // without the last line
		last   string
		code   int
	}{
		{"no such file", []string{"/nonexistent/x.pcap"}, []string{"/nonexistent/x.pcap: no such file or directory"}, "datagrams=0 flows=0 options=0 templates=0 undecoded=0 errors=0", 1},
		{"a directory", []string{dir}, []string{dir + ": is a directory"}, "datagrams=0 flows=0 options=0 templates=0 undecoded=0 errors=0", 1},
		{"neither capture nor text", []string{program}, []string{program + ": neither pcap, pcapng nor hex text"}, "datagrams=0 flows=0 options=0 templates=0 undecoded=0 errors=0", 1},
		// Of its two datagrams the first holds 2 flows, the second 28.
		{"a cut capture", []string{cut}, []string{cut + ": the file is cut inside packet 2; the packets before it were read"}, "datagrams=1 flows=2 options=0 templates=0 undecoded=0 errors=0", 0},
		{"the others are read", []string{program, good, cut}, []string{
			program + ": neither pcap, pcapng nor hex text",
			cut + ": the file is cut inside packet 2; the packets before it were read",
		}, "datagrams=3 flows=32 options=0 templates=0 undecoded=0 errors=0", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, "", append([]string{"decode"}, tt.args...)...)
			want := ""
			for _, s := range tt.errout {
				want += "weir decode: " + s + "\n"
			}
			if got.errout != want+tt.last+"\n" || got.code != tt.code {
				t.Errorf("want\n%s%s\ngot\n%s(exit code %d)", want, tt.last, got.errout, got.code)
			}
		})
	}
}

func TestPort(t *testing.T) {
	file := captures.File("softflowd_v5_synth_adj.pcap")
	none := run(t, "", "decode", "--port", "9", file)
	want := "weir decode: " + file + ": not decoded: 2 datagrams to other ports\ndatagrams=0 flows=0 options=0 templates=0 undecoded=0 errors=0\n"
	if none.errout != want || none.code != 0 {
		t.Errorf("want %q, got %q (exit code %d)", want, none.errout, none.code)
	}
}

// decoded holds parsed lines of JSON.
type decoded []map[string]any

func linesOf(t testing.TB, out string) (all decoded) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.UseNumber()
	for d.More() {
		var m map[string]any
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// records returns the records in order: flows as their source address, errors as their cause.
func (d decoded) records() string {
	var out []string
	for _, m := range d {
		s, _ := m["record"].(string)
		switch s {
		case "flow":
			s, _ = m["src_addr"].(string)
		case "error":
			cause, _ := m["cause"].(string)
			s += ":" + cause
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// match checks that a summary has the counts of the lines.
func (d decoded) match(t testing.TB, summary string) {
	t.Helper()
	n := map[any]int{}
	for _, m := range d {
		n[m["record"]]++
	}
	lines := "flows=" + itoa(n["flow"]) + " options=" + itoa(n["options"]) + " templates=" + itoa(n["template"])
	if errors := " errors=" + itoa(n["error"]); !strings.Contains(summary, lines) || !strings.HasSuffix(summary, errors) {
		t.Errorf("the summary is %s, the lines are %s%s", summary, lines, errors)
	}
}

// FuzzDecode checks for any datagram that every line is valid JSON and that the last line of standard error has
// the counts of the lines.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(v9Data + "\n" + v9Template + "\n\n0"))
	for _, name := range []string{"softflowd_v10_biflow_synth_adj", "pmacct_nfprobe_v9min"} {
		b, err := os.ReadFile(captures.File(name + ".pcap"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.HasPrefix(in, []byte{0x1f, 0x8b}) {
			t.Skip("gzip takes time, not insight")
		}
		got := run(t, string(in), "decode", "--json", "-")
		all := linesOf(t, got.out)
		all.match(t, got.last())
		if n := strings.Count(got.out, "\n"); n != len(all) {
			t.Errorf("%d lines hold %d records", n, len(all))
		}
		run(t, string(in), "decode", "-")
	})
}

// Octets by RFC 5610 and RFC 7011: 4242/17 is queueDepth of type unsigned32, then a
// record of two addresses and 4242/17.
func TestDecodeShowsNamesThatTheExporterDefined(t *testing.T) {
	const defined = "000a0047 68e77800 00000001 00000100" +
		"0003001e 01020005 0001 015a0004 012f0002 01530001 01580001 0155ffff" +
		"01020019 00001092 0011 03 00 0a 71756575654465707468 0000"
	const data = "000a0040 68e77800 00000002 00000100" +
		"0002001c 01000003 00080004 000c0004 80110004 00001092 00000000" +
		"01000014 0a000001 0a000002 00000007 00000000"
	for _, tt := range []struct{ args, want []string }{
		{[]string{"--json"}, []string{
			`"facts":[{"what":"WHAT_ELEMENT_DEFINITION","id":278003729,"number":3,"text":"queueDepth"}]`,
			`"elements":[{"pen":4242,"id":17,"name":"queueDepth","value":"00000007","decoded":7,"type":3}]`,
		}},
		{nil, []string{"informationElementName=queueDepth", " queueDepth=7"}},
	} {
		got := run(t, "", append([]string{"decode", "--hex", defined, "--hex", data}, tt.args...)...)
		for _, want := range tt.want {
			if !strings.Contains(got.out, want) {
				t.Errorf("decode %v: no %s in\n%s", tt.args, want, got.out)
			}
		}
	}
}
