package annotate

import (
	"net/netip"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// maxLearned bounds the names that are learned from flows. A pipeline of more
// forgets them all and learns again.
const maxLearned = 100_000

// A NameKey identifies an object that an exporter names.
type NameKey struct {
	Exporter [16]byte // IPv4 in its v4-mapped form
	Domain   uint32
	What     flowpb.Fact_What // WHAT_UNSPECIFIED: the exporter itself, ID 0
	ID       uint64
}

// Learned holds the names that flows carry: of the exporter, its interfaces, VRFs and applications. A connection is
// reported later than its flows, and the pairing state keeps numbers only. It must be used by one goroutine at a time.
type Learned struct {
	names map[NameKey]string
	known func(NameKey) string
}

// NewLearned returns an empty Learned. known is asked for a name that no flow brought; nil: there are no others.
func NewLearned(known func(NameKey) string) *Learned {
	if known == nil {
		known = func(NameKey) string { return "" }
	}
	return &Learned{names: map[NameKey]string{}, known: known}
}

// Learn takes the names of a flow.
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

func (l *Learned) put(k NameKey, name string) {
	if name == "" || l.names[k] == name {
		return
	}
	if len(l.names) >= maxLearned {
		clear(l.names)
	}
	l.names[k] = name
}

// Name returns the newest name that a flow brought, else the one that is known otherwise, else "".
func (l *Learned) Name(k NameKey) string {
	if s := l.names[k]; s != "" {
		return s
	}
	return l.known(k)
}

// Exporter returns an exporter's name, else its address.
func (l *Learned) Exporter(a [16]byte) string {
	if s := l.names[NameKey{Exporter: a}]; s != "" {
		return s
	}
	return netip.AddrFrom16(a).Unmap().String()
}

// number returns an application id as the ID of its name.
func number(id []byte) (n uint64) {
	for _, b := range id {
		n = n<<8 | uint64(b)
	}
	return n
}
