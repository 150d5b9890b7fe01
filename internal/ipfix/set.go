package ipfix

import "weir/internal/wire"

// Assigned set ids: RFC 3954 sections 5.2 and 6.1, RFC 7011 section 3.3.2.
const (
	NetFlow9Templates = 0
	NetFlow9Options   = 1
	FirstDataSet      = 256 // this and all ids above are those of templates

	// IPFIXTemplates is also the id that withdraws all templates of a domain.
	IPFIXTemplates = 2
	// IPFIXOptions is also the id that withdraws all options templates of a domain.
	IPFIXOptions = 3
)

// A Kind is the kind of a set.
type Kind uint8

// The kinds. UnknownSet stands for reserved ids.
const (
	UnknownSet Kind = iota
	TemplateSet
	OptionsTemplateSet
	DataSet
)

// KindOf returns the kind of a set by its id in a datagram of a version. Versions other than NetFlow
// v9 and IPFIX have no sets.
func KindOf(version, id uint16) Kind {
	switch {
	case version != VersionNetFlow9 && version != VersionIPFIX:
	case id >= FirstDataSet:
		return DataSet
	case version == VersionNetFlow9 && id == NetFlow9Templates, version == VersionIPFIX && id == IPFIXTemplates:
		return TemplateSet
	case version == VersionNetFlow9 && id == NetFlow9Options, version == VersionIPFIX && id == IPFIXOptions:
		return OptionsTemplateSet
	}
	return UnknownSet
}

// ReadSetHeader reads a set header from r, which must have at least HeaderSet octets. n is the number
// of octets of r that follow and belong to the set. cause is empty, or
//   - wire.BadLength: the length is shorter than its own header, so no later set can be found;
//     n is 0.
//   - wire.Truncated: the length is beyond the end of r; n counts the octets of the set that r has.
//
// A set, RFC 3954 section 5.2 and RFC 7011 section 3.3.2, offsets in octets; length includes the
// header:
//
//	0        2        4                                    length
//	+--------+--------+------------------------------------+
//	| set id | length | records                  | padding |
//	+--------+--------+------------------------------------+
func ReadSetHeader(r *wire.Reader) (id uint16, n int, cause wire.Cause) {
	id = r.Uint16("set id")
	n = int(r.Uint16("set length")) - HeaderSet
	switch {
	case n < 0:
		return id, 0, wire.BadLength
	case n > r.Len():
		return id, r.Len(), wire.Truncated
	}
	return id, n, ""
}
