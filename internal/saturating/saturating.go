// Package saturating adds and multiplies counters without wrapping. A result above
// 2^64-1 is 2^64-1: the counters of exporters cannot be trusted.
package saturating

import (
	"math"
	"math/bits"
)

// Add returns a + b, at most 2^64-1.
func Add(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return math.MaxUint64
	}
	return sum
}

// Mul returns a × b, at most 2^64-1.
func Mul(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}

// Estimate returns a counter of a flow multiplied by its sampling rate, 1 in N. A rate
// of 0 is unknown and counts as 1.
func Estimate(counter, rate uint64) uint64 { return Mul(counter, max(rate, 1)) }
