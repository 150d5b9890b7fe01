// Package retime moves the times in export datagrams: the export time of the header, and absolute times in data
// records. Times relative to the exporter's start (uptimes) move with the header.
package retime

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"weir/internal/decode"
	"weir/internal/ie"
	"weir/internal/ipfix"
)

// A Mover moves the times of datagrams. It learns templates from the datagrams, so it must see all of them in
// order. It must not be used concurrently.
type Mover struct {
	decoder   decode.Decoder
	result    decode.Result
	templates map[decode.TemplateKey][]decode.Field
}

// New returns a Mover. state must not be shared with another decoder.
func New(state decode.State) *Mover {
	return &Mover{decoder: decode.Decoder{State: state}, templates: map[decode.TemplateKey][]decode.Field{}}
}

// Move adds seconds to the times in b, in place. Malformed parts, and data records whose template has not arrived,
// are left unchanged.
func (m *Mover) Move(b []byte, from netip.AddrPort, received, seconds int64) {
	if len(b) < 16 {
		return
	}
	k := decode.TemplateKey{Exporter: decode.Map16(from.Addr()), Version: uint8(binary.BigEndian.Uint16(b))}
	switch binary.BigEndian.Uint16(b) {
	case 1, 5, 7: // unix_secs is after version, count and sysUptime
		addSeconds(b[8:], seconds)
	case ipfix.VersionNetFlow9: // RFC 3954 section 5.1
		if len(b) < ipfix.HeaderNetFlow9 {
			return
		}
		k.Domain = binary.BigEndian.Uint32(b[16:])
		m.learn(b, from, received, k)
		m.sets(b[ipfix.HeaderNetFlow9:], k, seconds)
		addSeconds(b[8:], seconds)
	case ipfix.VersionIPFIX: // RFC 7011 section 3.1
		k.Domain = binary.BigEndian.Uint32(b[12:])
		m.learn(b, from, received, k)
		end := max(ipfix.HeaderIPFIX, int(binary.BigEndian.Uint16(b[2:])))
		m.sets(b[ipfix.HeaderIPFIX:min(len(b), end)], k, seconds)
		addSeconds(b[4:], seconds)
	}
}

// learn stores the templates of the datagram b.
func (m *Mover) learn(b []byte, from netip.AddrPort, received int64, k decode.TemplateKey) {
	m.decoder.Read(b, &decode.Meta{Exporter: from.Addr(), Port: from.Port(), Received: received}, &m.result)
	for i := range m.result.Templates {
		t := &m.result.Templates[i].Template
		k.ID = t.ID
		m.templates[k] = slices.Clone(t.Fields)
	}
}

// sets moves the times of all data sets in b.
func (m *Mover) sets(b []byte, k decode.TemplateKey, seconds int64) {
	for len(b) >= 4 {
		id, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return
		}
		k.ID = id
		if fields := m.templates[k]; id >= ipfix.FirstDataSet && len(fields) > 0 {
			for rest := b[4:n]; len(rest) > 0; {
				size, ok := record(rest, fields, nil)
				if !ok || size == 0 {
					break // padding
				}
				record(rest, fields, func(f decode.Field, octets []byte) { moveField(k.Version, f, octets, seconds) })
				rest = rest[size:]
			}
		}
		b = b[n:]
	}
}

// record calls each with the fields of the record at the start of b and returns the length of the record. each may
// be nil. ok is false when b is shorter than the record.
func record(b []byte, fields []decode.Field, each func(decode.Field, []byte)) (size int, ok bool) {
	rest := b
	for _, f := range fields {
		var field []byte
		if field, rest, ok = ipfix.NextField(rest, f.Length); !ok {
			return 0, false
		}
		if each != nil {
			each(f, field)
		}
	}
	return len(b) - len(rest), true
}

// moveField moves a field that is an absolute time, RFC 7011 sections 6.1.7 to 6.1.10.
func moveField(version uint8, f decode.Field, octets []byte, seconds int64) {
	e, ok := ie.LookupField(uint16(version), f.PEN, f.ID)
	switch {
	case !ok:
	case e.Type == ie.Seconds && len(octets) == 4:
		addSeconds(octets, seconds)
	case e.Type == ie.Milliseconds && len(octets) == 8:
		add(octets, seconds*1000)
	case (e.Type == ie.Microseconds || e.Type == ie.Nanoseconds) && len(octets) == 8:
		switch v := binary.BigEndian.Uint64(octets); {
		case v == 0:
		case v >= ntp1970<<32: // NTP timestamp, as RFC 7011 requires
			addSeconds(octets, seconds)
		case v >= 1e17: // deviating exporters: ns since 1970,
			add(octets, seconds*1e9)
		default: // or µs since 1970
			add(octets, seconds*1e6)
		}
	}
}

// ntp1970 is the Unix epoch in NTP seconds (since 1900).
const ntp1970 = 2_208_988_800

func addSeconds(b []byte, seconds int64) {
	if v := binary.BigEndian.Uint32(b); v != 0 { // 0: unknown
		binary.BigEndian.PutUint32(b, uint32(int64(v)+seconds))
	}
}

func add(b []byte, n int64) {
	if v := binary.BigEndian.Uint64(b); v != 0 { // 0: unknown
		binary.BigEndian.PutUint64(b, uint64(int64(v)+n))
	}
}
