package query

import (
	"net/netip"
	"slices"
)

// A prefixSet is a set of networks.
type prefixSet struct {
	single  netip.Prefix // of a set of one
	lengths [2][]int     // of the networks of IPv4 and IPv6
	members map[netip.Prefix]struct{}
}

func newPrefixSet(values []Value) *prefixSet {
	s := &prefixSet{members: map[netip.Prefix]struct{}{}}
	for _, v := range values {
		if !v.Prefix.IsValid() {
			continue
		}
		s.single = v.Prefix
		if _, again := s.members[v.Prefix]; !again {
			s.members[v.Prefix] = struct{}{}
			i := family(v.Prefix.Addr())
			if !slices.Contains(s.lengths[i], v.Prefix.Bits()) {
				s.lengths[i] = append(s.lengths[i], v.Prefix.Bits())
			}
		}
	}
	return s
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// contains reports whether the address of 4 or 16 octets lies in the set.
func (s *prefixSet) contains(octets []byte) bool {
	a, ok := netip.AddrFromSlice(octets)
	if !ok {
		return false
	}
	a = a.Unmap()
	if len(s.members) == 1 {
		return s.single.Contains(a)
	}
	for _, n := range s.lengths[family(a)] {
		p, _ := a.Prefix(n) // n is a length of the family
		if _, ok := s.members[p]; ok {
			return true
		}
	}
	return false
}
