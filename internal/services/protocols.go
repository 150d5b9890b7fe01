package services

import "strconv"

// protocols maps protocol numbers to IANA's keywords, for the protocols that are common in flows.
var protocols = map[uint32]string{
	1: "icmp", 2: "igmp", 4: "ipv4", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 46: "rsvp", 47: "gre", 50: "esp",
	51: "ah", 58: "ipv6-icmp", 88: "eigrp", 89: "ospf", 94: "ipip", 103: "pim", 112: "vrrp", 115: "l2tp",
	132: "sctp", 136: "udplite",
}

// Protocol returns the keyword of an IANA protocol number, "proto-N" for others.
func Protocol(number uint32) string {
	if s, ok := protocols[number]; ok {
		return s
	}
	return "proto-" + strconv.FormatUint(uint64(number), 10)
}
