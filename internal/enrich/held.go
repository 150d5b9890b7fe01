package enrich

import (
	"net/netip"

	"weir/internal/flowkey"
)

// wantHeld wants the names of the connections that are open in a newly assigned
// partition: this process has not seen them open. What the resolver cannot hold is
// left out. After an abort everything was wanted already.
func (w handler) wantHeld(p *partition) {
	if p.again || !w.annotator.NamesHosts() {
		return
	}
	p.machine.EachOpen(func(k *flowkey.Key) bool {
		return w.annotator.Names.WantLater(netip.AddrFrom16(k.Lo)) && w.annotator.Names.WantLater(netip.AddrFrom16(k.Hi))
	})
}
