// Package export has the datagrams that an exporter sent, as a capture.
package export

import (
	"encoding/binary"
	"time"
)

// A Datagram is the payload of one UDP datagram of an exporter.
type Datagram struct {
	Time    int64 // when it was received, ns since the epoch
	Payload []byte
}

// HeaderTime returns the export time of a NetFlow v5, v9 or IPFIX header, ns since
// the epoch, 0 of anything else. A capture is exported faster than it was
// recorded; the header has the time at which an exporter in the network would send.
func HeaderTime(payload []byte) int64 {
	if len(payload) < 16 {
		return 0
	}
	seconds := func(off int) int64 { return int64(binary.BigEndian.Uint32(payload[off:])) * int64(time.Second) }
	switch binary.BigEndian.Uint16(payload) {
	case 5:
		return seconds(8) + int64(binary.BigEndian.Uint32(payload[12:]))
	case 9:
		return seconds(8)
	case 10:
		return seconds(4)
	}
	return 0
}

// Pcap returns the datagrams as a capture file of packets from 127.0.0.1 to
// 127.0.0.1, port 2055.
func Pcap(datagrams []Datagram) []byte {
	const linkTypeRaw = 101
	le, be := binary.LittleEndian, binary.BigEndian
	b := le.AppendUint32(nil, 0xa1b23c4d) // times in ns
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(b, 65535)
	b = le.AppendUint32(b, linkTypeRaw)
	for _, d := range datagrams {
		length := 28 + len(d.Payload)
		b = le.AppendUint32(b, uint32(d.Time/1e9))
		b = le.AppendUint32(b, uint32(d.Time%1e9))
		b = le.AppendUint32(b, uint32(length))
		b = le.AppendUint32(b, uint32(length))

		b = append(b, 0x45, 0) // IPv4
		b = be.AppendUint16(b, uint16(length))
		b = append(b, 0, 0, 0, 0, 64, 17, 0, 0)
		b = append(b, 127, 0, 0, 1, 127, 0, 0, 1)

		b = be.AppendUint16(b, 40000) // UDP, no checksum
		b = be.AppendUint16(b, 2055)
		b = be.AppendUint16(b, uint16(8+len(d.Payload)))
		b = append(b, 0, 0)
		b = append(b, d.Payload...)
	}
	return b
}
