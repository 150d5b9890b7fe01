package enrich

import (
	"net/netip"

	"weir/internal/flowkey"
)

// wantHeld queues name lookups for the connections that are open in a newly assigned partition, because this process
// did not see them open. It stops when the resolver's queue is full. After an abort the lookups were queued before.
// Otherwise the first reports after a restart would lack names.
func (w handler) wantHeld(p *partition) {
	if p.again || !w.annotator.NamesHosts() {
		return
	}
	p.machine.EachOpen(func(k *flowkey.Key) bool {
		return w.annotator.Names.WantLater(netip.AddrFrom16(k.Lo)) && w.annotator.Names.WantLater(netip.AddrFrom16(k.Hi))
	})
}
