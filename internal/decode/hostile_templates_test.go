package decode

import (
	"math/rand/v2"
	"testing"

	"weir/internal/ipfix"
)

// hostileElements are the elements that decide which path decodes a record: addresses and ports of both families and
// of NAT, ICMP, biflow, times, sampling, tunnels. Their lengths are those of the registry; 4 octets where none is
// given.
var hostileElements = []struct{ id, octets uint16 }{
	{8, 4}, {12, 4}, {27, 16}, {28, 16}, {8, 4}, {12, 4}, {27, 16}, {28, 16}, {4, 1}, {7, 2}, {11, 2},
	{225, 4}, {226, 4}, {281, 16}, {282, 16}, {227, 2}, {228, 2}, {256, 2}, {60, 1}, {32, 2}, {139, 2},
	{176, 1}, {177, 1}, {178, 1}, {179, 1}, {9, 1}, {13, 1}, {29, 1}, {30, 1}, {1, 4}, {2, 4}, {231, 4}, {232, 4},
	{85, 4}, {86, 4}, {152, 8}, {153, 8}, {22, 4}, {21, 4}, {150, 4}, {151, 4}, {154, 8}, {155, 8}, {156, 8}, {157, 8},
	{322, 4}, {323, 8}, {324, 8}, {325, 8}, {160, 8}, {161, 4}, {162, 4}, {61, 1}, {371, 6}, {233, 1}, {230, 1},
	{96, 4}, {5, 1}, {6, 4}, {34, 4}, {35, 4}, {48, 4}, {49, 4}, {50, 4}, {195, 1}, {234, 4}, {235, 4}, {10, 4},
	{14, 4}, {15, 4}, {18, 4}, {62, 16}, {63, 16}, {136, 1}, {239, 1}, {33002, 4}, {148, 4}, {210, 40}, {95, 4},
	{94, 20}, {82, 16},
}

// hostileTemplate returns a template with repeated elements, unusual lengths, either, both or no address family, and
// now and then a record as long as the windows of the fast path.
func hostileTemplate(rng *rand.Rand) Template {
	var fields []uint16 // id and length in turn
	sum := 0
	add := func(id, octets uint16) {
		fields = append(fields, id, octets)
		if octets != ipfix.VarLen {
			sum += int(octets)
		}
	}
	if rng.IntN(4) > 0 {
		family := rng.IntN(3) // IPv4, IPv6, both
		if family != 1 {
			add(8, 4)
			add(12, 4)
		}
		if family != 0 {
			add(27, 16)
			add(28, 16)
		}
	}
	if rng.IntN(4) > 0 {
		add(4, 1)
	}
	for range rng.IntN(14) {
		e := hostileElements[rng.IntN(len(hostileElements))]
		if rng.IntN(12) == 0 {
			e.octets = []uint16{0, 1, 2, 3, 4, 5, 8, 9, 16, 17, ipfix.VarLen}[rng.IntN(11)]
		}
		add(e.id, e.octets)
	}
	if sum == 0 { // an empty record is refused
		add(8, 4)
	}
	if want := 495 + rng.IntN(20); rng.IntN(6) == 0 && sum < want {
		add(210, uint16(want-sum))
	}
	t := fixed(fields...)
	rng.Shuffle(len(t.Fields), func(i, j int) { t.Fields[i], t.Fields[j] = t.Fields[j], t.Fields[i] })
	return t
}

// hostileRecord appends a record of t: random fields, zeroes, all bits set, small numbers, and addresses of the
// families and ranges that choose the key.
func hostileRecord(rng *rand.Rand, t *Template, data []byte) []byte {
	zero4, zero6 := rng.IntN(2) == 0, rng.IntN(2) == 0
	for _, f := range t.Fields {
		n := f.Length
		if n == ipfix.VarLen {
			n = uint16(rng.IntN(20))
			data = append(data, byte(n))
		}
		field := make([]byte, n)
		switch kind := rng.IntN(4); {
		case n == 0:
		case kind == 0:
			for i := range field {
				field[i] = byte(rng.Uint32())
			}
		case kind == 1:
			for i := range field {
				field[i] = 0xff
			}
		case kind == 2:
			field[n-1] = []byte{0, 1, 2, 8, 128, 135}[rng.IntN(6)]
		}
		switch f.ID {
		case 8, 12, 225, 226:
			copy(field, [][]byte{{10, 0, 0}, {100, 64, 0}, {198, 51, 100}, {0, 0, 0}}[rng.IntN(4)])
			if zero4 && f.ID < 225 {
				clear(field)
			}
		case 27, 28, 281, 282:
			copy(field, [][]byte{{0xfd}, {0x20, 1}, {10: 0xff, 11: 0xff, 12: 10}, {0}}[rng.IntN(4)])
			if zero6 && f.ID < 281 {
				clear(field)
			}
		case 4:
			if n > 0 {
				field[0] = []byte{1, 6, 17, 47, 58}[rng.IntN(5)]
			}
		}
		data = append(data, field...)
	}
	return data
}

// FuzzHostileTemplates compares all decoding paths on random templates and records of NetFlow v9 and IPFIX.
func FuzzHostileTemplates(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 77))
		version := []uint8{ipfix.VersionNetFlow9, ipfix.VersionIPFIX}[rng.IntN(2)]
		template := hostileTemplate(rng)
		var data []byte
		for range 1 + rng.IntN(3) {
			data = hostileRecord(rng, &template, data)
		}
		same(t, newDecoders(), datagram(version, template, data))
	})
}
