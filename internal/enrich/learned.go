package enrich

import (
	"net/netip"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// maxLearned bounds the names that are learned from flows. A pipeline of more
// forgets them all and learns again.
const maxLearned = 100_000

// learned are the names that flows bring with them: of the exporter, its
// interfaces, VRFs and applications. Reports of connections come later than their
// flows, and state keeps numbers only.
type learned struct {
	names map[nameKey]string
	facts *facts
}

func newLearned(f *facts) *learned { return &learned{names: map[nameKey]string{}, facts: f} }

// take learns from a flow.
func (l *learned) take(m *flowpb.FlowMessage) {
	k := nameKey{exporter: addr16(m.SamplerAddress)}
	l.put(k, m.ExporterName)
	k.domain = m.ObservationDomainId
	k.what, k.id = flowpb.Fact_WHAT_INTERFACE_NAME, uint64(m.InIf)
	l.put(k, m.InIfName)
	k.id = uint64(m.OutIf)
	l.put(k, m.OutIfName)
	k.what, k.id = flowpb.Fact_WHAT_VRF_NAME, uint64(m.IngressVrfId)
	l.put(k, m.IngressVrfName)
	k.id = uint64(m.EgressVrfId)
	l.put(k, m.EgressVrfName)
	k.what, k.id = flowpb.Fact_WHAT_APPLICATION_NAME, number(m.ApplicationId)
	l.put(k, m.ApplicationName)
}

func (l *learned) put(k nameKey, name string) {
	if name == "" || l.names[k] == name {
		return
	}
	if len(l.names) >= maxLearned {
		clear(l.names)
	}
	l.names[k] = name
}

// name is what flows said last, else what the topic of templates says.
func (l *learned) name(k nameKey) string {
	if s := l.names[k]; s != "" {
		return s
	}
	return l.facts.name(k)
}

// exporter is an exporter's name, else its address.
func (l *learned) exporter(a [16]byte) string {
	if s := l.names[nameKey{exporter: a}]; s != "" {
		return s
	}
	return netip.AddrFrom16(a).Unmap().String()
}

// addr16 is flowkey.Address, zero for what is none.
func addr16(b []byte) [16]byte {
	a, _ := flowkey.Address(b)
	return a
}

// number is an application id as it is the key of its name.
func number(id []byte) (n uint64) {
	for _, b := range id {
		n = n<<8 | uint64(b)
	}
	return n
}
