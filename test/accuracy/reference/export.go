package reference

import (
	"encoding/binary"
	"time"

	"weir/test/accuracy/export"
	"weir/test/accuracy/truth"
)

// A Form is how flow records are written.
type Form uint8

// Forms of export. The three of IPFIX differ in how they say times.
const (
	V5           Form = iota
	V9                // times by the exporter's uptime, ms
	IPFIX             // flowStartMilliseconds
	IPFIXSeconds      // flowStartSeconds
	IPFIXNano         // flowStartNanoseconds
)

// IPv6 tells whether f can say IPv6 addresses.
func (f Form) IPv6() bool { return f != V5 }

// Limits of a datagram: it leaves when it holds this many records, or this long
// after its first one.
const (
	recordsOfDatagram = 20
	holdTime          = time.Second
)

const (
	domain        = 7
	templateIPv4  = 256
	templateIPv6  = 257
	uptimeAtStart = 10 * time.Second // of the exporter, when the first flow began
)

// Export meters the conversations and returns the exporter's datagrams.
func Export(conversations []*truth.Conversation, m Meter, form Form) []export.Datagram {
	flows := m.flows(conversations)
	if len(flows) == 0 {
		return nil
	}
	boot := flows[0].first
	for _, f := range flows {
		boot = min(boot, f.first)
	}
	e := encoder{form: form, rate: max(1, m.Rate), boot: boot - int64(uptimeAtStart)}
	var out []export.Datagram
	send := func(at int64, held []flow) {
		if d := e.datagram(at, held); d != nil {
			out = append(out, export.Datagram{Time: at, Payload: d})
		}
	}
	var held []flow
	for _, f := range flows {
		if !form.IPv6() && f.src.Addr().Is6() {
			continue
		}
		if len(held) > 0 && f.expired > held[0].expired+int64(holdTime) {
			send(held[0].expired+int64(holdTime), held)
			held = nil
		}
		if held = append(held, f); len(held) == recordsOfDatagram {
			send(f.expired, held)
			held = nil
		}
	}
	if len(held) > 0 {
		send(held[0].expired+int64(holdTime), held)
	}
	return out
}

// An encoder writes the datagrams of one exporter.
type encoder struct {
	form     Form
	rate     int
	boot     int64 // ns since the epoch
	sequence uint32
}

// datagram returns the octets of a datagram sent at the instant at, ns since the epoch.
func (e *encoder) datagram(at int64, flows []flow) []byte {
	switch e.form {
	case V5:
		return e.v5(at, flows)
	case V9:
		return e.v9(at, flows)
	default:
		return e.ipfix(at, flows)
	}
}

var be = binary.BigEndian

// uptime is the exporter's at the instant t, ms.
func (e *encoder) uptime(t int64) uint32 { return uint32((t - e.boot) / int64(time.Millisecond)) }

// v5 writes a header of 24 octets and records of 48.
func (e *encoder) v5(at int64, flows []flow) []byte {
	const randomSampling = 2 << 14
	b := be.AppendUint16(nil, 5)
	b = be.AppendUint16(b, uint16(len(flows)))
	b = be.AppendUint32(b, e.uptime(at))
	b = be.AppendUint32(b, uint32(at/1e9))
	b = be.AppendUint32(b, uint32(at%1e9))
	b = be.AppendUint32(b, e.sequence)
	b = append(b, 0, 0) // engine
	sampling := uint16(0)
	if e.rate > 1 {
		sampling = randomSampling | uint16(e.rate)
	}
	b = be.AppendUint16(b, sampling)
	for _, f := range flows {
		b = append(b, f.src.Addr().AsSlice()...)
		b = append(b, f.dst.Addr().AsSlice()...)
		b = append(b, 0, 0, 0, 0) // next hop
		b = be.AppendUint16(b, 1) // input
		b = be.AppendUint16(b, 2) // output
		b = be.AppendUint32(b, uint32(f.packets))
		b = be.AppendUint32(b, uint32(f.octets))
		b = be.AppendUint32(b, e.uptime(f.first))
		b = be.AppendUint32(b, e.uptime(f.last))
		b = be.AppendUint16(b, f.src.Port())
		b = be.AppendUint16(b, f.dst.Port())
		b = append(b, 0, f.flags, f.proto, 0)
		b = append(b, make([]byte, 8)...) // AS, masks
	}
	e.sequence += uint32(len(flows))
	return b
}

// v9 writes a header of 20 octets; its sequence counts datagrams.
func (e *encoder) v9(at int64, flows []flow) []byte {
	b := be.AppendUint16(nil, 9)
	b = be.AppendUint16(b, uint16(2+len(flows))) // records, two templates among them
	b = be.AppendUint32(b, e.uptime(at))
	b = be.AppendUint32(b, uint32(at/1e9))
	b = be.AppendUint32(b, e.sequence)
	b = be.AppendUint32(b, domain)
	e.sequence++
	return e.sets(b, 0, flows)
}

