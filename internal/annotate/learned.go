package annotate

import (
	"net/netip"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// maxLearned bounds the names that are learned from flows. At the limit all are forgotten and learned again.
const maxLearned = 100_000

// A NameKey identifies a named object of an exporter.
type NameKey struct {
	Exporter [16]byte // IPv4 in its v4-mapped form
	Domain   uint32
	What     flowpb.Fact_What // WHAT_UNSPECIFIED: the exporter itself, ID 0
	ID       uint64
}

// Learned holds the names that flows carry: of the exporter, its interfaces, VRFs and applications. It is needed
// because a connection is reported later than its flows, and the pairing state keeps numbers only. It must be
// used by one goroutine at a time.
type Learned struct {
	names map[NameKey]string
	known func(NameKey) string
}

// NewLearned returns an empty Learned. known is the source of names that no flow carried; nil: there is none.
func NewLearned(known func(NameKey) string) *Learned {
	if known == nil {
		known = func(NameKey) string { return "" }
	}
	return &Learned{names: map[NameKey]string{}, known: known}
}

// Learn stores the names of a flow.
func (l *Learned) Learn(m *flowpb.FlowMessage) {
	k := NameKey{Exporter: flowkey.AddressOrZero(m.SamplerAddress)}
	l.put(k, m.ExporterName)
	k.Domain = m.ObservationDomainId
	k.What, k.ID = flowpb.Fact_WHAT_INTERFACE_NAME, uint64(m.InIf)
	l.put(k, m.InIfName)
	k.ID = uint64(m.OutIf)
	l.put(k, m.OutIfName)
	k.What, k.ID = flowpb.Fact_WHAT_VRF_NAME, uint64(m.IngressVrfId)
	l.put(k, m.IngressVrfName)
	k.ID = uint64(m.EgressVrfId)
	l.put(k, m.EgressVrfName)
	k.What, k.ID = flowpb.Fact_WHAT_APPLICATION_NAME, number(m.ApplicationId)
	l.put(k, m.ApplicationName)
}

// put stores a name. An empty name does not replace another.
func (l *Learned) put(k NameKey, name string) {
	if name == "" || l.names[k] == name {
		return
	}
	if len(l.names) >= maxLearned {
		clear(l.names)
	}
	l.names[k] = name
}

// Name returns the newest name that a flow carried, else the name from known, else "".
func (l *Learned) Name(k NameKey) string {
	if s := l.names[k]; s != "" {
		return s
	}
	return l.known(k)
}

// Exporter returns an exporter's name, else its address as text.
func (l *Learned) Exporter(a [16]byte) string {
	if s := l.names[NameKey{Exporter: a}]; s != "" {
		return s
	}
	return netip.AddrFrom16(a).Unmap().String()
}

// number returns an application id as a NameKey.ID: its octets in network order.
func number(id []byte) (n uint64) {
	for _, b := range id {
		n = n<<8 | uint64(b)
	}
	return n
}
