package budget

import (
	"net/netip"
	"sort"
	"time"

	"weir/internal/decode"
)

// A datagram can ask for many times its octets: small records, each with the names
// that its exporter gave to interfaces. Output, messages and their keys as protobuf,
// is free up to FreeOutput times what was received, which covers records of real
// exporters. What is beyond is taken off a Budget.
const (
	FreeOutput = 12
	// extraOutput bounds the output of one message beyond that, by octet received, and
	// maxExtra in all: the work that is done before a budget refuses it.
	extraOutput = 64
	maxExtra    = 256 << 10
)

// OutputLimit is the decode.Decoder.MaxOctets for a message of so many octets.
func OutputLimit(octets int) int {
	return FreeOutput*octets + min(extraOutput*octets, maxExtra)
}

// ChargeOutput takes the output of res beyond what is free for a message of so many
// octets off b. When b refuses it, the flows beyond are dropped: they count as
// res.Beyond, as those that decoding left out.
func (b *Budget) ChargeOutput(res *decode.Result, exporter netip.Addr, octets int, now time.Time) {
	free := FreeOutput * octets
	if len(res.Buf) > free && b.Spend(exporter, len(res.Buf)-free, now) != None {
		cutFlows(res, free)
	}
}

// cutFlows drops the flows of res that end beyond octets of its buffer.
func cutFlows(res *decode.Result, octets int) {
	keep := sort.Search(len(res.Flows), func(i int) bool { return res.Flows[i].KeyEnd > octets })
	res.Beyond += len(res.Flows) - keep
	res.Flows = res.Flows[:keep]
}
