package ipfix

import (
	"encoding/binary"
	"slices"

	"weir/internal/wire"
)

// Limits on a template. maxFields bounds the memory of a definition; a record longer than maxRecord fits into no
// datagram or message.
const (
	maxFields = 4096
	maxRecord = 65535 // octets
	// maxEmpty bounds the fields without octets. Juniper's scope is such a field; thousands of them
	// would make a large message from no octets.
	maxEmpty = 8
)

// Clone returns a copy of t that shares no memory with it.
func (t *Template) Clone() Template {
	c := *t
	c.Fields = append([]Field(nil), t.Fields...)
	return c
}

// MinLen returns the least number of octets of a record. fixed is false if t has variable-length
// fields, each of which needs at least its length octet (RFC 7011 section 7). H3C sends such fields
// in NetFlow v9 too.
func (t *Template) MinLen() (n int, fixed bool) {
	fixed = true
	for _, f := range t.Fields {
		if f.Length == VarLen {
			n, fixed = n+1, false
			continue
		}
		n += int(f.Length)
	}
	return n, fixed
}

// Check returns an error for a template that no record can have.
func (t *Template) Check(version uint8) *wire.Error {
	bad := func(what string) *wire.Error { return &wire.Error{What: what, Cause: wire.BadTemplate} }
	empty := 0
	for _, f := range t.Fields {
		if f.Length == 0 {
			empty++
		}
	}
	switch n, _ := t.MinLen(); {
	case t.ID < FirstDataSet:
		return bad("template id below 256")
	case len(t.Fields) == 0:
		return bad("template without fields")
	case len(t.Fields) > maxFields:
		return bad("template with too many fields")
	case t.Scopes > len(t.Fields):
		return bad("scope count above the field count")
	case t.Options && version == VersionIPFIX && t.Scopes == 0:
		return bad("options template without scope") // RFC 7011 section 3.4.2.2: must not be zero
	case n == 0:
		return bad("template whose record has no octets")
	case empty > maxEmpty:
		return bad("template with too many zero-length fields")
	case n > maxRecord:
		return bad("template whose record cannot fit a datagram")
	}
	return nil
}

// SameLayout reports whether t and o describe the same records: both have the same kind, scope
// count and fields in the same order. The template id is not compared.
func (t *Template) SameLayout(o *Template) bool {
	return t.Options == o.Options && t.Scopes == o.Scopes && slices.Equal(t.Fields, o.Fields)
}

// AppendLayout appends the canonical encoding of t's layout, without the template id. Integers are
// in network byte order:
//
//	1 for an options template, else 0 (1) | scope field count (2) |
//	per field: enterprise number, 0 for none (4) | element id without enterprise bit (2) | length (2)
//
// Two templates that Compile accepts have equal encodings if and only if SameLayout holds: Compile
// limits the scope count to the field count. Hashes of the encoding are part of record keys of the
// templates topic, so it must not change between versions.
func (t *Template) AppendLayout(b []byte) []byte {
	kind := byte(0)
	if t.Options {
		kind = 1
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(t.Scopes))
	for _, f := range t.Fields {
		b = binary.BigEndian.AppendUint32(b, f.PEN)
		b = binary.BigEndian.AppendUint16(b, f.ID)
		b = binary.BigEndian.AppendUint16(b, f.Length)
	}
	return b
}

// EnterpriseBit marks a field specifier that is followed by an enterprise number, RFC 7011 section
// 3.2.
const EnterpriseBit = 0x8000

// ReadTemplate reads a template record (or options template record) into t, which it overwrites.
// Template records (RFC 3954 section 5.2, RFC 7011 section 3.4.1) and options template records (RFC
// 3954 section 6.1, RFC 7011 section 3.4.2.2), offsets in octets:
//
//	                   0    2                     4                      6
//	template           | id | field count         | field specifiers …
//	options, v9        | id | octets of scopes    | octets of options    | field specifiers …
//	options, IPFIX     | id | field count         | scope field count    | field specifiers …
//
// The scopes are the first field specifiers. done reports that only padding is left. withdrawn reports a withdrawal
// (RFC 7011 section 8.1: a field count of 0). After an error the caller may read the next record unless r has failed.
func ReadTemplate(r *wire.Reader, version uint8, options bool, t *Template) (done, withdrawn bool, err *wire.Error) {
	start := r.Off()
	if r.Len() < 4 {
		return true, false, nil
	}
	*t = Template{ID: r.Uint16("template id"), Options: options, Fields: t.Fields[:0]}
	count := int(r.Uint16("field count"))
	if t.ID == 0 && count == 0 { // padding; RFC 3954 section 5.2 requires zeros
		r.Rest()
		return true, false, nil
	}
	fail := func(e *wire.Error) (bool, bool, *wire.Error) {
		e.Off = start
		return false, false, e
	}
	switch {
	case options && version == VersionNetFlow9:
		// RFC 3954 section 6.1: both lengths count octets, not fields.
		scope, rest := count, int(r.Uint16("option length"))
		if scope%4 != 0 || rest%4 != 0 {
			r.Rest() // the beginning of the next record is unknown
			return fail(&wire.Error{What: "options template length not a multiple of 4", Cause: wire.BadTemplate})
		}
		t.Scopes, count = scope/4, (scope+rest)/4
	case count == 0 && version == VersionIPFIX:
		if options && r.Len() > 0 && r.Len() < 4 {
			r.Rest()
		}
		return false, true, nil
	case options:
		t.Scopes = int(r.Uint16("scope field count")) // Check validates it after the fields are read
	}
	for range count {
		f := Field{ID: r.Uint16("field type"), Length: r.Uint16("field length")}
		if version == VersionIPFIX && f.ID&EnterpriseBit != 0 {
			f.ID &^= EnterpriseBit
			f.PEN = r.Uint32("enterprise number")
		}
		if _, bad := r.Failure(); bad {
			return fail(&wire.Error{What: "template cut off by the end of its set", Cause: wire.BadTemplate})
		}
		t.Fields = append(t.Fields, f)
	}
	if e := t.Check(version); e != nil {
		return fail(e)
	}
	return false, false, nil
}
