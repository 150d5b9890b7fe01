// Package ie is the registry of Information Elements: their names, types and units, generated from
// IANA's registry and vendors' tables.
package ie

import (
	"strings"
	"sync"

	"weir/internal/ipfix"
)

//go:generate go run ./gen -tables tables -out zelements.go

// Private enterprise numbers that the registry treats specially.
const (
	Reverse = 29305      // RFC 5103: the reverse direction's elements
	CERT    = 6871       // YAF: ids with CERTReverse are of the reverse direction
	NTop    = 35632      // nProbe: NetFlow v9 types from V9NTop on are its elements
	V9Cisco = 4294967294 // NetFlow v9 field types of 128 and above, from tables of collectors
	V9Only  = 4294967295 // NetFlow v9 field types that IANA does not list
)

const (
	// CERTReverse is the bit that marks the ids of CERT's reverse elements. They do not use the
	// enterprise number of RFC 5103.
	CERTReverse = 1 << 14
	// V9NTop is the NetFlow v9 field type of nProbe's element 0.
	V9NTop = 57472
)

// A Type is an abstract data type, RFC 7011 section 6.1 and RFC 6313.
type Type uint8

// The types.
const (
	OctetArray Type = iota
	Unsigned
	Signed
	Float
	Boolean
	MacAddress
	String
	Seconds
	Milliseconds
	Microseconds
	Nanoseconds
	IPv4
	IPv6
	List // basicList, subTemplateList, subTemplateMultiList
)

// An Element is an Information Element.
type Element struct {
	PEN   uint32 // private enterprise number, 0 = IANA's
	ID    uint16
	Type  Type
	Name  string // camel case, as registered
	Units string // octets, packets, milliseconds, …; "" = none
}

// Lookup returns the element (pen, id); ok is false if it is unknown. Elements of Extend take
// precedence. A reverse element (RFC 5103) has the type and units of its forward element, and its
// name with the prefix "reverse".
func Lookup(pen uint32, id uint16) (e Element, ok bool) {
	if x, ok := Extended(pen, id); ok {
		return x.Element, true
	}
	if pen == Reverse {
		return reverse(0, id, pen, id)
	}
	if pen == CERT && id&CERTReverse != 0 {
		return reverse(pen, id&^CERTReverse, pen, id)
	}
	lo, hi := 0, len(elements)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if k := &elements[mid]; k.PEN < pen || k.PEN == pen && k.ID < id {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(elements) && elements[lo].PEN == pen && elements[lo].ID == id {
		return elements[lo], true
	}
	return Element{}, false
}

// reverse returns the reverse element (pen, id) of the forward element (ofPEN, of).
func reverse(ofPEN uint32, of uint16, pen uint32, id uint16) (e Element, ok bool) {
	if e, ok = Lookup(ofPEN, of); ok {
		e.PEN, e.ID = pen, id
		e.Name = "reverse" + strings.ToUpper(e.Name[:1]) + e.Name[1:]
	}
	return e, ok
}

// ownV9 are field types of 32768 and above that vendors use in NetFlow v9, which has no enterprise
// bit: Cisco ASA's NSEL and PAN-OS.
var ownV9 = map[uint16]Element{
	33000: {0, 33000, OctetArray, "ingressAclId", ""},
	33001: {0, 33001, OctetArray, "egressAclId", ""},
	33002: {0, 33002, Unsigned, "firewallExtendedEvent", ""},
	40000: {0, 40000, String, "userName", ""},
	40001: {0, 40001, IPv4, "postNATSourceIPv4Address", ""},
	40002: {0, 40002, IPv4, "postNATDestinationIPv4Address", ""},
	40003: {0, 40003, Unsigned, "postNAPTSourceTransportPort", ""},
	40004: {0, 40004, Unsigned, "postNAPTDestinationTransportPort", ""},
	40005: {0, 40005, Unsigned, "firewallEvent", ""},
	56701: {0, 56701, String, "applicationName", ""},
	56702: {0, 56702, String, "userName", ""},
}

// LookupField returns the element of a field specifier in a template of a protocol version: LookupV9
// for NetFlow v9, which has no enterprise numbers, otherwise Lookup.
func LookupField(version uint16, pen uint32, id uint16) (e Element, ok bool) {
	if version == ipfix.VersionNetFlow9 {
		return LookupV9(id)
	}
	return Lookup(pen, id)
}

// scopes are the scope field types of NetFlow v9, RFC 3954 section 6.1.
var scopes = [...]string{1: "system", 2: "interface", 3: "lineCard", 4: "cache", 5: "template"}

// ScopeName returns the name of a scope field type of NetFlow v9. IPFIX has none: any of its elements
// can be a scope (RFC 7011 section 3.4.2.1).
func ScopeName(typ uint16) (name string, ok bool) {
	if typ == 0 || int(typ) >= len(scopes) {
		return "", false
	}
	return scopes[typ], true
}

// LookupV9 is Lookup for NetFlow v9 field types: IANA's element, else a vendor's own, nProbe's
// last.
func LookupV9(typ uint16) (Element, bool) {
	if x, ok := Extended(0, typ); ok {
		return x.Element, true
	}
	if e, ok := ownV9[typ]; ok {
		return e, true
	}
	for _, pen := range []uint32{0, V9Only, V9Cisco} {
		if e, ok := Lookup(pen, typ); ok {
			e.PEN = 0
			return e, true
		}
	}
	if typ >= V9NTop {
		if e, ok := Lookup(NTop, typ-V9NTop); ok {
			e.PEN, e.ID = 0, typ
			return e, true
		}
	}
	return Element{}, false
}

// byName returns the elements of the registry by their names in lower case. Of several elements with one name, that of
// the lowest enterprise number counts.
var byName = sync.OnceValue(func() map[string]Element {
	m := make(map[string]Element, len(elements))
	for _, e := range elements {
		if name := strings.ToLower(e.Name); m[name].Name == "" {
			m[name] = e
		}
	}
	return m
})

// ByName returns the element of a name, in any case. Elements of Extend take precedence.
func ByName(name string) (e Element, ok bool) {
	if m := extensions.Load(); m != nil {
		for _, x := range *m {
			if strings.EqualFold(x.Name, name) {
				return x.Element, true
			}
		}
	}
	e, ok = byName()[strings.ToLower(name)]
	return e, ok
}
