package enrich

import (
	"net/netip"
	"slices"

	"weir/internal/annotate/cryptopan"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// finish adds to a connection what is not the pairing's: names, networks, AS and
// country, or takes away what is to stay hidden.
func (w *Worker) finish(c *flowpb.Connection) {
	c.Service = services.Name(uint8(c.Protocol), uint16(c.Responder.Port))
	for _, t := range []*flowpb.Traffic{c.Forward, c.Reverse} {
		if t != nil {
			w.interfaces(t)
		}
	}
	if t := c.Forward; len(c.ApplicationId) > 0 {
		if t == nil {
			t = c.Reverse
		}
		c.ApplicationName = w.learned.name(nameKey{addr16(t.GetExporter()), t.GetDomain(), flowpb.Fact_WHAT_APPLICATION_NAME, number(c.ApplicationId)})
	}
	w.place(c)
	if w.hide != nil {
		anonymize(c, w.hide)
	} else {
		w.host(c.Initiator)
		w.host(c.Responder)
	}
	c.CommunityId = pair.CommunityID(c)
}

// interfaces names a direction's interfaces and VRFs.
func (w *Worker) interfaces(t *flowpb.Traffic) {
	k := nameKey{addr16(t.Exporter), t.Domain, flowpb.Fact_WHAT_INTERFACE_NAME, uint64(t.InputIf)}
	t.InputIfName = w.learned.name(k)
	k.id = uint64(t.OutputIf)
	t.OutputIfName = w.learned.name(k)
	k.what = flowpb.Fact_WHAT_VRF_NAME
	if k.id = uint64(t.InputVrf); k.id != 0 {
		t.InputVrfName = w.learned.name(k)
	}
	if k.id = uint64(t.OutputVrf); k.id != 0 {
		t.OutputVrfName = w.learned.name(k)
	}
}

// place sets AS, country and where the ends are.
func (w *Worker) place(c *flowpb.Connection) {
	for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
		a, ok := netip.AddrFromSlice(e.Address)
		if !ok {
			continue
		}
		asn, country := w.geo.Lookup(a)
		if e.Country = country; e.Asn == 0 { // the exporter's comes first
			e.Asn = asn
		}
		e.IsHome = slices.ContainsFunc(w.c.HomeNets, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if len(w.c.HomeNets) == 0 {
		return
	}
	switch from, to := c.Initiator.IsHome, c.Responder.IsHome; {
	case from && to:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_INTERNAL
	case from:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_OUTBOUND
	case to:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_INBOUND
	default:
		c.NetworkDirection = flowpb.NetworkDirection_NETWORK_DIRECTION_EXTERNAL
	}
}

// host sets what is known of an end's name now.
func (w *Worker) host(e *flowpb.Endpoint) {
	a, ok := netip.AddrFromSlice(e.Address)
	if !ok {
		return
	}
	n := w.names.Peek(a)
	e.Name, e.NameStatus, e.NameVerified, e.NameSource = n.Name, n.Status, n.Verified, n.Source
}

// anonymize maps all addresses of c, and takes away what would tell of them. The
// connection's id becomes its tag, the same on every replica.
func anonymize(c *flowpb.Connection, m *cryptopan.Map) {
	for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
		e.Address, e.NatAddress, e.Mac = mapped(m, e.Address), mapped(m, e.NatAddress), nil
		e.Name, e.NameStatus, e.NameVerified, e.NameSource = "", flowpb.NameStatus_NAME_STATUS_DISABLED, false, 0
	}
	for _, t := range []*flowpb.Traffic{c.Forward, c.Reverse} {
		if t != nil {
			t.Exporter = mapped(m, t.Exporter)
		}
	}
	c.ConnectionId = m.Tag(c.ConnectionId)
}

func mapped(m *cryptopan.Map, address []byte) []byte {
	a, ok := netip.AddrFromSlice(address)
	if !ok {
		return nil
	}
	return m.Addr(a).AsSlice()
}
