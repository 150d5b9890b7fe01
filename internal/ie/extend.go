package ie

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
)

// An Extension is an element that the operator adds to the registry.
type Extension struct {
	Element
	Field int32 // number of its field in FlowMessage, FirstField or above; 0: it stays in elements
}

// FirstField is the first field number of FlowMessage that is reserved for the operator.
const FirstField = 1000

// extensions holds the elements that Extend added, by private enterprise number and id.
var extensions atomic.Pointer[map[[2]uint32]Extension]

// Extend sets the elements that the operator adds to the registry of this process; it replaces
// those of an earlier call. It must be called at most once in a service, before the first datagram
// is decoded: compiled plans keep the elements that they found.
func Extend(list []Extension) {
	m := make(map[[2]uint32]Extension, len(list))
	for _, x := range list {
		m[[2]uint32{x.PEN, uint32(x.ID)}] = x
	}
	extensions.Store(&m)
}

// Extended returns the operator's element (pen, id). NetFlow v9 field types have enterprise number
// 0.
func Extended(pen uint32, id uint16) (x Extension, ok bool) {
	if m := extensions.Load(); m != nil {
		x, ok = (*m)[[2]uint32{pen, uint32(id)}]
	}
	return x, ok
}

// ExtendedField returns the operator's element with a field number.
func ExtendedField(n int32) (x Extension, ok bool) {
	if m := extensions.Load(); m != nil {
		for _, x := range *m {
			if x.Field == n && n != 0 {
				return x, true
			}
		}
	}
	return x, false
}

// types are the abstract data types by name, RFC 7011 section 6.1 and RFC 6313.
var types = map[string]Type{
	"octetArray": OctetArray, "unsigned8": Unsigned, "unsigned16": Unsigned, "unsigned32": Unsigned,
	"unsigned64": Unsigned,
	"signed8":    Signed, "signed16": Signed, "signed32": Signed, "signed64": Signed, "float32": Float, "float64": Float,
	"boolean": Boolean, "macAddress": MacAddress, "string": String,
	"dateTimeSeconds": Seconds, "dateTimeMilliseconds": Milliseconds,
	"dateTimeMicroseconds": Microseconds, "dateTimeNanoseconds": Nanoseconds, "ipv4Address": IPv4, "ipv6Address": IPv6,
	"basicList": List, "subTemplateList": List, "subTemplateMultiList": List,
}

var goodName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// ParseExtensions parses elements in tab-separated text, a line each: private enterprise number (0:
// IANA's, and NetFlow v9 field types), id, name, abstract data type (RFC 7011 section 6.1), and
// optionally a field number of 1000 or above. It skips empty lines and lines that begin with #. The
// error joins those of all invalid lines.
func ParseExtensions(text string) (list []Extension, err error) {
	var errs []error
	elements, fields := map[[2]uint32]int{}, map[int32]int{}
	for i, row := range strings.Split(text, "\n") {
		n := i + 1
		row = strings.TrimRight(row, "\r")
		if strings.TrimSpace(row) == "" || strings.HasPrefix(row, "#") {
			continue
		}
		x, err := parseExtension(strings.Split(row, "\t"))
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		k := [2]uint32{x.PEN, uint32(x.ID)}
		if first := elements[k]; first != 0 {
			errs = append(errs, fmt.Errorf("line %d: element %d/%d is on line %d already", n, x.PEN, x.ID, first))
		}
		if first := fields[x.Field]; x.Field != 0 && first != 0 {
			errs = append(errs, fmt.Errorf("line %d: field number %d is on line %d already", n, x.Field, first))
		}
		elements[k], fields[x.Field] = n, n
		list = append(list, x)
	}
	return list, errors.Join(errs...)
}

func parseExtension(c []string) (x Extension, err error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c) != 4 && len(c) != 5 {
		return x, fmt.Errorf("%d columns: want pen, id, name, type and perhaps a field number, separated by tabs", len(c))
	}
	pen, err := strconv.ParseUint(c[0], 10, 32)
	if err != nil {
		bad("pen %q: want a private enterprise number, 0 to %d", c[0], uint32(math.MaxUint32))
	}
	id, err := strconv.ParseUint(c[1], 10, 16)
	if err != nil || id == 0 {
		bad("id %q: want 1 to 65535", c[1])
	}
	if !goodName.MatchString(c[2]) {
		bad("name %q: want a letter, then letters, digits, dots, dashes and underscores, at most 128", c[2])
	}
	t, ok := types[c[3]]
	if !ok {
		bad("type %q: want an abstract data type of RFC 7011 such as unsigned32, string or ipv4Address", c[3])
	}
	x = Extension{Element: Element{PEN: uint32(pen), ID: uint16(id), Type: t, Name: c[2]}}
	if len(c) == 5 && c[4] != "" {
		f, err := strconv.ParseInt(c[4], 10, 32)
		switch {
		case err != nil || f < FirstField || f > 1<<29-1 || f >= 19000 && f <= 19999:
			bad("field number %q: want %d to %d, but for 19000 to 19999, which protobuf keeps", c[4], FirstField, 1<<29-1)
		case t == List:
			bad("type %s has no typed field: leave the field number out", c[3])
		}
		x.Field = int32(f)
	}
	return x, errors.Join(errs...)
}
