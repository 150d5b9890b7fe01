package capture

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
)

// A verdict is the result of parsing a captured packet.
type verdict uint8

const (
	isUDP       verdict = iota // a complete UDP datagram
	isOther                    // not UDP over IP
	isFragment                 // a fragment of a UDP datagram
	isCut                      // fewer octets than the lengths in its headers
	isMalformed                // invalid headers
	isOtherLink                // unsupported link type
)

// Link types of https://www.tcpdump.org/linktypes.html without a constant in gopacket.
const (
	linkRawBSD    = 12  // raw IP, BSD value of DLT_RAW
	linkRawOpen   = 14  // raw IP, OpenBSD value of DLT_RAW
	linkLinuxSLL2 = 276 // Linux cooked, version 2
)

// Ethernet types.
const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	etherVLAN  = 0x8100 // IEEE 802.1Q
	etherQinQ  = 0x88a8 // IEEE 802.1ad
	etherQinQ1 = 0x9100 // stacked tags before 802.1ad
	etherQinQ2 = 0x9200
)

// IP protocol numbers.
const (
	protoHopByHop = 0
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoDstOpts  = 60
	protoMobility = 135
	protoHIP      = 139
	protoShim6    = 140
)

func supported(link layers.LinkType) bool {
	switch link {
	case layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL, linkLinuxSLL2,
		layers.LinkTypeNull, layers.LinkTypeLoop,
		layers.LinkTypeRaw, linkRawBSD, linkRawOpen, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		return true
	}
	return false
}

// parseFrame finds the UDP datagram in a captured packet and sets the addresses and payload of d. The payload
// aliases b.
func parseFrame(link layers.LinkType, b []byte, d *Datagram) verdict {
	switch link {
	case layers.LinkTypeEthernet:
		return parseTagged(b, 12, d)
	case layers.LinkTypeLinuxSLL:
		return parseTagged(b, 14, d)
	case linkLinuxSLL2:
		// The protocol is at offset 0 and the payload at 20, so a VLAN tag's type is not adjacent to its
		// content as parseTagged requires.
		if len(b) < 20 {
			return isCut
		}
		return parseType(binary.BigEndian.Uint16(b), b[20:], d)
	case layers.LinkTypeNull, layers.LinkTypeLoop:
		return parseLoopback(b, d)
	case layers.LinkTypeRaw, linkRawBSD, linkRawOpen, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		return parseIP(b, d)
	}
	return isOtherLink
}

// parseTagged parses a frame whose Ethernet type is at offset at, directly before the payload.
func parseTagged(b []byte, at int, d *Datagram) verdict {
	if len(b) < at+2 {
		return isCut
	}
	return parseType(binary.BigEndian.Uint16(b[at:]), b[at+2:], d)
}

// parseType parses the content of an Ethernet type after any number of VLAN tags. A tag is two octets of control
// information and the next type.
func parseType(etherType uint16, b []byte, d *Datagram) verdict {
	for {
		switch etherType {
		case etherVLAN, etherQinQ, etherQinQ1, etherQinQ2:
			if len(b) < 4 {
				return isCut
			}
			etherType, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		case etherIPv4, etherIPv6:
			return parseIP(b, d)
		default:
			return isOther
		}
	}
}

// parseLoopback parses a BSD loopback frame: an address family in the octet order of the capturing host, then the
// packet.
func parseLoopback(b []byte, d *Datagram) verdict {
	if len(b) < 4 {
		return isCut
	}
	family := binary.LittleEndian.Uint32(b)
	if family > 0xffff {
		family = binary.BigEndian.Uint32(b)
	}
	switch family {
	// AF_INET of all systems; AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS.
	case 2, 10, 24, 28, 30:
		return parseIP(b[4:], d)
	}
	return isOther
}

func parseIP(b []byte, d *Datagram) verdict {
	if len(b) == 0 {
		return isCut
	}
	switch b[0] >> 4 {
	case 4:
		return parseIPv4(b, d)
	case 6:
		return parseIPv6(b, d)
	}
	return isOther
}

// parseIPv4 parses an IPv4 packet, RFC 791 section 3.1.
func parseIPv4(b []byte, d *Datagram) verdict {
	if len(b) < 20 {
		return isCut
	}
	if b[9] != protoUDP {
		return isOther
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = len(b) // 0: the network card sets it (segmentation offload)
	}
	if header < 20 || total < header {
		return isMalformed
	}
	// "More fragments" or a fragment offset is set. The mask omits "don't fragment" and the reserved bit.
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return isFragment
	}
	if total > len(b) {
		return isCut
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return parseUDP(src, dst, b[header:total], d)
}

// parseIPv6 parses an IPv6 packet with its extension headers, RFC 8200 sections 3 and 4.
func parseIPv6(b []byte, d *Datagram) verdict {
	if len(b) < 40 {
		return isCut
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])).Unmap(), netip.AddrFrom16([16]byte(b[24:40])).Unmap()
	next, length := b[6], int(binary.BigEndian.Uint16(b[4:]))
	b = b[40:]
	whole := length <= len(b)
	if length != 0 && whole { // 0: a jumbogram, or segmentation offload
		b = b[:length]
	}
	for {
		size := 0
		switch next {
		case protoUDP:
			if !whole {
				return isCut
			}
			return parseUDP(src, dst, b, d)
		case protoHopByHop, protoRouting, protoDstOpts, protoMobility, protoHIP, protoShim6:
			if len(b) >= 2 {
				size = int(b[1])*8 + 8
			}
		case protoAH:
			if len(b) >= 2 {
				size = int(b[1])*4 + 8
			}
		case protoFragment:
			size = 8
			if len(b) >= size && binary.BigEndian.Uint16(b[2:])&0xfff9 != 0 {
				if b[0] == protoUDP {
					return isFragment
				}
				return isOther
			}
		default:
			return isOther
		}
		if size == 0 || len(b) < size {
			if whole {
				return isMalformed
			}
			return isCut
		}
		next, b = b[0], b[size:]
	}
}

// parseUDP parses a UDP datagram, RFC 768. b is the IP payload.
func parseUDP(src, dst netip.Addr, b []byte, d *Datagram) verdict {
	if len(b) < 8 {
		return isMalformed
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 {
		length = len(b) // 0: a jumbogram (RFC 2675 section 4) or segmentation offload
	}
	if length < 8 || length > len(b) {
		return isMalformed
	}
	d.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	d.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	d.Payload = b[8:length]
	return isUDP
}
