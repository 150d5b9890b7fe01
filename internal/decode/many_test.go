package decode

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"weir/internal/ipfix"
)

// BenchmarkWireMany is BenchmarkWire over 512 datagrams that differ as real
// traffic does: counters of every length, both directions, all kinds of ports
// and AS numbers. A repeated datagram is learnt by the branch predictor.
func BenchmarkWireMany(b *testing.B) {
	c := benchmarks[1]
	d, pkt := c.ready(b)
	rng := rand.New(rand.NewPCG(1, 2))
	long := func(bits int) uint32 { return uint32(rng.Uint64() >> (64 - rng.IntN(bits) - 1)) }
	const header, record = 24, 56 // testdata/v9_template.hex
	pkts := make([][]byte, 512)
	for i := range pkts {
		p := append([]byte(nil), pkt...)
		for at := header; at+record <= len(p); at += record {
			r := p[at:]
			binary.BigEndian.PutUint32(r[0:], long(31))
			binary.BigEndian.PutUint32(r[4:], long(20))
			r[8], r[9], r[10] = []byte{6, 17, 1}[rng.IntN(3)], byte(long(8)), byte(rng.IntN(32))
			if rng.IntN(2) == 0 {
				for i := range 4 { // the other direction: addresses, ports
					r[13+i], r[24+i] = r[24+i], r[13+i]
				}
				r[11], r[12], r[22], r[23] = r[22], r[23], r[11], r[12]
			}
			binary.BigEndian.PutUint16(r[22:], uint16(long(16)))
			binary.BigEndian.PutUint32(r[18:], long(12))
			binary.BigEndian.PutUint32(r[29:], long(12))
			binary.BigEndian.PutUint32(r[37:], long(18))
			binary.BigEndian.PutUint32(r[41:], long(18))
		}
		pkts[i] = p
	}
	var res Result
	b.ReportAllocs()
	n := 0
	for i := 0; b.Loop(); i++ {
		d.Wire(pkts[i%len(pkts)], &testMeta, &res)
		n += len(res.Flows)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
}

// BenchmarkWireVariable is the wire path with a text of variable length in the
// middle of a record, on the fast shape and on the appending path.
func BenchmarkWireVariable(b *testing.B) {
	tmpl := fixed(8, 4, 12, 4, 7, 2, 11, 2, 4, 1, 96, ipfix.VarLen, 1, 4, 2, 4, 10, 4, 14, 4, 6, 1, 152, 8, 153, 8)
	var data []byte
	for i := range 20 {
		data = append(data, 10, 0, 0, byte(i), 192, 0, 2, byte(i), 0x80, byte(i), 1, 0xbb, 6, 5, 'h', 't', 't', 'p', 's')
		data = append(data, 0, 0, byte(i), 99, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 0x1b)
		data = append(data, 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, byte(i), 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x69, byte(i))
	}
	first, pkt := datagram(10, tmpl, nil), ipfixOf(int(tmpl.ID), data)
	for _, plain := range []bool{false, true} {
		b.Run(map[bool]string{false: "fast", true: "appending"}[plain], func(b *testing.B) {
			d := &Decoder{State: newMemory()}
			if plain {
				d.path = (*Decoder).appendRecords
			}
			var res Result
			d.Wire(first, &testMeta, &res)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				d.Wire(pkt, &testMeta, &res)
				n += len(res.Flows)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
		})
	}
}
