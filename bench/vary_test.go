package bench

import (
	"math/rand/v2"
	"testing"
)

// A layout describes the positions of the fields in a data packet: sets of records.
type layout struct {
	sets []recordSet
}

type recordSet struct {
	off, records int
	fields       []field
}

type field struct{ id, octets int }

func fields(pairs ...int) (f []field) {
	for i := 0; i < len(pairs); i += 2 {
		f = append(f, field{pairs[i], pairs[i+1]})
	}
	return f
}

var layouts = map[string]layout{
	"v5": {[]recordSet{{24, 30, fields(8, 4, 12, 4, 15, 4, 10, 2, 14, 2, 2, 4, 1, 4, 22, 4, 21, 4, 7, 2, 11, 2, 0, 1, 6, 1, 4, 1, 5, 1, 16, 2, 17, 2, 9, 1, 13, 1, 0, 2)}}},
	"v9": {[]recordSet{{24, 24, fields(1, 4, 2, 4, 4, 1, 5, 1, 6, 1, 7, 2, 8, 4, 9, 1, 10, 4, 11, 2, 12, 4, 13, 1, 14, 4, 15, 4, 16, 4, 17, 4, 21, 4, 22, 4, 48, 2, 61, 1)}}},
	"ipfix": {[]recordSet{
		{20, 16, fields(1, 4, 2, 4, 4, 1, 5, 1, 6, 2, 7, 2, 8, 4, 9, 1, 10, 4, 11, 2, 12, 4, 13, 1, 14, 4, 15, 4, 16, 4, 17, 4, 61, 1, 136, 1, 152, 8, 153, 8)},
		{20 + 16*64 + 4, 4, fields(1, 4, 2, 4, 4, 1, 5, 1, 6, 2, 7, 2, 27, 16, 29, 1, 10, 4, 11, 2, 28, 16, 30, 1, 14, 4, 62, 16, 16, 4, 17, 4, 61, 1, 136, 1, 152, 8, 153, 8)},
	}},
}

func (s *recordSet) record() (n int) {
	for _, f := range s.fields {
		n += f.octets
	}
	return n
}

// slack is the number of spare octets behind a datagram in a receive buffer.
const slack = 600

// vary makes n datagrams from a captured one that differ as real traffic does: counters and
// durations of every length, both directions, usual and unusual ports, AS numbers and protocols.
// The CPU's branch predictor would learn a repeated datagram.
func vary(b testing.TB, version string, n int) [][]byte {
	data := map[string]string{"v5": "v5_30.hex", "v9": "v9_data.hex", "ipfix": "ipfix_data.hex"}[version]
	pkt, rng := packet(b, data), rand.New(rand.NewPCG(1, uint64(len(version))))
	all := make([][]byte, n)
	for i := range all {
		q := make([]byte, len(pkt), len(pkt)+slack)
		copy(q, pkt)
		for _, s := range layouts[version].sets {
			for r := range s.records {
				at := s.off + r*s.record()
				fill(rng, s.fields, q[at:at+s.record()])
			}
		}
		all[i] = q
	}
	return all
}

// fill writes the fields of a record.
func fill(rng *rand.Rand, fields []field, rec []byte) {
	uniformLog := func(lo, hi int) uint64 { k := lo + rng.IntN(hi-lo); return 1<<k | rng.Uint64()&(1<<k-1) }
	outward := rng.IntN(2) == 0
	proto := []uint64{6, 6, 6, 6, 6, 6, 17, 17, 17, 1}[rng.IntN(10)]
	near, far := uint64(32768+rng.IntN(28000)), []uint64{443, 443, 443, 53, 80, 8080, 22, 123}[rng.IntN(8)]
	if rng.IntN(8) == 0 {
		near = uint64(1024 + rng.IntN(30000))
	}
	if !outward {
		near, far = far, near
	}
	if proto == 1 {
		near, far = 0, 8<<8 // echo request
	}
	lasted, ago := uniformLog(0, 17)-1, uniformLog(0, 14)
	for _, f := range fields {
		b := rec[:f.octets]
		rec = rec[f.octets:]
		var v uint64
		switch f.id {
		case 1:
			v = uniformLog(6, 27)
		case 2:
			v = uniformLog(0, 15)
		case 4:
			v = proto
		case 5:
			if rng.IntN(5) == 0 {
				v = uint64(rng.IntN(64)) << 2
			}
		case 6:
			if proto == 6 {
				v = []uint64{0x1b, 0x1b, 0x18, 0x10, 2, 0xdb}[rng.IntN(6)]
			}
		case 7:
			v = near
		case 11:
			v = far
		case 8, 12, 15, 27, 28, 62:
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			if (f.id == 8) == outward {
				b[0] = 10
			}
			if len(b) == 16 {
				copy(b, []byte{0x20, 1, 0xd, 0xb8})
			}
			continue
		case 9, 13, 29, 30:
			v = uint64(8 + rng.IntN(25))
		case 10, 14:
			v = uint64(1 + rng.IntN(600))
		case 16, 17:
			switch k := rng.IntN(10); {
			case k < 3:
			case k < 8:
				v = uniformLog(8, 16)
			default:
				v = uniformLog(16, 19) >> (8 * (4 - len(b))) // 2 octets hold no more
			}
		case 22:
			v = 3_600_000 - ago - lasted
		case 21:
			v = 3_600_000 - ago
		case 152:
			v = 1_760_000_000_000 - ago - lasted
		case 153:
			v = 1_760_000_000_000 - ago
		case 61:
			v = uint64(rng.IntN(2))
		case 136:
			v = uint64(1 + rng.IntN(4))
		case 48:
			v = 1
		}
		for i := range b {
			b[len(b)-1-i] = byte(v >> (8 * i))
		}
	}
}
