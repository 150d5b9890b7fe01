package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/coverage"
	"strings"
)

// A function is an instrumented function of the code under test.
type function struct {
	name       string
	statements []uint32 // by block: statements in it
}

// A profile holds the numbers of executed statements since the last reset, by function.
type profile struct {
	total uint64
	of    map[*function]uint64
}

// hottest returns the function with the most statements, or "" if no statement was executed.
func (p *profile) hottest() string {
	var best *function
	for f, n := range p.of {
		if best == nil || n > p.of[best] || n == p.of[best] && f.name < best.name {
			best = f
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

// A counter reads the counters that go build -cover -covermode=atomic puts into each
// basic block. Formats: internal/coverage/defs.go of Go's source.
type counter struct {
	functions [][]function // by package and function index
	buf       bytes.Buffer
}

// newCounter reads the metadata of this program. It returns an error when the program
// was built without -cover or without GOCOVERDIR set.
func newCounter() (*counter, error) {
	var meta bytes.Buffer
	if err := coverage.WriteMeta(&meta); err != nil {
		return nil, fmt.Errorf("build with -cover -covermode=atomic -coverpkg=weir/internal/...: %w", err)
	}
	functions, err := parseMeta(meta.Bytes())
	if err != nil {
		return nil, err
	}
	return &counter{functions: functions}, nil
}

func (c *counter) reset() error { return coverage.ClearCounters() }

// read returns the profile since the last reset.
func (c *counter) read() (profile, error) {
	c.buf.Reset()
	if err := coverage.WriteCounters(&c.buf); err != nil {
		return profile{}, err
	}
	return c.parse(c.buf.Bytes())
}

const (
	counterHeader  = 32 // magic, version, hash, encoding, padding
	segmentHeader  = 16 // functions, length of string table, length of arguments
	encodingOffset = 24
	encodingULEB   = 2
	metaHeader     = 56
	packageHeader  = 44
	functionsCount = 40 // in a package header
)

var errCoverage = errors.New("coverage data of an unknown format")

// parse reads the counter data of a segment.
func (c *counter) parse(b []byte) (profile, error) {
	p := profile{of: map[*function]uint64{}}
	if len(b) < counterHeader+segmentHeader || b[encodingOffset] != encodingULEB {
		return p, errCoverage
	}
	segment := b[counterHeader:]
	functions := binary.LittleEndian.Uint64(segment)
	skip := int(binary.LittleEndian.Uint32(segment[8:])) + int(binary.LittleEndian.Uint32(segment[12:]))
	if skip > len(segment)-segmentHeader {
		return p, errCoverage
	}
	r := uleb{b: segment[segmentHeader+skip:]}
	for range functions {
		blocks, pkg, id := r.next(), r.next(), r.next()
		if pkg >= uint64(len(c.functions)) || id >= uint64(len(c.functions[pkg])) {
			return p, errCoverage
		}
		f := &c.functions[pkg][id]
		if blocks != uint64(len(f.statements)) {
			return p, errCoverage
		}
		n := uint64(0)
		for i := range f.statements {
			n += r.next() * uint64(f.statements[i])
		}
		p.of[f] += n
		p.total += n
	}
	if r.failed {
		return p, errCoverage
	}
	return p, nil
}

// A uleb reads integers of ULEB128.
type uleb struct {
	b      []byte
	failed bool
}

func (r *uleb) next() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *uleb) text() string {
	n := r.next()
	if n > uint64(len(r.b)) {
		r.failed = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// parseMeta reads the names and blocks of all instrumented functions.
func parseMeta(b []byte) ([][]function, error) {
	if len(b) < metaHeader || string(b[:4]) != "\x00cvm" {
		return nil, errCoverage
	}
	packages := binary.LittleEndian.Uint64(b[16:])
	if packages > uint64(len(b)-metaHeader)/16 {
		return nil, errCoverage
	}
	all := make([][]function, 0, packages)
	for i := range packages {
		at := binary.LittleEndian.Uint64(b[metaHeader+8*i:])
		length := binary.LittleEndian.Uint64(b[metaHeader+8*packages+8*i:])
		if at > uint64(len(b)) || length > uint64(len(b))-at || length < packageHeader {
			return nil, errCoverage
		}
		functions, err := parsePackage(b[at : at+length])
		if err != nil {
			return nil, err
		}
		all = append(all, functions)
	}
	return all, nil
}

func parsePackage(b []byte) ([]function, error) {
	path := binary.LittleEndian.Uint32(b[8:])
	n := binary.LittleEndian.Uint32(b[functionsCount:])
	if uint64(n) > uint64(len(b)-packageHeader)/4 {
		return nil, errCoverage
	}
	table := uleb{b: b[packageHeader+4*int(n):]}
	count := table.next()
	var names []string
	for range min(count, uint64(len(b))) {
		names = append(names, table.text())
	}
	if table.failed || path >= uint32(len(names)) {
		return nil, errCoverage
	}
	var out []function
	for i := range n {
		at := binary.LittleEndian.Uint32(b[packageHeader+4*int(i):])
		if at > uint32(len(b)) {
			return nil, errCoverage
		}
		r := uleb{b: b[at:]}
		units, name, _ := r.next(), r.next(), r.next()
		if name >= uint64(len(names)) || units > uint64(len(b)) {
			return nil, errCoverage
		}
		f := function{name: strings.TrimPrefix(names[path], "weir/internal/") + "." + names[name]}
		for range units {
			for range 4 { // lines and columns
				r.next()
			}
			f.statements = append(f.statements, max(1, uint32(r.next())))
		}
		if r.failed {
			return nil, errCoverage
		}
		out = append(out, f)
	}
	return out, nil
}

// exclude removes the functions of a package.
func (p *profile) exclude(pkg string) {
	for f, n := range p.of {
		if strings.HasPrefix(f.name, pkg+".") {
			p.total -= n
			delete(p.of, f)
		}
	}
}
