package pair

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The formats of a piece that Apply reads and Deltas writes. Numbers in parentheses are lengths in octets; lengths
// and counts of fixed size are in network order.
//
// Format 2: format (1), number of removals (4), removals of a key and an origin each; then entries, each after its
// length (4). See heldIdle.
//
// Format 3: format (1), then sections, each of a tag (1), a length (4) and items: removals, shared values, or entries
// after their lengths (4). After its fixed fields, which are those of format 2, an entry has extensions to its end:
// tag (varint), length (varint), octets.
//
// A rule holds for tags of sections, shared values and extensions: a reader must refuse a piece with an unknown even
// tag. An unknown odd tag is optional: the reader must skip a section, and must keep a shared value or an extension and
// write it again unchanged. Example: a piece without items is 02 00 00 00 00 in format 2 and 03 in format 3.
//
// A reader of format 3 must accept sections in any order, and repeated.
const (
	FirstFormat = 2
	LastFormat  = 3
)

// Sections of a piece of format 3.
const (
	sectionRemovals = 2
	sectionShared   = 4
	sectionEntries  = 6
)

// maxExtensions bounds the octets of unknown extensions that are kept for an entry.
const maxExtensions = 1024

var errPiece = errors.New("not a piece of pairing state")

// format returns the format that Deltas writes.
func (c *Config) format() byte { return byte(cmp.Or(c.StateFormat, FirstFormat)) }

// A piecer writes pieces one after another into a buffer. The pieces share a buffer, which the next Deltas reuses.
type piecer struct {
	coder
	format  byte
	limit   int
	begin   int      // start of the current piece in b
	items   int      // number of items in the current piece
	section byte     // tag of the current section; 0: none
	length  int      // position of the section's length; in format 2, of the number of removals
	out     [][]byte // finished pieces
	in      contents // of the current piece
	done    []contents
}

// open begins a piece.
func (p *piecer) open() {
	p.begin, p.items, p.section, p.in = len(p.b), 0, 0, contents{}
	p.b = append(p.b, p.format)
	if p.format == 2 {
		p.length = len(p.b)
		p.b = append(p.b, 0, 0, 0, 0)
	}
}

// item begins an item of a section and returns its position in b. The caller must append the item to b and then call
// end.
func (p *piecer) item(section byte) int {
	if p.format > 2 && p.section != section {
		p.closeSection(len(p.b))
		p.section, p.length = section, len(p.b)+1
		p.b = append(p.b, section, 0, 0, 0, 0)
	}
	return len(p.b)
}

// end ends the item that begins at start. If the piece exceeds the limit, end finishes it without the item and moves
// the item to a new piece. It returns the position of the item, which the move changes.
func (p *piecer) end(section byte, start int) int {
	if len(p.b)-p.begin > p.limit && p.items > 0 {
		p.flush(start)
		tail := slices.Clone(p.b[start:])
		p.b = p.b[:start]
		p.open()
		start = p.item(section)
		p.b = append(p.b, tail...)
	}
	p.items++
	if p.format == 2 && section == sectionRemovals {
		n := p.b[p.length:]
		binary.BigEndian.PutUint32(n, binary.BigEndian.Uint32(n)+1)
	}
	return start
}

// closeSection ends the current section at position to: it sets the section's length. Format 2 has no sections:
// closeSection then does nothing.
func (p *piecer) closeSection(to int) {
	if p.format > 2 && p.section != 0 {
		binary.BigEndian.PutUint32(p.b[p.length:], uint32(to-p.length-4))
	}
}

// flush ends the piece at position to.
func (p *piecer) flush(to int) {
	p.closeSection(to)
	p.out = append(p.out, p.b[p.begin:to:to])
	p.done = append(p.done, p.in)
}

// Deltas returns the changes since the last call: removals, shared values and the full values of changed entries, in
// pieces of at most limit octets. An item larger than limit has a piece of its own. There is at least one piece,
// possibly without items. The pieces are valid until the next call. The caller must call Logged with their offsets
// before it uses the machine again. A piece is the value of a record of the pairing topic: limit must leave room for
// the framing of Kafka below the size that the brokers accept.
func (m *Machine) Deltas(limit int) [][]byte {
	l := &m.log
	p := piecer{coder: coder{b: l.buf[:0]}, format: m.c.format(), limit: limit, done: l.pieces[:0]}
	p.open()
	for i := range l.removed {
		at := p.item(sectionRemovals)
		p.state(&l.removed[i].key)
		p.hash(&l.removed[i].origin)
		p.end(sectionRemovals, at)
	}
	if p.format > 2 {
		m.shared.pack(&p, l)
	} else {
		m.shared.unlog(l)
	}
	for _, i := range l.dirty {
		e := m.table.entries.ref(i)
		if e.marks&isDirty == 0 { // the number was released, or its new entry is in the list a second time
			continue
		}
		e.marks &^= isDirty
		at := p.item(sectionEntries)
		p.b = append(p.b, 0, 0, 0, 0)
		m.code(&p.coder, e)
		if p.format > 2 {
			m.appendEvents(&p.coder, e)
			if e.marks&isExtended != 0 {
				p.b = append(p.b, m.kept[i]...)
			}
		}
		at = p.end(sectionEntries, at)
		binary.BigEndian.PutUint32(p.b[at:], uint32(len(p.b)-at-4))
		p.in.entries = append(p.in.entries, i)
	}
	p.flush(len(p.b))
	l.buf, l.pieces = p.b, p.done
	l.dirty, l.removed, l.later = l.dirty[:0], l.removed[:0], false
	return p.out
}

