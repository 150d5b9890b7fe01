package decode

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Types of route distinguishers, RFC 4364 section 4.2. The type determines the administrator
// field.
const (
	rdAS2  = 0 // an AS number of 2 octets, then a number of 4
	rdIPv4 = 1 // an IPv4 address, then a number of 2 octets
	rdAS4  = 2 // an AS number of 4 octets, then a number of 2
)

// rdLen is the length of a route distinguisher, octets.
const rdLen = 8

// maxRDText is the maximum length of the text of a route distinguisher, octets.
const maxRDText = len("255.255.255.255:65535")

// appendRD appends a route distinguisher as text, administrator:number; nothing if it is zero. ok
// is false for other lengths and types.
//
//	0      2                   6                   8
//	+------+-------------------+-------------------+
//	|  0   | AS, 2  |  number, 4                  |   00 00 fd e8 00 00 00 64  65000:100
//	|  1   | IPv4 address, 4   | number, 2         |   00 01 c0 00 02 01 00 07  192.0.2.1:7
//	|  2   | AS, 4             | number, 2         |   00 02 00 01 00 00 00 07  65536:7
//	+------+-------------------+-------------------+
//
// Types 0 and 2 give the same text for the same numbers: the text does not keep the type.
func appendRD(dst, rd []byte) (out []byte, ok bool) {
	if len(rd) != rdLen {
		return dst, false
	}
	if binary.BigEndian.Uint64(rd) == 0 {
		return dst, true
	}
	number := uint64(binary.BigEndian.Uint16(rd[6:]))
	switch binary.BigEndian.Uint16(rd) {
	case rdAS2:
		number = uint64(binary.BigEndian.Uint32(rd[4:]))
		dst = strconv.AppendUint(dst, uint64(binary.BigEndian.Uint16(rd[2:])), 10)
	case rdIPv4:
		dst = netip.AddrFrom4([4]byte(rd[2:6])).AppendTo(dst)
	case rdAS4:
		dst = strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(rd[2:])), 10)
	default:
		return dst, false
	}
	return strconv.AppendUint(append(dst, ':'), number, 10), true
}

// segmentMask selects the identifier in a layer2SegmentId (IE 351). The first octet is the type of
// overlay network.
//
// IE 351 is an unsigned64: octet 0 has the type (1: VXLAN, 2: NVGRE), octets 5 to 7 have the VXLAN
// network identifier or NVGRE tenant identifier of 24 bits. Since the type has no field of its own,
// the whole value also stays in elements (Plan.ambiguous).
const segmentMask = 1<<24 - 1

// tosOf returns the type of service octet of a DSCP; its two ECN bits are unknown and 0. ok is
// false for values above 63.
func tosOf(dscp []byte) (tos uint64, ok bool) {
	v := uintOf(dscp)
	return v << 2, v < 64
}
