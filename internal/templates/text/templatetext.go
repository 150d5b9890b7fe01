// Package text formats and parses the text form of templates, which weir decode prints and
// TEMPLATES_FILE contains. It is pure.
//
//	template 256, version 9, domain 7 of 192.0.2.1
//	         8                  4  sourceIPv4Address
//	         29305/1            8  reverseOctetDeltaCount
//	         82          variable  interfaceName
//
// The line of an options template begins with "template 257 of options, …". Its scope
// fields come first (RFC 7011 section 3.4.2.1) and end in "scope". Lengths are in octets.
// Parse ignores names.
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
	"weir/internal/ipfix"
)

// An Entry is a template with its exporter, version and Observation Domain.
type Entry struct {
	Exporter netip.Addr // invalid: not stated
	Version  uint8      // 9 or 10 (IPFIX)
	Domain   uint32
	Template decode.Template
}

// Owned returns an error if e does not state its exporter.
func (e *Entry) Owned() error {
	if e.Exporter.IsValid() {
		return nil
	}
	return fmt.Errorf("template %d, version %d, domain %d: whose? want its line to end in of ADDRESS",
		e.Template.ID, e.Version, e.Domain)
}

// Append appends the text of e, without a line end after the last field.
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
		if f.Length == ipfix.VarLen {
			length = variable
		}
		if i < t.Scopes {
			scope = "  scope"
		}
		b = fmt.Appendf(b, "\n         %-11s %8s  %s%s", id, length, name(e.Version, f, i < t.Scopes), scope)
	}
	return b
}

// variable is the text of the length 65535 (RFC 7011 section 7).
const variable = "variable"

// name returns the name of an element or scope, "?" if it is unknown.
func name(version uint8, f decode.Field, scope bool) string {
	if version == ipfix.VersionNetFlow9 && scope {
		if n, ok := ie.ScopeName(f.ID); ok {
			return n
		}
		return "?"
	}
	e, ok := ie.LookupField(uint16(version), f.PEN, f.ID)
	if !ok {
		return "?"
	}
	return e.Name
}

var (
	head  = regexp.MustCompile(`^template (\d+)( of options)?, version (9|10), domain (\d+)(?: of (\S+))?$`)
	field = regexp.MustCompile(`^\s+(?:(\d+)/)?(\d+)\s+(\d+|variable)(?:\s+(\S+))?(\s+scope)?$`)
)

// Parse parses entries. It ignores empty lines, lines that begin with #, and the other
// output of weir decode (flows, options data, errors). The error names every wrong line;
// the entries are valid only if it is nil.
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
				continue // belongs to ignored output, or to a template with a wrong line
			}
			if err := parseField(line, &all[len(all)-1].Template); err != nil {
				errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			}
		case word == "flow" || word == "options" || word == "error":
			open = false
		default:
			open = false
			errs = append(errs, fmt.Errorf("line %d: %.40q: "+
				"want a template (as weir decode prints it), a field of a template, or # and a remark", n, line))
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
		return fmt.Errorf("field %.60q: want [PEN/]ID LENGTH [NAME] [scope], LENGTH in octets or variable",
			strings.TrimSpace(line))
	}
	pen, penErr := strconv.ParseUint("0"+m[1], 10, 32)
	id, idErr := strconv.ParseUint(m[2], 10, 16)
	length, lengthErr := uint64(ipfix.VarLen), error(nil)
	if m[3] != variable {
		length, lengthErr = strconv.ParseUint(m[3], 10, 16)
	}
	if penErr != nil || idErr != nil || lengthErr != nil || m[3] != variable && length == ipfix.VarLen {
		return fmt.Errorf("field %.60q: want an id and a length below 65536", strings.TrimSpace(line))
	}
	if m[5] != "" {
		if !t.Options || t.Scopes != len(t.Fields) {
			return fmt.Errorf("field %.60q: want scopes only in an options template, before all other fields",
				strings.TrimSpace(line))
		}
		t.Scopes++
	}
	t.Fields = append(t.Fields, decode.Field{PEN: uint32(pen), ID: uint16(id), Length: uint16(length)})
	return nil
}
