// Package ipfix reads the layouts of export protocols: headers, sets, template records, lists and
// field specifiers of NetFlow v9 and IPFIX (RFC 3954, RFC 7011, RFC 6313), and the headers of NetFlow
// v1, v5 and v7. It is pure and knows no meaning of any field: that is package decode.
package ipfix

// Versions of the export protocols that carry templates, as in the first two octets of a datagram.
const (
	VersionNetFlow9 = 9  // RFC 3954
	VersionIPFIX    = 10 // RFC 7011
)

// Octets of headers on the wire: RFC 3954, RFC 7011.
const (
	HeaderNetFlow9 = 20
	HeaderIPFIX    = 16
	HeaderSet      = 4
)

// A Field is a field specifier of a template, RFC 7011 section 3.2:
//
//	0                 2        4                   8
//	+-+---------------+--------+-------------------+
//	|E| element id    | length | enterprise number |
//	+-+---------------+--------+-------------------+
//
// The enterprise number is there if E, EnterpriseBit, is set. NetFlow v9 (RFC 3954 section 5.2) has
// no such bit: all 16 bits are the type.
type Field struct {
	PEN    uint32 // private enterprise number, 0 = IANA's
	ID     uint16 // element id without the enterprise bit; v9: field or scope type
	Length uint16 // octets; 65535 = variable (IPFIX)
}

// VarLen is the Length of a variable-length field, RFC 7011 section 7.
const VarLen = 65535

// A Template is a template or options template definition.
type Template struct {
	ID      uint16
	Options bool
	Scopes  int     // the first Scopes fields are scopes; 0 unless Options
	Fields  []Field // in record order
}

// A Value is one field of a record, undecoded.
type Value struct {
	PEN    uint32
	ID     uint16
	Scope  bool
	Octets []byte // aliases the datagram
}

// NextField splits b into the octets of a field of this length and the remainder; both alias b. ok
// is false if b ends before the field. A field of length VarLen begins with its own length, RFC 7011
// section 7:
//
//	0     1                 1+n         0     1     3                 3+n
//	+-----+-----------------+           +-----+-----+-----------------+
//	|  n  | n < 255 octets  |     or    | 255 |  n  | n octets        |
//	+-----+-----------------+           +-----+-----+-----------------+
func NextField(b []byte, length uint16) (field, rest []byte, ok bool) {
	n := int(length)
	if length == VarLen {
		if len(b) == 0 {
			return nil, nil, false
		}
		n, b = int(b[0]), b[1:]
		if n == 255 {
			if len(b) < 2 {
				return nil, nil, false
			}
			n, b = int(b[0])<<8|int(b[1]), b[2:]
		}
	}
	if n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
