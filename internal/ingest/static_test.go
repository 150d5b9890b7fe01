package ingest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"log/slog"

	"weir/internal/weirtest/locked"
)

func TestATemplatesFileDecodesWhatComesWithoutTemplates(t *testing.T) {
	b := embedded(t)
	// Of v9_template.hex, as weir decode prints it for this exporter.
	file := filepath.Join(t.TempDir(), "templates.txt")
	text, err := os.ReadFile(filepath.Join("testdata", "templates.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.TemplatesFile = file
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	r.Receive(packet(t, "v9_data.hex"), exporterAt, time.Now())
	if n := r.Stats().Flows; n != 24 {
		t.Errorf("want 24 flows at once, got %d", n)
	}
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestAWrongTemplatesFileEndsTheStart(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a wrong line", "template 256, version 9, domain 0 of 192.0.2.1\n  x\n", "line 2: "},
		{"nobody's", "template 256, version 9, domain 0\n  8 4\n", "whose?"},
	} {
		file := filepath.Join(t.TempDir(), "templates.txt")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := config("127.0.0.1:1", "r")
		c.TemplatesFile = file
		if _, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "TEMPLATES_FILE") {
			t.Errorf("%s: want %q, got %v", tt.name, tt.want, err)
		}
	}
	c := config("127.0.0.1:1", "r")
	c.TemplatesFile = "/nowhere"
	if _, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); err == nil || !strings.Contains(err.Error(), "TEMPLATES_FILE") {
		t.Errorf("a file that is not there: got %v", err)
	}
}