// ipfix writes a header of 16 octets; its sequence counts records.
func (e *encoder) ipfix(at int64, flows []flow) []byte {
	b := be.AppendUint16(nil, 10)
	b = be.AppendUint16(b, 0) // length, below
	b = be.AppendUint32(b, uint32(at/1e9))
	b = be.AppendUint32(b, e.sequence)
	b = be.AppendUint32(b, domain)
	e.sequence += uint32(len(flows))
	b = e.sets(b, 2, flows)
	be.PutUint16(b[2:], uint16(len(b)))
	return b
}

// sets appends a set of both templates with the id templateSet, and the data sets.
func (e *encoder) sets(b []byte, templateSet uint16, flows []flow) []byte {
	b = appendSet(b, templateSet, func(b []byte) []byte {
		return e.appendTemplate(e.appendTemplate(b, templateIPv4, false), templateIPv6, true)
	})
	for _, id := range []uint16{templateIPv4, templateIPv6} {
		set := appendSet(nil, id, func(b []byte) []byte {
			for _, f := range flows {
				if f.src.Addr().Is6() == (id == templateIPv6) {
					b = e.appendRecord(b, f)
				}
			}
			return b
		})
		if len(set) > 4 {
			b = append(b, set...)
		}
	}
	return b
}

// appendSet appends a set header and what content appends.
func appendSet(b []byte, id uint16, content func([]byte) []byte) []byte {
	start := len(b)
	b = be.AppendUint16(b, id)
	b = be.AppendUint16(b, 0)
	b = content(b)
	be.PutUint16(b[start+2:], uint16(len(b)-start))
	return b
}

// An element is an Information Element and its length in octets.
type element struct{ id, length uint16 }

// elements lists what a record has, in the order in which appendRecord writes it.
func (e *encoder) elements(ipv6 bool) []element {
	list := []element{{8, 4}, {12, 4}} // sourceIPv4Address, destinationIPv4Address
	if ipv6 {
		list = []element{{27, 16}, {28, 16}}
	}
	list = append(list, element{7, 2}, element{11, 2}, element{4, 1}, element{6, 1}) // ports, protocol, flags
	counter := uint16(8)
	if e.form == V9 {
		counter = 4
	}
	list = append(list, element{1, counter}, element{2, counter}) // octets, packets
	switch e.form {
	case V5: // has no template
	case V9:
		list = append(list, element{22, 4}, element{21, 4})
	case IPFIX:
		list = append(list, element{152, 8}, element{153, 8})
	case IPFIXSeconds:
		list = append(list, element{150, 4}, element{151, 4})
	case IPFIXNano:
		list = append(list, element{156, 8}, element{157, 8})
	}
	if e.form != V9 {
		list = append(list, element{136, 1}) // flowEndReason
	}
	return append(list, element{34, 4}) // samplingInterval
}

func (e *encoder) appendTemplate(b []byte, id uint16, ipv6 bool) []byte {
	list := e.elements(ipv6)
	b = be.AppendUint16(b, id)
	b = be.AppendUint16(b, uint16(len(list)))
	for _, l := range list {
		b = be.AppendUint16(b, l.id)
		b = be.AppendUint16(b, l.length)
	}
	return b
}

func (e *encoder) appendRecord(b []byte, f flow) []byte {
	b = append(b, f.src.Addr().AsSlice()...)
	b = append(b, f.dst.Addr().AsSlice()...)
	b = be.AppendUint16(b, f.src.Port())
	b = be.AppendUint16(b, f.dst.Port())
	b = append(b, f.proto, f.flags)
	if e.form == V9 {
		b = be.AppendUint32(b, uint32(f.octets))
		b = be.AppendUint32(b, uint32(f.packets))
	} else {
		b = be.AppendUint64(b, f.octets)
		b = be.AppendUint64(b, f.packets)
	}
	for _, t := range []int64{f.first, f.last} {
		b = e.appendTime(b, t)
	}
	if e.form != V9 {
		b = append(b, f.reason)
	}
	return be.AppendUint32(b, uint32(e.rate))
}

func (e *encoder) appendTime(b []byte, t int64) []byte {
	switch e.form {
	case V9:
		return be.AppendUint32(b, e.uptime(t))
	case IPFIXSeconds:
		return be.AppendUint32(b, uint32(t/1e9))
	case IPFIXNano: // NTP timestamp, RFC 7011 section 6.1.10
		const ntpEpoch = 2208988800 // seconds from 1900 to 1970
		b = be.AppendUint32(b, uint32(t/1e9+ntpEpoch))
		return be.AppendUint32(b, uint32(uint64(t%1e9)<<32/1e9))
	default:
		return be.AppendUint64(b, uint64(t/int64(time.Millisecond)))
	}
}
