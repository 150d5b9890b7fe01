package query

import (
	"math"
	"math/bits"

	"weir/internal/pair"
	"weir/internal/saturating"
	"weir/internal/services"
)

func sum(parts []uint64) uint64      { return saturating.Add(parts[0], parts[1]) }
func or(parts []uint64) uint64       { return parts[0] | parts[1] }
func greatest(parts []uint64) uint64 { return max(parts[0], parts[1]) }

// duration returns the ms from start to end, both ns since the epoch and cut to whole ms first; 0 if the end is
// earlier.
func duration(parts []uint64) uint64 {
	start, end := parts[0]/1e6, parts[1]/1e6
	return end - min(start, end)
}

// bitRate returns the bit/s of octets from start to end; 0 if they have no duration.
func bitRate(parts []uint64) uint64 { return perSecond(parts[0], 8000, duration(parts[1:])) }

// packetRate returns the packets a second from start to end; 0 if they have no duration.
func packetRate(parts []uint64) uint64 { return perSecond(parts[0], 1000, duration(parts[1:])) }

// perSecond returns n × factor ÷ ms, cut to a whole number and at most 2^64-1; 0 if ms is 0.
func perSecond(n, factor, ms uint64) uint64 {
	if ms == 0 {
		return 0
	}
	hi, lo := bits.Mul64(n, factor)
	if hi >= ms {
		return math.MaxUint64
	}
	quotient, _ := bits.Div64(hi, lo, ms)
	return quotient
}

// octetsPerPacket returns octets ÷ packets, cut to a whole number; 0 without packets.
func octetsPerPacket(parts []uint64) uint64 {
	if parts[1] == 0 {
		return 0
	}
	return parts[0] / parts[1]
}

// flowService returns the service name of the port that is more likely that of a service, else of the lower port; ""
// if it has none.
func flowService(parts []uint64) string {
	proto := uint8(parts[0])
	return services.Name(proto, pair.LikelyPort(proto, uint16(parts[1]), uint16(parts[2]), services.HasName))
}
