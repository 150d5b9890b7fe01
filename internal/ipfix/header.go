package ipfix

import "weir/internal/wire"

// A Header is the header of a datagram, in one form for all versions.
type Header struct {
	Version  uint16 // 1, 5, 7, VersionNetFlow9 or VersionIPFIX
	Count    uint16 // number of records as stated (v1, v5, v7, v9); IPFIX: message length in octets
	Uptime   uint32 // sysUptime, ms; 0 for IPFIX
	Export   int64  // export time, ns since the epoch
	Sequence uint32 // 0 for v1
	Domain   uint32 // v9 source id, IPFIX observation domain, v5 engine type<<8 | engine id
	Sampling uint16 // v5: 2 bits mode, 14 bits interval
}

const second = int64(1e9) // ns

// ReadHeader reads the header of any version into h. On failure ok is false and e has the place and
// cause. Offsets in octets:
//
//	            0       2       4        8        12       16       20     22     24
//	v1          | ver 1 | count | uptime | secs   | nsecs  |
//	v5          | ver 5 | count | uptime | secs   | nsecs  | seq    | engine | sampling |
//	v7          | ver 7 | count | uptime | secs   | nsecs  | seq    | reserved |
//	NetFlow v9  | ver 9 | count | uptime | secs   | seq    | source |
//	IPFIX       | ver 10| length| secs   | seq    | domain |
//
// Sources: Cisco's NetFlow export formats, RFC 3954 section 5.1, RFC 7011 section 3.1. length is that
// of the message, header included.
func ReadHeader(r *wire.Reader, h *Header) (e wire.Error, ok bool) {
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
