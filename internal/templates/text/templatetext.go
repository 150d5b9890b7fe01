// Package text is the text form of templates: what weir decode prints,
// and what files of templates hold. It is pure.
//
//	template 256, version 9, domain 7 of 192.0.2.1
//	         8                  4  sourceIPv4Address
//	         29305/1            8  reverseOctetDeltaCount
//	         82          variable  interfaceName
//
// An options template says "template 257 of options, …", and its scope fields,
// the first ones, end in "scope". Names are for people: they are not read.
package text

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"weir/internal/decode"
	"weir/internal/ie"
)

// An Entry is a template and whose it is.
type Entry struct {
	Exporter netip.Addr // not valid: not said
	Version  uint8      // 9 or 10 (IPFIX)
	Domain   uint32
	Template decode.Template
}

// Owned returns an error when e does not say whose it is.
func (e *Entry) Owned() error {
	if e.Exporter.IsValid() {
		return nil
	}
	return fmt.Errorf("template %d, version %d, domain %d: whose? want its line to end in of ADDRESS", e.Template.ID, e.Version, e.Domain)
}

// Append appends the text of e, without an end of line at its end.
func Append(b []byte, e *Entry) []byte {
	t, kind, of := &e.Template, "", ""
	if t.Options {
		kind = " of options"
	}
	if e.Exporter.IsValid() {
		of = " of " + e.Exporter.String()
	}
	b = fmt.Appendf(b, "template %d%s, version %d, domain %d%s", t.ID, kind, e.Version, e.Domain, of)
	for i, f := range t.Fields {
		id, length, scope := strconv.Itoa(int(f.ID)), strconv.Itoa(int(f.Length)), ""
		if f.PEN != 0 {
			id = fmt.Sprintf("%d/%d", f.PEN, f.ID)
		}
		if f.Length == decode.VarLen {
			length = variable
		}
		if i < t.Scopes {
			scope = "  scope"
		}
		b = fmt.Appendf(b, "\n         %-11s %8s  %s%s", id, length, name(e.Version, f, i < t.Scopes), scope)
	}
	return b
}

const variable = "variable"

// v9Scopes are the scope field types of RFC 3954 section 6.1.
var v9Scopes = map[uint16]string{1: "system", 2: "interface", 3: "lineCard", 4: "cache", 5: "template"}

// V9Scope names a scope field type of NetFlow v9.
func V9Scope(id uint16) (name string, known bool) {
	name, known = v9Scopes[id]
	return name, known
}

func name(version uint8, f decode.Field, scope bool) string {
	if version == 9 && scope {
		if n, ok := V9Scope(f.ID); ok {
			return n
		}
		return "?"
	}
	e, ok := ie.Lookup(f.PEN, f.ID)
	if version == 9 {
		e, ok = ie.LookupV9(f.ID)
	}
	if !ok {
		return "?"
	}
	return e.Name
}

var (
	head  = regexp.MustCompile(`^template (\d+)( of options)?, version (9|10), domain (\d+)(?: of (\S+))?$`)
	field = regexp.MustCompile(`^\s+(?:(\d+)/)?(\d+)\s+(\d+|variable)(?:\s+(\S+))?(\s+scope)?$`)
)

// Parse reads entries. Empty lines, those that begin with # and what else weir
// decode prints (flows, options data, errors) are passed over. The error names
// every wrong line.
func Parse(r io.Reader) ([]Entry, error) {
	var (
		all  []Entry
		from []int // line of each
		errs []error
	)
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	n, open := 0, false
	for s.Scan() {
		n++
		line := strings.TrimRight(s.Text(), " \t\r")
		switch word, _, _ := strings.Cut(line, " "); {
		case line == "" || line[0] == '#':
		case word == "template":
			e, err := parseHead(line)
			if open = err == nil; err != nil {
				errs = append(errs, fmt.Errorf("line %d: %w", n, err))
				continue
			}
			all, from = append(all, e), append(from, n)
		case line[0] == ' ' || line[0] == '\t':
			if !open {
				continue // of a template, or other thing, that is not read
			}
			if err := parseField(line, &all[len(all)-1].Template); err != nil {
				errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			}
		case word == "flow" || word == "options" || word == "error":
			open = false
		default:
			open = false
			errs = append(errs, fmt.Errorf("line %d: %.40q: want a template (as weir decode prints them), a field of one, or # and a remark", n, line))
		}
	}
	if err := s.Err(); err != nil {
		errs = append(errs, fmt.Errorf("line %d: %w", n+1, err))
	}
	for i := range all {
		if _, err := decode.Compile(all[i].Version, &all[i].Template); err != nil {
			errs = append(errs, fmt.Errorf("line %d: template %d: %w", from[i], all[i].Template.ID, err))
		}
	}
	return all, errors.Join(errs...)
}

func parseHead(line string) (e Entry, err error) {
	m := head.FindStringSubmatch(line)
	if m == nil {
		return e, fmt.Errorf("%.80q: want template ID[ of options], version 9 or 10, domain N[ of ADDRESS]", line)
	}
	id, err := strconv.ParseUint(m[1], 10, 16)
	if err != nil || id < 256 {
		return e, fmt.Errorf("template id %s: want 256 to 65535", m[1])
	}
	domain, err := strconv.ParseUint(m[4], 10, 32)
	if err != nil {
		return e, fmt.Errorf("domain %s: want 0 to %d", m[4], uint32(math.MaxUint32))
	}
	e = Entry{Version: 9, Domain: uint32(domain), Template: decode.Template{ID: uint16(id), Options: m[2] != ""}}
	if m[3] == "10" {
		e.Version = 10
	}
	if m[5] != "" {
		a, err := netip.ParseAddr(m[5])
		if err != nil {
			return e, fmt.Errorf("exporter %q: want an address", m[5])
		}
		e.Exporter = a.Unmap().WithZone("")
	}
	return e, nil
}

func parseField(line string, t *decode.Template) error {
	m := field.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("field %.60q: want [PEN/]ID LENGTH [NAME] [scope], LENGTH in octets or variable", strings.TrimSpace(line))
	}
	pen, penErr := strconv.ParseUint("0"+m[1], 10, 32)
	id, idErr := strconv.ParseUint(m[2], 10, 16)
	length, lengthErr := uint64(decode.VarLen), error(nil)
	if m[3] != variable {
		length, lengthErr = strconv.ParseUint(m[3], 10, 16)
	}
	if penErr != nil || idErr != nil || lengthErr != nil || m[3] != variable && length == decode.VarLen {
		return fmt.Errorf("field %.60q: want an id and a length below 65536", strings.TrimSpace(line))
	}
	if m[5] != "" {
		if !t.Options || t.Scopes != len(t.Fields) {
			return fmt.Errorf("field %.60q: scopes are the first fields of an options template", strings.TrimSpace(line))
		}
		t.Scopes++
	}
	t.Fields = append(t.Fields, decode.Field{PEN: uint32(pen), ID: uint16(id), Length: uint16(length)})
	return nil
}
