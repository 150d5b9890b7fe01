package query

import (
	"cmp"
	"slices"
)

// ranges is a set of numbers: ranges in ascending order that do not overlap.
type ranges []Value

func newRanges(values []Value) ranges {
	sorted := slices.Clone(values)
	slices.SortFunc(sorted, func(a, b Value) int { return cmp.Compare(a.Number, b.Number) })
	var r ranges
	for _, v := range sorted {
		if n := len(r); n > 0 && v.Number <= r[n-1].Last {
			r[n-1].Last = max(r[n-1].Last, v.Last)
			continue
		}
		r = append(r, v)
	}
	return r
}

func (r ranges) contains(x uint64) bool {
	i, found := slices.BinarySearchFunc(r, x, func(v Value, x uint64) int { return cmp.Compare(v.Number, x) })
	return found || i > 0 && x <= r[i-1].Last
}
