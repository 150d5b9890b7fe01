package budget

import (
	"net/netip"
	"sort"
	"time"

	"weir/internal/decode"
)

// Decoding can multiply the octets of a datagram: each small record gets the interface names of its
// exporter. Output is the size of the protobuf messages with their keys. Up to FreeOutput times the
// octets received it is free, which covers the records of real exporters; output beyond that is
// charged to a Budget.
const (
	FreeOutput = 12
	// extraOutput bounds the output of a message beyond FreeOutput, per octet received; maxExtra
	// bounds it per message. Both limit the work done before a Budget refuses the output.
	extraOutput = 64
	maxExtra    = 256 << 10
)

// OutputLimit returns the decode.Decoder.MaxOctets for a message of the given number of octets.
func OutputLimit(octets int) int {
	return FreeOutput*octets + min(extraOutput*octets, maxExtra)
}

// ChargeOutput charges the output of res beyond the free output of a message of the given number of
// octets. If b refuses it, ChargeOutput removes the flows beyond the free output from res and adds
// their number to res.Beyond, which also counts the flows beyond MaxOctets of the decoder.
func (b *Budget) ChargeOutput(res *decode.Result, exporter netip.Addr, octets int, now time.Time) {
	free := FreeOutput * octets
	if len(res.Buf) > free && b.Spend(exporter, len(res.Buf)-free, now) != None {
		cutFlows(res, free)
	}
}

// cutFlows removes the flows of res that end after the first octets of its buffer, and counts them in
// res.Beyond.
func cutFlows(res *decode.Result, octets int) {
	keep := sort.Search(len(res.Flows), func(i int) bool { return res.Flows[i].KeyEnd > octets })
	res.Beyond += len(res.Flows) - keep
	res.Flows = res.Flows[:keep]
}
