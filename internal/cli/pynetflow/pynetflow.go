// Package pynetflow reads what the collector of the Python package netflow 0.12
// stores, a line of JSON for each datagram, and makes datagrams of it again: what
// its flows mean is then the decoder's to say.
package pynetflow

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/ie"
)

// An Entry is one line: a datagram's flows.
type Entry struct {
	From     netip.AddrPort
	Received time.Time
	// Datagrams hold the flows, with the templates they need. One is enough but for
	// flows that are longer here than they were: numbers have at least 4 octets.
	Datagrams [][]byte
	LeftOut   []string // names of fields that are not known
}

// Is reports whether line may be one of the collector's: its only member is called
// by a number, and holds an object.
func Is(line []byte) bool {
	// Other lines are told apart without reading them.
	name, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte{'{'})
	name, quoted := bytes.CutPrefix(bytes.TrimSpace(name), []byte{'"'})
	if !ok || !quoted || len(name) == 0 || name[0] < '0' || name[0] > '9' {
		return false
	}
	var one map[string]json.RawMessage
	if json.Unmarshal(line, &one) != nil || len(one) != 1 {
		return false
	}
	for key, v := range one {
		_, err := strconv.ParseFloat(key, 64)
		return err == nil && len(v) > 0 && v[0] == '{'
	}
	return false
}

// entry is a line's content.
type entry struct {
	Client []any
	Header map[string]json.Number
	Flows  []map[string]any

	leftOut map[string]bool
}

// Parse reads one line. Its errors say which member is not as it should be.
func Parse(line []byte) (Entry, error) {
	var one map[string]entry
	d := json.NewDecoder(strings.NewReader(string(line)))
	d.UseNumber()
	if err := d.Decode(&one); err != nil {
		return Entry{}, fmt.Errorf("no line of the Python collector: %w", err)
	}
	if len(one) != 1 {
		return Entry{}, fmt.Errorf("%d members, want one, called by its time", len(one))
	}
	var out Entry
	for at, e := range one {
		seconds, err := strconv.ParseFloat(at, 64)
		if err != nil || !(seconds >= 0 && seconds < 1<<33) {
			return Entry{}, fmt.Errorf("%q is no time, want seconds since 1970", at)
		}
		out.Received = time.UnixMicro(int64(seconds * 1e6))
		if out.From, err = client(e.Client); err != nil {
			return Entry{}, err
		}
		e.leftOut = map[string]bool{}
		if out.Datagrams, err = e.datagrams(); err != nil {
			return Entry{}, err
		}
		out.LeftOut = slices.Sorted(maps.Keys(e.leftOut))
	}
	return out, nil
}

// client is [address, port], behind which an IPv6 socket has two numbers more.
func client(c []any) (netip.AddrPort, error) {
	if len(c) < 2 {
		return netip.AddrPort{}, errors.New("client: want [address, port]")
	}
	text, _ := c[0].(string)
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("client: %w", err)
	}
	n, _ := c[1].(json.Number)
	port, err := strconv.ParseUint(n.String(), 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("client: port: %w", err)
	}
	return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(port)), nil
}

