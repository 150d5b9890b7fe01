// Package exporters reads the operator's file of exporters (EXPORTERS_FILE). It names
// exporters and their sites, sets their sampling rates and lists who may send. A service
// reloads the file while it runs.
package exporters

import (
	"fmt"
	"net/netip"
	"slices"

	"weir/internal/decode"
)

// An Entry is an entry of the file. It must not be changed.
type Entry struct {
	decode.Exporter
	Denied bool         // allow: false
	Of     netip.Prefix // the address or prefix of the entry
}

// A Table finds the entry of an address by longest prefix match. Entries are not merged:
// a longer prefix hides all keys of a shorter prefix. A Table is immutable and safe for
// concurrent use. The zero Table is empty.
type Table struct {
	entries map[netip.Prefix]*Entry
	bits4   []int // lengths of the IPv4 prefixes, longest first
	bits6   []int
}

// Lookup returns the entry of an address, nil if there is none. An IPv4 address must be
// unmapped. Lookup allocates nothing.
func (t *Table) Lookup(a netip.Addr) *Entry {
	bits := t.bits6
	if a.Is4() {
		bits = t.bits4
	}
	for _, n := range bits {
		p, err := a.Prefix(n)
		if err != nil { // the address is invalid
			return nil
		}
		if e := t.entries[p]; e != nil {
			return e
		}
	}
	return nil
}

// Len returns the number of entries.
func (t *Table) Len() int { return len(t.entries) }

// add adds an entry while the table is built.
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
