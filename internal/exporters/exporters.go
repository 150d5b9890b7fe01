// Package exporters reads the operator's file of exporters (EXPORTERS_FILE): how
// they are called, where they stand, how they sample, and whether they are
// allowed. The file is looked at again while a service runs.
package exporters

import (
	"fmt"
	"net/netip"
	"slices"

	"weir/internal/decode"
)

// An Entry is what the file says of an address or prefix.
type Entry struct {
	decode.Exporter
	Denied bool         // allow: false
	Of     netip.Prefix // whom it is for
}

// A Table finds the entry of an address: that of the longest prefix that holds
// it, as a whole. It is immutable. The zero Table holds nothing.
type Table struct {
	entries map[netip.Prefix]*Entry
	bits4   []int // lengths of the IPv4 prefixes, longest first
	bits6   []int
}

// Lookup returns the entry of an address, nil when there is none. It allocates
// nothing.
func (t *Table) Lookup(a netip.Addr) *Entry {
	bits := t.bits6
	if a.Is4() {
		bits = t.bits4
	}
	for _, n := range bits {
		p, err := a.Prefix(n)
		if err != nil { // no address at all
			return nil
		}
		if e := t.entries[p]; e != nil {
			return e
		}
	}
	return nil
}

// Len is the number of entries.
func (t *Table) Len() int { return len(t.entries) }

func (t *Table) add(p netip.Prefix, e *Entry) error {
	if t.entries[p] != nil {
		return fmt.Errorf("%s is there twice: want one entry for each address or prefix", p)
	}
	if t.entries == nil {
		t.entries = map[netip.Prefix]*Entry{}
	}
	e.Of = p
	t.entries[p] = e
	bits := &t.bits6
	if p.Addr().Is4() {
		bits = &t.bits4
	}
	if !slices.Contains(*bits, p.Bits()) {
		*bits = append(*bits, p.Bits())
		slices.SortFunc(*bits, func(a, b int) int { return b - a })
	}
	return nil
}