// Apply applies a logged piece during a restore. Pieces must be applied in log order, before Restored. offset is the
// offset of the piece in the log. Apply does not keep piece. After an error the machine must not be used. It returns an
// error for octets that are no piece, and never panics (FuzzApplyRefusesWhatIsNoPiece).
func (m *Machine) Apply(offset int64, piece []byte) error {
	if err := m.apply(offset, piece); err != nil {
		return fmt.Errorf("%w: offset %d, %d octets: %w", errPiece, offset, len(piece), err)
	}
	return nil
}

var errCut = errors.New("cut short")

// apply is Apply, with errors that lack offset and length.
func (m *Machine) apply(offset int64, piece []byte) error {
	c := coder{b: piece, reading: true}
	var format uint8
	c.octet(&format)
	n := m.log.add(offset)
	switch {
	case c.short:
		return errCut
	case format == 2:
		m.clocks.unlogged = true
		var removals uint32
		c.fixed32(&removals)
		for range removals {
			if err := m.applyRemoval(&c); err != nil {
				return err
			}
		}
		return m.applyEntries(&c, n, format)
	case format == 3:
		m.log.later = m.log.later || format > m.c.format()
		return m.applySections(&c, n)
	}
	return fmt.Errorf("format %d; this version reads %d to %d", format, FirstFormat, LastFormat)
}

// applySections applies the sections of a piece of format 3, delta n. An unknown odd section is skipped, as FirstFormat
// requires.
func (m *Machine) applySections(c *coder, n int32) error {
	for len(c.b) > 0 {
		var section uint8
		c.octet(&section)
		v, ok := c.prefixed()
		if !ok {
			return errCut
		}
		var err error
		switch {
		case section == sectionRemovals:
			for len(v.b) > 0 && err == nil {
				err = m.applyRemoval(&v)
			}
		case section == sectionShared:
			for len(v.b) > 0 && err == nil {
				err = m.shared.apply(&v, &m.log, n)
			}
		case section == sectionEntries:
			err = m.applyEntries(&v, n, 3)
		case section%2 == 0:
			err = unknownTag("section", uint64(section))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unknownTag returns the error for an unknown even tag.
func unknownTag(of string, tag uint64) error {
	return fmt.Errorf("%s %d is of a later version of Weir, which must be used to read this state", of, tag)
}

// applyRemoval reads a removal and removes its entry. The entry may be absent: a restore begins after its value.
func (m *Machine) applyRemoval(c *coder) error {
	var r removal
	c.state(&r.key)
	c.hash(&r.origin)
	if c.short {
		return fmt.Errorf("removals: %w", errCut)
	}
	if i := m.find(&r.key, r.origin); i != 0 {
		m.drop(i)
	}
	return nil
}

// applyEntries applies the entries of delta n, each after its length.
func (m *Machine) applyEntries(c *coder, n int32, format uint8) error {
	for len(c.b) > 0 {
		v, ok := c.prefixed()
		if !ok {
			return fmt.Errorf("entry: %w", errCut)
		}
		if err := m.applyEntry(&v, n, format); err != nil {
			return err
		}
	}
	return nil
}

// applyEntry reads an entry of delta n. It replaces the entry of the same key and origin, if any. The present entry is
// older, because pieces are applied in log order.
func (m *Machine) applyEntry(v *coder, n int32, format uint8) error {
	var e entry
	m.code(v, &e)
	if v.short {
		return fmt.Errorf("entry: %w", errCut)
	}
	var kept []byte
	if format > 2 {
		var err error
		if kept, err = m.extensions(v, &e); err != nil {
			return err
		}
	}
	if len(v.b) > 0 {
		return fmt.Errorf("entry: %d octets left over", len(v.b))
	}
	if e.sides == 0 {
		return errors.New("entry without sides")
	}
	if i := m.find(&e.key, e.origin); i != 0 {
		m.drop(i)
	}
	i := m.table.insert(&e, e.key.hash())
	x := m.table.entries.ref(i)
	if crowd := m.crowds[e.key]; crowd != nil {
		crowd[e.origin] = i
	}
	if len(kept) > 0 {
		if m.kept == nil {
			m.kept = map[int32][]byte{}
		}
		m.kept[i] = kept
		x.marks |= isExtended
	}
	m.log.holds(x, m.table.nodes.ref(i), n)
	return nil
}

// extensions reads the extensions of e to the end of v, and returns a copy of the unknown optional extensions, with
// their tags and lengths.
func (m *Machine) extensions(v *coder, e *entry) (kept []byte, err error) {
	for len(v.b) > 0 {
		whole := v.b
		var tag uint64
		v.u64(&tag)
		value := v.blob()
		switch {
		case v.short:
			return nil, fmt.Errorf("extension: %w", errCut)
		case tag == extensionEvents:
			if err := m.readEvents(value, e); err != nil {
				return nil, fmt.Errorf("extension %d: %w", tag, err)
			}
			continue
		case tag%2 == 0:
			return nil, unknownTag("extension", tag)
		}
		kept = append(kept, whole[:len(whole)-len(v.b)]...)
	}
	if len(kept) > maxExtensions {
		return nil, fmt.Errorf("extensions of %d octets: want at most %d", len(kept), maxExtensions)
	}
	return kept, nil
}
