package page

import (
	"net/netip"
	"strconv"
	"strings"

	"weir/pkg/flowpb"
)

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// row is a connection as the page lists it. Texts are as they came: the page puts
// them in as text.
func row(c *flowpb.Connection) Connection {
	r := Connection{
		ID: string(c.GetConnectionId()), Start: c.GetStartUnixNs() / 1e6, Seconds: float64(c.GetEndUnixNs()-c.GetStartUnixNs()) / 1e9,
		Service:   serviceOf(c),
		Initiator: end(c, c.GetInitiator()), InitiatorName: c.GetInitiator().GetName(),
		Responder: end(c, c.GetResponder()), ResponderName: c.GetResponder().GetName(),
		Octets: estimated(c.GetForward()) + estimated(c.GetReverse()), Packets: c.GetForward().GetPackets() + c.GetReverse().GetPackets(),
		Answered: c.GetForward() != nil && c.GetReverse() != nil, Final: c.GetFinal(),
		Direction: strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(c.GetDirectionMethod().String(), "DIRECTION_METHOD_"), "_", " ")),
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

// end is an address with its port.
func end(c *flowpb.Connection, e *flowpb.Endpoint) string {
	a, ok := netip.AddrFromSlice(e.GetAddress())
	switch {
	case !ok:
		return "?"
	case c.IcmpType != nil || e.GetPort() == 0:
		return a.String()
	}
	return netip.AddrPortFrom(a, uint16(e.GetPort())).String()
}
