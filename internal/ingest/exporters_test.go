package ingest

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

func TestTheExportersFileNamesAllowsAndIsReadAgain(t *testing.T) {
	b := embedded(t)
	path := filepath.Join(t.TempDir(), "exporters.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("exporters:\n- {address: 192.0.2.1, name: edge-1, site: fra, sampling_override: 7}\n- {address: 192.0.2.2, allow: false}\n")
	c := config(b.Addr(), "r1")
	c.ExportersFile = path
	log := &locked.Buffer{}
	r, stop := start(t, c, log)
	receive := func(from string) { r.Receive(packet(t, "v5_30.hex"), netip.MustParseAddrPort(from), time.Now()) }
	receive("192.0.2.1:5000")
	receive("192.0.2.2:5000")
	for _, m := range flows(t, b.Addr(), 30) {
		if m.ExporterName != "edge-1" || m.Site != "fra" || m.SamplingRate != 7 || m.SamplingSource != flowpb.SamplingSource_SAMPLING_SOURCE_OVERRIDE {
			t.Fatalf("want edge-1, fra, 1 in 7 by override; got %q, %q, 1 in %d by %v", m.ExporterName, m.Site, m.SamplingRate, m.SamplingSource)
		}
	}
	if got := r.stats.denied.Load(); got != 1 {
		t.Errorf("denied datagrams: want 1, got %d", got)
	}

	write("exporters:\n- {address: 192.0.2.2, alow: true}\n")
	r.reread()
	receive("192.0.2.2:5000")
	if got := r.stats.denied.Load(); got != 2 {
		t.Errorf("with a wrong file the old one stays in force: want 2 denied datagrams, got %d", got)
	}
	if !strings.Contains(log.String(), "line 2: alow: unknown key") {
		t.Errorf("want the line and key of the mistake in the log:\n%s", log.String())
	}

	write("exporters:\n- {address: 192.0.2.2, name: edge-2}\n")
	r.reread()
	receive("192.0.2.2:5000")
	named := 0
	for _, m := range flows(t, b.Addr(), 60) {
		if m.ExporterName == "edge-2" {
			named++
		}
	}
	if named != 30 {
		t.Errorf("flows of edge-2: want 30, got %d", named)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "denied=2") {
		t.Error("the last line does not count the denied datagrams")
	}
}

func TestAWrongExportersFileEndsTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exporters.yaml")
	if err := os.WriteFile(path, []byte("exporters:\n- name: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config("127.0.0.1:1", "r1")
	c.ExportersFile = path
	if _, err := New(c, Deps{Now: time.Now}); err == nil || !strings.Contains(err.Error(), "line 2: address: is missing") {
		t.Errorf("want the mistake with its line, got %v", err)
	}
}
