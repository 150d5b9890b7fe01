package demo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"weir/internal/cli/capture"
	"weir/testdata"
)

// A replayed capture is sent by its own exporter of the demo.
type replayed struct {
	file string
	from netip.Addr // source address, different for each capture
	most int        // number of datagrams; 0: all
}

// demoCaptures returns captures whose connections fit on one or two screens: the same conversations seen by two
// routers, of which only one sends templates, and a busier network behind a third router.
func demoCaptures() []replayed {
	return []replayed{
		{"softflowd_v9_synth_adj.pcap", netip.AddrFrom4([4]byte{127, 0, 0, 2}), 0},
		{"softflowd_v5_synth_adj.pcap", netip.AddrFrom4([4]byte{127, 0, 0, 3}), 0},
		// The first datagram has templates and 12 connections, the second has 16 connections.
		{"softflowd_v10_big.pcap", netip.AddrFrom4([4]byte{127, 0, 0, 4}), 2},
	}
}

// datagrams reads the UDP payloads of an embedded capture.
func datagrams(c replayed) ([][]byte, error) {
	b, err := testdata.Captures.ReadFile("captures/" + c.file)
	if err != nil {
		return nil, fmt.Errorf("embedded capture: %w", err)
	}
	r, err := capture.Open(bytes.NewReader(b), capture.Options{})
	if err != nil {
		return nil, fmt.Errorf("embedded capture %s: %w", c.file, err)
	}
	var all [][]byte
	var d capture.Datagram
	for c.most == 0 || len(all) < c.most {
		if err := r.Next(&d); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("embedded capture %s: %w", c.file, err)
		}
		all = append(all, bytes.Clone(d.Payload))
	}
	return all, nil
}

// hasTemplates reports whether an export datagram holds a template set or an options template set: set ids 0 and 1
// in NetFlow v9 (RFC 3954 sections 5.2 and 6.1), 2 and 3 in IPFIX (RFC 7011 section 3.3.2).
func hasTemplates(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	var header int
	var first uint16
	switch binary.BigEndian.Uint16(b) {
	case 9:
		header, first = 20, 0
	case 10:
		header, first = 16, 2
	default:
		return false
	}
	for off := header; off+4 <= len(b); {
		id, length := binary.BigEndian.Uint16(b[off:]), int(binary.BigEndian.Uint16(b[off+2:]))
		if id == first || id == first+1 {
			return true
		}
		off += max(length, 4)
	}
	return false
}

// openFrom opens a socket that sends from the loopback address from. On a system that configures 127.0.0.1 only
// (not Linux) it sends from that address, and own is false. The caller must close the socket.
func openFrom(from netip.Addr) (c *net.UDPConn, own bool, err error) {
	c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err == nil {
		return c, true, nil
	}
	c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	return c, false, err
}
