package elements

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/ie"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "elements.tsv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryWrongLineIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{
			"columns, pen, id, name, type, field", "1\t2\n-1\t0\t9x\tint\t7\n",
			[]string{
				"line 1: 2 columns", `line 2: pen "-1"`, `id "0"`, `name "9x"`, `type "int"`, `field number "7"`,
			},
		},
		{
			"an element twice, a field twice", "9\t1\ta\tstring\t1000\n9\t1\tb\tstring\n9\t2\tc\tstring\t1000\n",
			[]string{"line 2: element 9/1 is on line 1 already", "line 3: field number 1000 is on line 1 already"},
		},
		{"protobuf's own numbers", "9\t1\ta\tstring\t19000\n", []string{`line 1: field number "19000"`}},
		{"a list with a field", "9\t1\ta\tbasicList\t1000\n", []string{"line 1: type basicList has no typed field"}},
		{"an element that has a field", "0\t1\toctets\tunsigned64\t1000\n", []string{"element 0/1 (octets): FlowMessage has a field for it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := file(t, tt.text)
			err := Load(path)
			if err == nil {
				t.Fatal("want an error")
			}
			for _, w := range append(tt.want, path) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("want %q in:\n%v", w, err)
				}
			}
		})
	}
	if err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there: want an error")
	}
}

func TestAFileExtendsTheRegistry(t *testing.T) {
	t.Cleanup(func() { ie.Extend(nil) })
	if err := Load(file(t, "# pen\tid\tname\ttype\tfield\n\n55555\t7\tqueueDepth\tunsigned32\t1001\r\n0\t40000\tasaUser\tstring\n")); err != nil {
		t.Fatal(err)
	}
	if e, ok := ie.Lookup(55555, 7); !ok || e.Name != "queueDepth" || e.Type != ie.Unsigned {
		t.Errorf("want queueDepth, got %v", e)
	}
	if e, ok := ie.LookupV9(40000); !ok || e.Name != "asaUser" {
		t.Errorf("want asaUser, got %v", e)
	}
	if x, ok := ie.ExtendedField(1001); !ok || x.Name != "queueDepth" {
		t.Errorf("want queueDepth, got %v", x)
	}
	if err := Load(""); err != nil {
		t.Error(err)
	}
}
