package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/cli/console"
	"weir/internal/ie"
)

// The datagram is IPFIX laid out by hand: a template of two addresses and three elements of enterprise 55555, and
// a record.
func TestElementsOfTheOperatorAreNamedAndTyped(t *testing.T) {
	t.Cleanup(func() { ie.Extend(nil) })
	path := filepath.Join(t.TempDir(), "elements.tsv")
	if err := os.WriteFile(path, []byte("55555\t1\tqueueDepth\tunsigned16\t1001\n55555\t2\tnearestHop\tipv4Address\t1002\n55555\t3\tcolour\tsigned8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	template := "000a0038" + "68e77800" + "00000001" + "00000100" + "00020028" + "01000005" + "00080004" + "000c0004" + "80010002" + "0000d903" + "80020004" + "0000d903" + "80030001" + "0000d903"
	data := "000a0023" + "68e77800" + "00000002" + "00000100" + "01000013" + "0a000001" + "0a000002" + "01f4" + "c0000201" + "ff"
	t.Setenv("ELEMENTS_FILE", path)
	got := run(t, "", "decode", "--json", "--hex", template, "--hex", data)
	for _, want := range []string{
		`"queueDepth":500,"nearestHop":"192.0.2.1"`,
		`"elements":[{"pen":55555,"id":3,"name":"colour","value":"ff","decoded":-1}]`,
		`{"pen":55555,"id":2,"name":"nearestHop","length":4}`,
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("want %s\nin %s%s", want, got.out, got.errout)
		}
	}
	got = run(t, "", "decode", "--hex", template, "--hex", data)
	if want := " colour=-1 queueDepth=500 nearestHop=192.0.2.1\n"; !strings.Contains(got.out, want) {
		t.Errorf("want %s\nin %s", want, got.out)
	}
}

func TestAWrongElementsFileIsToldAndNothingIsDecoded(t *testing.T) {
	t.Cleanup(func() { ie.Extend(nil) })
	path := filepath.Join(t.TempDir(), "elements.tsv")
	if err := os.WriteFile(path, []byte("x\n0\t1\toctets\tstring\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ELEMENTS_FILE", path)
	got := run(t, "", "decode", "--hex", "0005")
	if got.code != console.ExitUsage || got.out != "" || !strings.Contains(got.errout, "line 1: 1 columns") {
		t.Errorf("want exit code 2 and the wrong line, got %d, %q, %q", got.code, got.out, got.errout)
	}
}
