// Package services names well-known (protocol, port) pairs, by IANA's names.
package services

import "sort"

//go:generate go run gen.go

// A port is one row of the table.
type port struct {
	key  uint32 // IP protocol number << 16 | port
	name string
}

// HasName reports whether a port of an IP protocol has a service name. It is the Service of pair.Config.
func HasName(proto uint8, number uint16) bool { return Name(proto, number) != "" }

// Name returns the IANA service name of a port of an IP protocol (IANA number), "" if
// the port has no name. UDP-Lite and DCCP ports have the names of UDP ports: RFC 3828
// section 6.1 gives UDP-Lite the same ports, and no DCCP port of the table differs. Name
// allocates nothing.
func Name(proto uint8, number uint16) string {
	switch proto {
	case 33, 136: // DCCP, UDP-Lite
		proto = 17
	}
	key := uint32(proto)<<16 | uint32(number)
	i := sort.Search(len(table), func(i int) bool { return table[i].key >= key })
	if i == len(table) || table[i].key != key {
		return ""
	}
	return table[i].name
}
