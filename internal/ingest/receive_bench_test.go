package ingest

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/kafka/broker"
)

// BenchmarkReceive measures the work for a datagram of flows except producing: unwrapping,
// decoding, counting. It uses only identifiers that every version of this package has, so that make
// bench-against can run it on an older commit.
func BenchmarkReceive(b *testing.B) {
	for _, c := range []struct {
		name, template, data string
	}{
		{"v5", "", "v5_30.hex"},
		{"v9", "v9_template.hex", "v9_data.hex"},
		{"ipfix", "ipfix_template.hex", "ipfix_data.hex"},
	} {
		b.Run(c.name, func(b *testing.B) {
			read := func(name string) []byte {
				text, err := os.ReadFile(filepath.Join("..", "decode", "testdata", name))
				if err != nil {
					b.Fatal(err)
				}
				p, err := hex.DecodeString(strings.TrimSpace(string(text)))
				if err != nil {
					b.Fatal(err)
				}
				return p
			}
			kafka, err := broker.Start("127.0.0.1:0", false)
			if err != nil {
				b.Fatal(err)
			}
			defer kafka.Close()
			r, err := New(config(kafka.Addr(), "bench"), Deps{
				Log: slog.New(slog.DiscardHandler), Now: time.Now, Discard: true,
			})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Run(ctx) }()
			from, at := netip.MustParseAddrPort("192.0.2.1:40000"), time.Now()
			if c.template != "" {
				r.Receive(read(c.template), from, at)
			}
			data := read(c.data)
			r.Receive(data, from, at)
			if r.Stats().Flows == 0 {
				b.Fatal("no flow was decoded")
			}
			b.ReportAllocs()
			for b.Loop() {
				r.Receive(data, from, at)
			}
			b.StopTimer()
			cancel()
			if err := <-ended; err != nil {
				b.Fatal(err)
			}
		})
	}
}
