package page

import (
	"net/netip"
	"strconv"
	"strings"

	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func estimated(t *flowpb.Traffic) uint64 { return max(t.GetOctets(), t.GetOctetsEst()) }

// row returns a connection in the form of the page. Texts from the network are not escaped here: the page must
// insert them as text nodes.
func row(c *flowpb.Connection) Connection {
	r := Connection{
		ID: string(c.GetConnectionId()), Start: c.GetStartUnixNs() / 1e6,
		Seconds:   float64(c.GetEndUnixNs()-c.GetStartUnixNs()) / 1e9,
		Service:   serviceOf(c),
		Initiator: end(c, c.GetInitiator()), InitiatorName: c.GetInitiator().GetName(),
		Responder: end(c, c.GetResponder()), ResponderName: c.GetResponder().GetName(),
		Octets:    saturating.Add(estimated(c.GetForward()), estimated(c.GetReverse())),
		Packets:   saturating.Add(c.GetForward().GetPackets(), c.GetReverse().GetPackets()),
		Answered:  c.GetForward() != nil && c.GetReverse() != nil,
		Direction: direction(c),
	}
	t := c.GetForward()
	if t == nil {
		t = c.GetReverse()
	}
	if in, out := t.GetInputIfName(), t.GetOutputIfName(); in != "" || out != "" {
		r.Via = in + " → " + out
	}
	return r
}

// end returns the address and port of an endpoint.
func end(c *flowpb.Connection, e *flowpb.Endpoint) string {
	a, ok := netip.AddrFromSlice(e.GetAddress())
	if !ok {
		return "?"
	}
	port := uint16(e.GetPort())
	if c.IcmpType != nil {
		port = 0
	}
	return endpoint(netip.AddrPortFrom(a, port))
}

// direction returns the evidence for the initiator in words.
func direction(c *flowpb.Connection) string {
	return strings.ToLower(strings.ReplaceAll(
		strings.TrimPrefix(c.GetDirectionMethod().String(), "DIRECTION_METHOD_"), "_", " "))
}
