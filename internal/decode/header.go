package decode

import (
	"github.com/cespare/xxhash/v2"
)

// legacy describes the records of v1, v5 and v7 as templates of Information Elements; element 210
// (paddingOctets) is padding. Source: Cisco's NetFlow export formats.
//
// A record of v5, 48 octets. That of v1 has the same first 36 octets, that of v7 the first 46:
//
//	0          4          8          12      14       16      20       24      28     32
//	+----------+----------+----------+-------+--------+-------+--------+-------+------+
//	| src addr | dst addr | next hop | input | output | dPkts | dOctets| first | last |
//	+----------+----------+----------+-------+--------+-------+--------+-------+------+
//
//	   32         34         36    37      38      39    40       42       44    45    46   48
//	   +----------+----------+-----+-------+-------+-----+--------+--------+-----+-----+----+
//	v5 | src port | dst port | pad | flags | proto | ToS | src AS | dst AS | src | dst | pad|
//	   |          |          |     |       |       |     |        |        | prefix len|    |
//	   +----------+----------+-----+-------+-------+-----+--------+--------+-----+-----+----+
//
//	v1: 36 pad (2), 38 protocol, 39 ToS, 40 flags, 41 pad (7); 48 octets.
//	v7: as v5 up to 46, where 2 octets of flags follow, 48 router (4); 52 octets. The flags say
//	    which fields are valid and are skipped.
//
// first and last are sysUptime in ms, see context.byHeader. dPkts and dOctets are the packets and
// octets that the exporter saw after sampling.
var legacy = map[uint16]Template{
	1: fixed(8, 4, 12, 4, 15, 4, 10, 2, 14, 2, 2, 4, 1, 4, 22, 4, 21, 4, 7, 2, 11, 2, 210, 2, 4, 1, 5, 1, 6, 1, 210, 7),
	5: fixed(8, 4, 12, 4, 15, 4, 10, 2, 14, 2, 2, 4, 1, 4, 22, 4, 21, 4, 7, 2, 11, 2, 210, 1, 6, 1, 4, 1, 5, 1,
		16, 2, 17, 2, 9, 1, 13, 1, 210, 2),
	// The last field is the router that switched the flow, as exporterIPv4Address (IE 130).
	7: fixed(8, 4, 12, 4, 15, 4, 10, 2, 14, 2, 2, 4, 1, 4, 22, 4, 21, 4, 7, 2, 11, 2, 210, 1, 6, 1, 4, 1, 5, 1,
		16, 2, 17, 2, 9, 1, 13, 1, 210, 2, 130, 4),
}

// fixed returns a template of (element, octets) pairs.
func fixed(pairs ...uint16) Template {
	t := Template{ID: 256}
	for i := 0; i < len(pairs); i += 2 {
		t.Fields = append(t.Fields, Field{ID: pairs[i], Length: pairs[i+1]})
	}
	return t
}

var legacyPlans = func() map[uint16]*Plan {
	m := map[uint16]*Plan{}
	for v, t := range legacy {
		m[v] = compile(uint8(v), &t)
	}
	return m
}()

// Hash returns the 64-bit xxHash of a datagram. Together with the record's offset it identifies a
// record, so that consumers can detect duplicates.
func Hash(pkt []byte) uint64 { return xxhash.Sum64(pkt) }
