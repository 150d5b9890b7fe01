package flowfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A clock is advanced by the test.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newClock() *clock { return &clock{time.Date(2026, 11, 26, 17, 5, 0, 0, time.UTC)} }

func create(t *testing.T, path string, o Options) *Writer {
	t.Helper()
	w, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, w *Writer, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if err := w.Write([]byte(l)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// read returns the lines of b and the error that ended them.
func read(b []byte) (lines []string, err error) {
	r, err := Open(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	for l := NewLines(r); ; {
		line, err := l.Next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		lines = append(lines, string(line))
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, name := range []string{"flows.jsonl", "flows.jsonl.gz", "flows.jsonl.zst"} {
		path := filepath.Join(t.TempDir(), name)
		w := create(t, path, Options{})
		var want []string
		for block := range 3 {
			var lines []string
			for i := range 100 {
				lines = append(lines, fmt.Sprintf(`{"n":%d}`, 100*block+i))
			}
			write(t, w, lines...)
			want = append(want, lines...)
		}
		write(t, w, strings.Repeat("x", blockOctets)) // a block by its length
		want = append(want, strings.Repeat("x", blockOctets))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b := content(t, path)
		got, err := read(b)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v, -want +got\n%s", name, err, d)
		}
		if s := w.Stats(); s != (Stats{Files: 1, Lines: 301, Octets: int64(len(b))}) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestAFileThatIsCutReadsUpToItsLastWholeBlock(t *testing.T) {
	for _, name := range []string{"flows.jsonl", "flows.jsonl.gz", "flows.jsonl.zst"} {
		path := filepath.Join(t.TempDir(), name)
		w := create(t, path, Options{})
		var ends []int
		for i := range 4 {
			write(t, w, fmt.Sprintf("%d a", i), fmt.Sprintf("%d b", i))
			ends = append(ends, len(content(t, path)))
		}
		b := content(t, path)
		for n := range len(b) + 1 {
			got, err := read(b[:n])
			whole := 0
			for _, e := range ends {
				if e <= n {
					whole++
				}
			}
			if len(got) < 2*whole {
				t.Errorf("%s: of %d octets with %d whole blocks: %d lines, %v", name, n, whole, len(got), err)
			}
			if at := n == 0 || slices.Contains(ends, n); at != (err == nil) && name != "flows.jsonl" || err != nil && !errors.Is(err, ErrCut) {
				t.Errorf("%s: of %d octets: %v", name, n, err)
			}
			for i, line := range got {
				if want := fmt.Sprintf("%d %c", i/2, 'a'+i%2); line != want {
					t.Errorf("%s: of %d octets: line %d is %q", name, n, i+1, line)
				}
			}
		}
	}
}

func TestFilesArePutAsideBySizeAndTime(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	path := filepath.Join(dir, "flows.jsonl")
	w := create(t, path, Options{Octets: 10, Every: time.Hour, Now: c.Now})
	write(t, w, "123")
	write(t, w, "456")
	write(t, w, "78") // 11 octets
	c.now = c.now.Add(time.Minute)
	write(t, w, "second")
	c.now = c.now.Add(time.Hour)
	write(t, w) // rotated by age alone
	write(t, w, "third 1234")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		got[e.Name()] = string(content(t, filepath.Join(dir, e.Name())))
	}
	want := map[string]string{
		"flows-20261126T170500Z.jsonl":   "123\n456\n78\n",
		"flows-20261126T170500Z-2.jsonl": "second\n", // begun when the first was full
		"flows-20261126T180600Z.jsonl":   "third 1234\n",
		"flows.jsonl":                    "",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if s := w.Stats(); s != (Stats{Files: 4, Lines: 5, Octets: 29}) {
		t.Errorf("%+v", s)
	}
}

func TestAFileOfAnEarlierRunIsPutAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "flows.jsonl.zst")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	w := create(t, path, Options{})
	write(t, w, "new")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := read(content(t, path)); err != nil || !slices.Equal(got, []string{"new"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got := string(content(t, filepath.Join(dir, "flows-20261125T010203Z.jsonl.zst"))); got != "damaged" {
		t.Errorf("got %q", got)
	}
	if _, err := Create(dir, Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Create(filepath.Join(dir, "no", "flows.jsonl"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestWhatTheFileDoesNotTakeIsKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "flows.jsonl")
	w := create(t, path, Options{})
	write(t, w, "first")
	sound := w.f
	closed, err := os.Open(path) // opened for reading, so writes fail
	if err != nil {
		t.Fatal(err)
	}
	w.f = closed
	if err := w.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err == nil {
		t.Fatal("want an error")
	}
	if err := w.Write([]byte(strings.Repeat("x", blockOctets))); err != nil {
		t.Errorf("a full block that cannot be written: %v", err)
	}
	if err := w.Write(make([]byte, maxHeld)); err != nil || w.Stats().Lost != 1 {
		t.Errorf("a line without room: %v, %+v", err, w.Stats())
	}
	if _, err := sound.WriteString("half a block"); err != nil { // as a disk that became full leaves it
		t.Fatal(err)
	}
	_ = closed.Close()
	w.f = sound
	write(t, w, "third")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := string(content(t, path)), "first\nsecond\n"+strings.Repeat("x", blockOctets)+"\nthird\n"; got != want {
		t.Errorf("%d octets, want %d", len(got), len(want))
	}
	if s := w.Stats(); s.Lines != 4 || s.Lost != 1 {
		t.Errorf("%+v", s)
	}
}

func TestALineHasItsLimit(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range MaxLine>>20 + 1 {
		if _, err := z.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := read(b.Bytes()); err == nil || !strings.Contains(err.Error(), "line 1 is longer than 16 MiB") {
		t.Errorf("got %v", err)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n\n{}\n"))
	for _, name := range []string{"x.gz", "x.zst"} {
		encode, err := codecOf(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encode(nil, []byte("a\nb\n")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := read(b)
		if len(lines) > 0 && slices.Contains(lines, "") {
			t.Error("an empty line")
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
	})
}
