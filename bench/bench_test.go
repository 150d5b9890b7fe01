// Package bench measures Weir on the packets that internal/decode's tests use,
// with the parts that ingest uses. It is a module of its own, below weir, so
// that it may use other decoders without making them dependencies of the product.
package bench

import (
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/decode"
	"weir/internal/templates"
)

func packet(b testing.TB, name string) []byte {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("..", "internal", "decode", "testdata", name))
	if err != nil {
		b.Fatal(err)
	}
	p, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// BenchmarkIngest measures the work from a datagram to record keys and values, with the template
// store of ingest.
func BenchmarkIngest(b *testing.B) {
	for _, c := range []struct{ name, template, data string }{
		{"v5", "", "v5_30.hex"}, {"v9", "v9_template.hex", "v9_data.hex"}, {"ipfix", "ipfix_template.hex", "ipfix_data.hex"},
	} {
		b.Run(c.name, func(b *testing.B) {
			d := decode.Decoder{State: templates.New(templates.Options{}), Replica: "bench"}
			m := decode.Meta{Exporter: netip.MustParseAddr("192.0.2.1"), Port: 40000, Received: 1_760_000_000_000_000_000}
			var r decode.Result
			if c.template != "" {
				d.Wire(packet(b, c.template), &m, &r)
			}
			data := packet(b, c.data)
			b.ReportAllocs()
			flows := 0
			for b.Loop() {
				d.Wire(data, &m, &r)
				flows += len(r.Flows)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(flows), "ns/flow")
		})
	}
}
