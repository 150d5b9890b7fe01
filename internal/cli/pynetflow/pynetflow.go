// Package pynetflow reads files of the collector of the Python package netflow 0.12, which stores a line of JSON
// for each datagram. It rebuilds export datagrams from the lines, so that package decode interprets the flows.
package pynetflow

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/internal/ie"
)

// An Entry holds the flows of a line, which was a datagram.
type Entry struct {
	From     netip.AddrPort
	Received time.Time
	// Datagrams hold the flows and their templates. Flows may need more than one datagram, since the rebuilt
	// numbers have at least 4 octets and may be longer than in the original datagram.
	Datagrams [][]byte
	LeftOut   []string // names of unknown fields
}

// IsEntry reports whether line may be a line of the collector: an object whose only member has a number as its
// name and an object as its value.
func IsEntry(line []byte) bool {
	// The prefix rejects other lines without parsing them.
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

// An entry is the parsed content of a line.
type entry struct {
	Client []any
	Header map[string]json.Number
	Flows  []map[string]any

	leftOut map[string]bool
}

// Parse parses a line. Its errors name the member that is invalid.
func Parse(line []byte) (Entry, error) {
	var one map[string]entry
	d := json.NewDecoder(strings.NewReader(string(line)))
	d.UseNumber()
	if err := d.Decode(&one); err != nil {
		return Entry{}, fmt.Errorf("not a line of the Python collector: %w", err)
	}
	if len(one) != 1 {
		return Entry{}, fmt.Errorf("%d members: want a single member named by its time", len(one))
	}
	var out Entry
	for at, e := range one {
		seconds, err := strconv.ParseFloat(at, 64)
		if err != nil || !(seconds >= 0 && seconds < 1<<33) {
			return Entry{}, fmt.Errorf("%q is not a time, want seconds since 1970", at)
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

// client parses [address, port]. The entry of an IPv6 socket has two more numbers, which are ignored.
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

// number returns a member of the header, 0 when it is absent.
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

// numbers appends members of the header, each with the length of its entry in fields.
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

// octets describes a number by its name and its length in octets; without a name it is padding.
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
		return e.fixed([]octets{
			{"version", 2}, {"", 2}, {"uptime", 4}, {"timestamp", 4}, {"timestamp_nano", 4}, {"sequence", 4},
			{"engine_type", 1}, {"engine_id", 1}, {"sampling_interval", 2},
		}, slices.Concat(common, []octets{
			{"", 1}, {"TCP_FLAGS", 1}, {"PROTO", 1}, {"TOS", 1}, {"SRC_AS", 2}, {"DST_AS", 2},
			{"SRC_MASK", 1}, {"DST_MASK", 1}, {"", 2},
		}), 30)
	case "9":
		return e.templated(9)
	case "10":
		return e.templated(10)
	default:
		return nil, fmt.Errorf("header: version %q: want 1, 5, 9 or 10", v)
	}
}

// common are the first fields of a record of NetFlow v1 and v5.
var common = []octets{
	{"IPV4_SRC_ADDR", 4}, {"IPV4_DST_ADDR", 4}, {"NEXT_HOP", 4}, {"INPUT", 2}, {"OUTPUT", 2},
	{"IN_PACKETS", 4}, {"IN_OCTETS", 4},
	{"FIRST_SWITCHED", 4}, {"LAST_SWITCHED", 4}, {"SRC_PORT", 2}, {"DST_PORT", 2},
}

// fixed returns datagrams of NetFlow v1 or v5 with at most most records each.
func (e *entry) fixed(header, record []octets, most int) ([][]byte, error) {
	head, err := e.numbers(nil, header...)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for flows := range slices.Chunk(e.Flows, most) {
		b := slices.Clone(head)
		binary.BigEndian.PutUint16(b[2:], uint16(len(flows))) // at most 30
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

// A field is a field of a flow: its element id and its octets.
type field struct {
	id uint16
	b  []byte
}

// full is the length of a datagram in octets from which the next flow starts a new datagram.
const full = 32 << 10

// templated returns datagrams of NetFlow v9 or IPFIX. Each flow has its own template, since the file does not
// store the lengths of the original fields.
func (e *entry) templated(version uint16) ([][]byte, error) {
	var head []byte
	var err error
	if version == 9 {
		head, err = e.numbers(nil, octets{"version", 2}, octets{"", 2}, octets{"uptime", 4}, octets{"timestamp", 4},
			octets{"sequence", 4}, octets{"source_id", 4})
	} else {
		// "obervation" is the spelling of the package.
		head, err = e.numbers(nil, octets{"version", 2}, octets{"", 2}, octets{"export_uptime", 4},
			octets{"sequence_number", 4}, octets{"obervation_domain_id", 4})
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
		binary.BigEndian.PutUint16(b[2:], uint16(n)) // at most full and one flow
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
			continue // the flow has no known field
		}
		if length > full {
			return nil, fmt.Errorf("flow %d: %d octets exceed a datagram", i+1, length)
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

// fieldsOf returns the fields of a flow in order of their ids. Unknown fields are recorded in e.leftOut.
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

// value returns the octets of a field.
func value(version, id uint16, v any) ([]byte, error) {
	switch v := v.(type) {
	case bool: // RFC 7011 section 6.1.5
		if v {
			return []byte{1}, nil
		}
		return []byte{2}, nil
	case string:
		// The element decides, not its value: the name of an interface may look like an address.
		e, _ := ie.LookupField(version, 0, id) // an unknown element is read as text
		if a, err := netip.ParseAddr(v); err == nil && (e.Type == ie.IPv4 || e.Type == ie.IPv6) {
			return a.AsSlice(), nil
		}
		if len(v) == 0 || len(v) > full {
			return nil, fmt.Errorf("a text of %d octets", len(v))
		}
		return []byte(v), nil
	case json.Number:
		return numberOctets(version, id, v.String())
	case []any: // NTP seconds and fraction, RFC 7011 section 6.1.9
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
	return nil, fmt.Errorf("%v is not a value", v)
}

// maxNumberOctets and maxDigits bound a number in octets and in decimal digits. The cost of parsing decimal digits
// grows with the square of their number.
const (
	maxNumberOctets = 1500
	maxDigits       = 3613 // digits of 2^(8*1500)
)

// numberOctets returns the octets of a decimal number: the fixed length of addresses and of sub-second times, the least
// number of octets for texts and octet arrays, else 4, 8 or more octets. In the file, all of these are numbers. It
// returns no octets for a float that is not a whole number. Unsigned numbers beyond 64 bits become 2^64-1.
func numberOctets(version, id uint16, text string) ([]byte, error) {
	if len(text) > maxDigits {
		return nil, fmt.Errorf("a number of %d digits", len(text))
	}
	n, ok := new(big.Int).SetString(text, 10)
	e, known := ie.LookupField(version, 0, id)
	switch {
	case !ok && known && e.Type == ie.Float:
		return nil, nil // a float such as a rate: flows do not use it
	case !ok:
		return nil, fmt.Errorf("%s is not a whole number", text)
	case n.Sign() < 0:
		return nil, fmt.Errorf("%s is below 0", text)
	case n.BitLen() > 8*maxNumberOctets:
		return nil, fmt.Errorf("a number of %d bits", n.BitLen())
	}
	if known && e.Type == ie.Unsigned && n.BitLen() > 64 {
		n = new(big.Int).SetUint64(math.MaxUint64) // the decoder reads no counter of more than 8 octets
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

// ianaNames maps the names of IANA's Information Elements to their ids.
var ianaNames = sync.OnceValue(func() map[string]uint16 {
	m := map[string]uint16{}
	for id := uint16(1); id < 1024; id++ {
		if e, ok := ie.Lookup(0, id); ok {
			m[e.Name] = id
		}
	}
	return m
})
