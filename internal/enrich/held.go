package enrich

import (
	"net/netip"

	"weir/internal/flowkey"
)

// wantHeld queues name lookups for the open connections of a newly assigned partition. This process did not see them
// open, so that their first reports would lack names. It stops when the resolver's queue is full. After an abort it
// does nothing: the lookups are queued already.
func (w handler) wantHeld(p *partition) {
	if p.again || !w.annotator.NamesHosts() {
		return
	}
	p.machine.EachOpen(func(k *flowkey.Key) bool {
		return w.annotator.Names.WantLater(netip.AddrFrom16(k.Lo)) && w.annotator.Names.WantLater(netip.AddrFrom16(k.Hi))
	})
}
