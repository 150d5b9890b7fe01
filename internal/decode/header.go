package decode

import (
	"github.com/cespare/xxhash/v2"

	"weir/internal/wire"
)

// Octets of headers and records on the wire: Cisco's NetFlow export formats, RFC 3954, RFC 7011.
const (
	v1Header, v1Record = 16, 48
	v5Header, v5Record = 24, 48
	v7Header, v7Record = 24, 52
	v9Header           = 20
	ipfixHeader        = 16
)

const second = int64(1e9)

// readHeader reads the header of any version into h. On failure ok is false and e has the place and
// cause.
func readHeader(r *wire.Reader, h *Header) (e wire.Error, ok bool) {
	*h = Header{Version: r.Uint16("version")}
	if e, bad := r.Failure(); bad {
		return e, false
	}
	switch h.Version {
	case 1, 5, 7:
		h.Count = r.Uint16("count")
		h.Uptime = r.Uint32("sysUptime")
		h.Export = int64(r.Uint32("unix seconds"))*second + int64(r.Uint32("unix nanoseconds"))
		if h.Version == 1 {
			break
		}
		h.Sequence = r.Uint32("flow sequence")
		if h.Version == 7 {
			r.Uint32("reserved")
			break
		}
		h.Domain = uint32(r.Uint16("engine type and id"))
		h.Sampling = r.Uint16("sampling")
	case VersionNetFlow9:
		h.Count = r.Uint16("count")
		h.Uptime = r.Uint32("sysUptime")
		h.Export = int64(r.Uint32("unix seconds")) * second
		h.Sequence = r.Uint32("sequence number")
		h.Domain = r.Uint32("source id")
	case VersionIPFIX:
		h.Count = r.Uint16("message length")
		h.Export = int64(r.Uint32("export time")) * second
		h.Sequence = r.Uint32("sequence number")
		h.Domain = r.Uint32("observation domain id")
	default:
		return wire.Error{What: "version", Cause: wire.UnknownVersion}, false
	}
	if e, bad := r.Failure(); bad {
		e.What = "header: " + e.What
		return e, false
	}
	return wire.Error{}, true
}

// legacy describes the records of v1, v5 and v7 as templates of Information Elements; element 210
// (paddingOctets) is padding. Source: Cisco's NetFlow export formats.
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