// number is a member of the header, 0 when it is not there.
func (e *entry) number(name string, bits int) (uint64, error) {
	v, ok := e.Header[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(v.String(), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("header: %s: %w", name, err)
	}
	return n, nil
}

// numbers appends members of the header, each in as many octets as it says.
func (e *entry) numbers(b []byte, fields ...octets) ([]byte, error) {
	for _, f := range fields {
		n, err := e.number(f.name, 8*f.n)
		if err != nil {
			return nil, err
		}
		b = appendNumber(b, n, f.n)
	}
	return b, nil
}

// octets is a number's name and length; without a name it is padding.
type octets struct {
	name string
	n    int
}

func appendNumber(b []byte, n uint64, octets int) []byte {
	all := binary.BigEndian.AppendUint64(nil, n)
	return append(b, all[8-octets:]...)
}

func (e *entry) datagrams() ([][]byte, error) {
	switch v := e.Header["version"]; v.String() {
	case "1":
		return e.fixed([]octets{{"version", 2}, {"", 2}, {"uptime", 4}, {"timestamp", 4}, {"timestamp_nano", 4}},
			slices.Concat(common, []octets{{"", 2}, {"PROTO", 1}, {"TOS", 1}, {"TCP_FLAGS", 1}, {"", 7}}), 24)
	case "5":
		return e.fixed([]octets{{"version", 2}, {"", 2}, {"uptime", 4}, {"timestamp", 4}, {"timestamp_nano", 4}, {"sequence", 4}, {"engine_type", 1}, {"engine_id", 1}, {"sampling_interval", 2}},
			slices.Concat(common, []octets{{"", 1}, {"TCP_FLAGS", 1}, {"PROTO", 1}, {"TOS", 1}, {"SRC_AS", 2}, {"DST_AS", 2}, {"SRC_MASK", 1}, {"DST_MASK", 1}, {"", 2}}), 30)
	case "9":
		return e.templated(9)
	case "10":
		return e.templated(10)
	default:
		return nil, fmt.Errorf("header: version %q: want 1, 5, 9 or 10", v)
	}
}

// common is what records of v1 and v5 begin with.
var common = []octets{
	{"IPV4_SRC_ADDR", 4}, {"IPV4_DST_ADDR", 4}, {"NEXT_HOP", 4}, {"INPUT", 2}, {"OUTPUT", 2}, {"IN_PACKETS", 4}, {"IN_OCTETS", 4},
	{"FIRST_SWITCHED", 4}, {"LAST_SWITCHED", 4}, {"SRC_PORT", 2}, {"DST_PORT", 2},
}

// fixed makes datagrams of v1 or v5, most records each.
func (e *entry) fixed(header, record []octets, most int) ([][]byte, error) {
	head, err := e.numbers(nil, header...)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for flows := range slices.Chunk(e.Flows, most) {
		b := slices.Clone(head)
		binary.BigEndian.PutUint16(b[2:], uint16(len(flows))) // 30 at most
		for i, f := range flows {
			for _, field := range record {
				v, ok := f[field.name].(json.Number)
				if !ok && field.name != "" {
					return nil, fmt.Errorf("flow %d: %s: want a number, got %v", i+1, field.name, f[field.name])
				}
				n, err := strconv.ParseUint(v.String(), 10, 8*field.n)
				if err != nil && field.name != "" {
					return nil, fmt.Errorf("flow %d: %s: %w", i+1, field.name, err)
				}
				b = appendNumber(b, n, field.n)
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// A field is one of a flow: its octets, and whose.
type field struct {
	id uint16
	b  []byte
}

// full is how long a datagram may be before the next flow goes into another one.
const full = 32 << 10

// templated makes datagrams of v9 or IPFIX, each flow with its own template: what
// lengths its fields had is not stored.
func (e *entry) templated(version uint16) ([][]byte, error) {
	var head []byte
	var err error
	if version == 9 {
		head, err = e.numbers(nil, octets{"version", 2}, octets{"", 2}, octets{"uptime", 4}, octets{"timestamp", 4}, octets{"sequence", 4}, octets{"source_id", 4})
	} else {
		head, err = e.numbers(nil, octets{"version", 2}, octets{"", 2}, octets{"export_uptime", 4}, octets{"sequence_number", 4}, octets{"obervation_domain_id", 4})
	}
	if err != nil {
		return nil, err
	}
	var out [][]byte
	b, records, id := slices.Clone(head), 0, uint16(256)
	end := func() {
		if records == 0 {
			return
		}
		n := len(b)
		if version == 9 {
			n = records
		}
		binary.BigEndian.PutUint16(b[2:], uint16(n)) // below full and a flow
		out = append(out, b)
		b, records, id = slices.Clone(head), 0, 256
	}
	for i, f := range e.Flows {
		fields, err := e.fieldsOf(version, f)
		if err != nil {
			return nil, fmt.Errorf("flow %d: %w", i+1, err)
		}
		if len(b) >= full {
			end()
		}
		set := []uint16{0, uint16(8 + 4*len(fields)), id, uint16(len(fields))} // a template set
		if version == 10 {
			set[0] = 2
		}
		length := 4
		for _, f := range fields {
			set = append(set, f.id, uint16(len(f.b)))
			length += len(f.b)
		}
		if len(fields) == 0 {
			continue // nothing was said
		}
		if length > full {
			return nil, fmt.Errorf("flow %d: %d octets are more than a datagram has", i+1, length)
		}
		for _, n := range append(set, id, uint16(length)) {
			b = binary.BigEndian.AppendUint16(b, n)
		}
		for _, f := range fields {
			b = append(b, f.b...)
		}
		records, id = records+2, id+1
	}
	end()
	return out, nil
}

// fieldsOf are the fields of a flow, in order of their ids.
func (e *entry) fieldsOf(version uint16, flow map[string]any) (fields []field, err error) {
	for name, v := range flow {
		id, ok := v9Names[name]
		if version == 10 {
			id, ok = ianaNames()[name]
		}
		if !ok {
			e.leftOut[name] = true
			continue
		}
		f := field{id: id}
		if f.b, err = value(version, id, v); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(f.b) > 0 {
			fields = append(fields, f)
		}
	}
	slices.SortFunc(fields, func(a, b field) int { return int(a.id) - int(b.id) })
	if len(fields) > 1000 {
		return nil, fmt.Errorf("%d fields", len(fields))
	}
	return fields, nil
}

// value is a field's octets.
func value(version, id uint16, v any) ([]byte, error) {
	switch v := v.(type) {
	case bool: // RFC 7011 section 6.1.5
		if v {
			return []byte{1}, nil
		}
		return []byte{2}, nil
	case string:
		e, _ := ie.Lookup(0, id) // what is not known is a text
		if a, err := netip.ParseAddr(v); err == nil && (version == 9 || e.Type == ie.IPv4 || e.Type == ie.IPv6) {
			return a.AsSlice(), nil
		}
		if len(v) == 0 || len(v) > full {
			return nil, fmt.Errorf("a text of %d octets", len(v))
		}
		return []byte(v), nil
	case json.Number:
		return numberOctets(version, id, v.String())
	case []any: // seconds since 1900 and their fraction, RFC 7011 section 6.1.9
		if len(v) != 2 {
			return nil, errors.New("want [seconds, fraction]")
		}
		var b []byte
		for _, x := range v {
			x, _ := x.(json.Number)
			n, err := strconv.ParseUint(x.String(), 10, 32)
			if err != nil {
				return nil, err
			}
			b = binary.BigEndian.AppendUint32(b, uint32(n))
		}
		return b, nil
	}
	return nil, fmt.Errorf("%v is no value", v)
}

// maxNumberOctets is the longest number that is read, in octets, and maxDigits its
// decimal digits. Reading decimal digits takes time that grows with their square.
const (
	maxNumberOctets = 1500
	maxDigits       = 3613 // of 2^(8*1500)
)

// numberOctets are a number's octets: as many as its type has, else as few as hold
// it. Addresses, texts and other octets are numbers here too.
func numberOctets(version, id uint16, text string) ([]byte, error) {
	if len(text) > maxDigits {
		return nil, fmt.Errorf("a number of %d digits", len(text))
	}
	n, ok := new(big.Int).SetString(text, 10)
	e, known := ie.Lookup(0, id)
	if version == 9 {
		e, known = ie.LookupV9(id)
	}
	switch {
	case !ok && known && e.Type == ie.Float:
		return nil, nil // a rate or the like, which flows have no use for
	case !ok:
		return nil, fmt.Errorf("%s is no whole number", text)
	case n.Sign() < 0:
		return nil, fmt.Errorf("%s is below 0", text)
	case n.BitLen() > 8*maxNumberOctets:
		return nil, fmt.Errorf("a number of %d bits", n.BitLen())
	}
	least := 4
	switch {
	case n.BitLen() > 64:
		least = (n.BitLen() + 7) / 8
	case n.BitLen() > 32:
		least = 8
	}
	if known {
		switch e.Type {
		case ie.IPv4:
			least = 4
		case ie.IPv6:
			least = 16
		case ie.MacAddress:
			least = 6
		case ie.Milliseconds, ie.Microseconds, ie.Nanoseconds:
			least = 8
		case ie.String, ie.OctetArray:
			least = max(1, (n.BitLen()+7)/8)
		}
	}
	if 8*least < n.BitLen() {
		return nil, fmt.Errorf("%s does not fit %d octets", text, least)
	}
	return n.FillBytes(make([]byte, least)), nil
}

// ianaNames are the ids of IANA's elements by their names.
var ianaNames = sync.OnceValue(func() map[string]uint16 {
	m := map[string]uint16{}
	for id := uint16(1); id < 1024; id++ {
		if e, ok := ie.Lookup(0, id); ok {
			m[e.Name] = id
		}
	}
	return m
})
