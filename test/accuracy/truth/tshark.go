package truth

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// fields are the columns that tshark prints, in this order.
var fields = []string{
	"frame.time_epoch", "frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "ip.len", "ipv6.plen",
	"tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport", "tcp.stream", "tcp.flags", "tcp.len",
	"dns.flags.response", "nbns.flags.response", "http.response", "ntp.flags.mode", "radius.code", "snmp.get_response_element",
}

// Columns of fields.
const (
	colTime = iota
	colProtocols
	colIPv4Src
	colIPv4Dst
	colIPv6Src
	colIPv6Dst
	colIPv4Length
	colIPv6Payload
	colTCPSrc
	colTCPDst
	colUDPSrc
	colUDPDst
	colTCPStream
	colTCPFlags
	colTCPPayload
	colDNSResponse
	colNBNSResponse
	colHTTPResponse
	colNTPMode
	colRADIUSCode
	colSNMPResponse
)

// Read returns the conversations of a capture, by tshark. Packets are taken by
// their outermost IP header; fragments are not put together, as exporters do not.
func Read(ctx context.Context, file string) ([]*Conversation, error) {
	args := []string{
		"-n", "-r", file, "-T", "fields", "-E", "occurrence=f", "-E", "separator=/t", "-o", "ip.defragment:FALSE",
		"-o", "ipv6.defragment:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE", "-Y", "tcp or udp",
	}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(ctx, "tshark", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	cut := bytes.Contains(stderr.Bytes(), []byte("cut short in the middle of a packet")) // all that is whole was printed
	if err != nil && !cut {
		return nil, fmt.Errorf("tshark %s: %w: %s", file, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return parse(bytes.NewReader(out))
}

// A streamID names a conversation: a stream of tshark for TCP, the two endpoints in
// their order for UDP. tshark's UDP streams are not used: it puts the two directions
// of SNMP, SIP or TFTP into streams of their own, as their dissectors expect the answer
// from another port.
type streamID struct {
	proto  uint8
	number int
	lo, hi netip.AddrPort
}

// answers reports whether columns are of a UDP packet that its protocol marks as an
// answer to another host: the QR bit of DNS, mDNS, LLMNR (RFC 1035, RFC 6762, RFC 4795)
// and NetBIOS names (RFC 1002), a status line of SSDP, mode 4 of NTP (RFC 5905), accept,
// reject, response and challenge of RADIUS (RFC 2865, RFC 2866), a GetResponse of SNMP
// (RFC 1157, RFC 3416). What is sent to a multicast group is an announcement.
func answers(columns []string, dst netip.Addr) bool {
	if dst.IsMulticast() {
		return false
	}
	for _, i := range []int{colDNSResponse, colNBNSResponse, colHTTPResponse} {
		if strings.ContainsAny(columns[i], "1T") {
			return true
		}
	}
	radius := []string{"2", "3", "5", "11"}
	return columns[colNTPMode] == "4" || slices.Contains(radius, columns[colRADIUSCode]) || columns[colSNMPResponse] != ""
}

// parse reads tshark's lines. Packets that are neither TCP nor UDP directly above
// the outermost IP header are passed over.
func parse(r io.Reader) ([]*Conversation, error) {
	streams := map[streamID]*Conversation{}
	var all []*Conversation
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		columns := strings.Split(lines.Text(), "\t")
		if len(columns) != len(fields) {
			return nil, fmt.Errorf("tshark printed %d columns, want %d: %q", len(columns), len(fields), lines.Text())
		}
		id, src, dst, p, ok := parsePacket(columns)
		if !ok {
			continue
		}
		c := streams[id]
		if c == nil {
			c = &Conversation{Proto: id.proto, A: src, B: dst}
			streams[id] = c
			all = append(all, c)
		}
		p.FromA = src == c.A
		c.Packets = append(c.Packets, p)
	}
	return all, lines.Err()
}

// parsePacket reads one line. ok is false for packets that are not taken.
func parsePacket(columns []string) (id streamID, src, dst netip.AddrPort, p Packet, ok bool) {
	network, transport := outermost(columns[colProtocols])
	srcAddr, dstAddr := columns[colIPv4Src], columns[colIPv4Dst]
	octets, err := strconv.Atoi(columns[colIPv4Length])
	if network == "ipv6" {
		srcAddr, dstAddr = columns[colIPv6Src], columns[colIPv6Dst]
		octets, err = strconv.Atoi(columns[colIPv6Payload])
		octets += 40
	}
	srcPort, dstPort := columns[colTCPSrc], columns[colTCPDst]
	switch transport {
	case "tcp":
		id.proto = TCP
	case "udp":
		id.proto = UDP
		srcPort, dstPort = columns[colUDPSrc], columns[colUDPDst]
	default:
		return id, src, dst, p, false
	}
	p.Octets = octets
	var errs [6]error
	errs[0] = err
	p.Time, errs[1] = parseTime(columns[colTime])
	src, errs[3] = parseEndpoint(srcAddr, srcPort)
	dst, errs[4] = parseEndpoint(dstAddr, dstPort)
	if id.proto == UDP {
		id.lo, id.hi = inOrder(src, dst)
		p.Answer = answers(columns, dst.Addr())
	} else {
		id.number, errs[2] = strconv.Atoi(columns[colTCPStream])
		var flags uint64
		flags, errs[5] = strconv.ParseUint(columns[colTCPFlags], 0, 16)
		p.Flags = uint8(flags)
		p.Payload, _ = strconv.Atoi(columns[colTCPPayload]) // absent of a header that is cut
	}
	return id, src, dst, p, errors.Join(errs[:]...) == nil // of a header that is cut, columns are empty
}

// outermost returns the first IP layer of tshark's frame.protocols, and the
// protocol above it, IPv6 extension headers passed over.
func outermost(protocols string) (network, transport string) {
	layers := strings.Split(protocols, ":")
	i := slices.IndexFunc(layers, func(l string) bool { return l == "ip" || l == "ipv6" })
	if i < 0 {
		return "", ""
	}
	network = layers[i]
	for _, l := range layers[i+1:] {
		if !strings.HasPrefix(l, "ipv6.") {
			return network, l
		}
	}
	return network, ""
}

func inOrder(a, b netip.AddrPort) (lo, hi netip.AddrPort) {
	if a.Compare(b) > 0 {
		return b, a
	}
	return a, b
}

func parseEndpoint(addr, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(a, uint16(n)), err
}

// parseTime reads seconds with a fraction as ns.
func parseTime(s string) (int64, error) {
	seconds, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	return sec*1e9 + ns, err
}
