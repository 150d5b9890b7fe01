package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
)

// CheckExtensions returns an error for each element that FlowMessage already has a field for: its
// value would be in two places. It joins all errors.
func CheckExtensions(list []ie.Extension) error {
	var errs []error
	for _, x := range list {
		if a, ok := actions[elementID{x.PEN, x.ID}]; ok && a.op != opSkip {
			errs = append(errs, fmt.Errorf("element %d/%d (%s): FlowMessage has a field for it", x.PEN, x.ID, x.Name))
		}
	}
	return errors.Join(errs...)
}

// extends reports whether octets of this length are a value of x's type. Other lengths are kept
// raw.
func extends(x *ie.Extension, length uint16) bool {
	switch x.Type {
	case ie.Unsigned, ie.Signed, ie.Seconds, ie.Milliseconds:
		return length >= 1 && length <= 8
	case ie.Float:
		return length == 4 || length == 8
	case ie.Boolean:
		return length == 1
	case ie.MacAddress:
		return length == mac
	case ie.IPv4:
		return length == 4
	case ie.IPv6:
		return length == 16
	case ie.Microseconds, ie.Nanoseconds:
		return length == 8
	case ie.OctetArray, ie.String:
		return true
	case ie.List:
	}
	return false
}

// appendExtended appends the value of an element to the field that ELEMENTS_FILE names for it. The type of the element
// selects the protobuf type: uint64 (unsigned; MAC address as in src_mac; dateTime in ns since the epoch), int64,
// double, bool, string or bytes. It writes 0 and empty values too. ok is false for a boolean other than 1 and 2
// (RFC 7011 section 6.1.5).
func appendExtended(b []byte, st *step, field []byte) (out []byte, ok bool) {
	x := st.extension
	n := protowire.Number(x.Field)
	varint := func(v uint64) ([]byte, bool) {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v), true
	}
	switch x.Type {
	case ie.Unsigned, ie.MacAddress:
		return varint(uintOf(field))
	case ie.Signed:
		shift := 64 - 8*len(field)
		return varint(uint64(int64(uintOf(field)<<shift) >> shift))
	case ie.Seconds, ie.Milliseconds, ie.Microseconds, ie.Nanoseconds:
		return varint(uint64(max(0, dateTime(x.Type, uintOf(field)))))
	case ie.Boolean:
		if field[0] != 1 && field[0] != 2 {
			return b, false
		}
		return varint(uint64(2 - field[0]))
	case ie.Float:
		b = protowire.AppendTag(b, n, protowire.Fixed64Type)
		return binary.LittleEndian.AppendUint64(b, floatBits(field)), true
	case ie.String:
		field = bytes.TrimRight(field, "\x00")
		if !utf8.Valid(field) {
			field = bytes.ToValidUTF8(field, []byte("\uFFFD"))
		}
	case ie.IPv4, ie.IPv6, ie.OctetArray, ie.List:
	}
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), field), true
}

// dateTime converts a dateTime of RFC 7011 section 6.1 to ns since the epoch.
func dateTime(t ie.Type, v uint64) int64 {
	var c context
	switch t {
	case ie.Milliseconds:
		return c.instant(tStartMs, v)
	case ie.Microseconds:
		return c.instant(tStartUs, v)
	case ie.Nanoseconds:
		return c.instant(tStartNs, v)
	}
	return c.instant(tStartS, min(v, 1<<32))
}
