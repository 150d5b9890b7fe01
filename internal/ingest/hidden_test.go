package ingest

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/weirtest/locked"
)

func TestExportersHiddenBehindOneAddressAndPortAreToldOf(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	const far = 1 << 30
	for _, tt := range []struct {
		name     string
		sequence func(i int) uint32
		version  uint16
		every    time.Duration
		warnings int
	}{
		{"one exporter", func(i int) uint32 { return uint32(30 * i) }, 5, time.Second, 0},
		{"one of many replicas: gaps", func(i int) uint32 { return uint32(5000 * i) }, 10, time.Second, 0},
		{"out of order, around 2^32", func(i int) uint32 { return uint32(i^1) - 20 }, 9, time.Second, 0},
		{"a restart", func(i int) uint32 { return uint32(i) + far/uint32(1+i/50*far) }, 9, time.Second, 0},
		{"two that take turns", func(i int) uint32 { return uint32(i/2 + i%2*far) }, 9, time.Second, 1},
		{"three that take turns", func(i int) uint32 { return uint32(i/3 + i%3*far) }, 5, time.Second, 1},
		{"two, hardly ever", func(i int) uint32 { return uint32(i/2 + i%2*far) }, 9, 20 * time.Second, 0},
		{"v1 has no sequence", func(i int) uint32 { return uint32(i % 2 * far) }, 1, time.Second, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log locked.Buffer
			w := newWatch(slog.New(slog.NewTextHandler(&log, nil)), at, func() []string { return nil })
			x := newHidden()
			for i := range 100 {
				h := &decode.Header{Version: tt.version, Sequence: tt.sequence(i)}
				if x.observe(exporterAt, h, at.Add(time.Duration(i)*tt.every)) {
					w.hidden(exporterAt, h)
				}
			}
			if n := strings.Count(log.String(), "more than one exporter"); n != tt.warnings {
				t.Errorf("want %d warnings, got %d:\n%s", tt.warnings, n, log.String())
			}
		})
	}
}

// Streams that ended must not use up the bound for ever: exporters that start later are checked too.
func TestHiddenExportersAreFoundBehindMoreStreamsThanAreRemembered(t *testing.T) {
	const far = 1 << 30
	at := time.Unix(1_700_000_000, 0)
	x := newHidden()
	for i := range 2 * maxStreams {
		at = at.Add(time.Millisecond)
		x.observe(netip.AddrPortFrom(exporterAt.Addr(), uint16(i)), &decode.Header{Version: 9, Domain: uint32(i >> 16)}, at)
	}
	if n := x.streams.Len(); n != maxStreams {
		t.Errorf("streams: want %d, got %d", maxStreams, n)
	}
	late, found := netip.MustParseAddrPort("198.51.100.9:2055"), 0
	for i := range 100 {
		at = at.Add(time.Second)
		if x.observe(late, &decode.Header{Version: 9, Sequence: uint32(i/2 + i%2*far)}, at) {
			found++
		}
		other := netip.AddrPortFrom(exporterAt.Addr(), uint16(i))
		x.observe(other, &decode.Header{Version: 9, Domain: 1000}, at)
	}
	if found != 1 {
		t.Errorf("two exporters behind one address and port: want them found once, got %d", found)
	}
	if n := x.streams.Len(); n != maxStreams {
		t.Errorf("streams: want %d, got %d", maxStreams, n)
	}
}
