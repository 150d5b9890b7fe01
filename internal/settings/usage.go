package settings

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Usage prints every variable of T with its default, unit and help, from the struct tags
// env, envDefault, unit and help.
func Usage[T any](w io.Writer, program, about string) {
	fmt.Fprintf(w, "%s: %s\n\n", program, about)
	fmt.Fprintf(w, "%s health checks whether the service with the same METRICS_LISTEN is ready (exit code 0).\n\n",
		program)
	fmt.Fprint(w, "Settings are environment variables:\n\n")
	fs := Variables[T]()
	width := 0
	for _, f := range fs {
		width = max(width, len(f.Name))
	}
	for _, f := range fs {
		fmt.Fprintf(w, "  %-*s  %s", width, f.Name, f.Help)
		fmt.Fprintf(w, "\n  %-*s  (%s", width, "", f.Unit)
		switch {
		case f.Required:
			fmt.Fprint(w, "; required")
		case f.Default != "":
			fmt.Fprintf(w, "; default %s", f.Default)
		default:
			fmt.Fprint(w, "; default: empty")
		}
		fmt.Fprint(w, ")\n")
	}
}

// A Variable documents a setting.
type Variable struct {
	Name, Default, Unit, Help string
	Required                  bool
}

// Variables returns the variables of T in the order of its fields, followed by those that
// all services share.
func Variables[T any]() (list []Variable) {
	for _, f := range append(fields[T](), fields[logging]()...) {
		list = append(list, f.Variable)
	}
	return list
}

// A field is a Variable together with the struct field that holds its value.
type field struct {
	Variable

	member string // name of the Go field
	typ    reflect.Type
}

// expected describes the form of a value.
func (f field) expected() string {
	if f.typ.String() == "time.Duration" {
		return "a duration like 500ms, 15s or 24h"
	}
	if f.typ.String() == "[]netip.AddrPort" {
		return "addresses with ports, comma separated, like 0.0.0.0:2055 or [::]:2055"
	}
	if f.typ.String() == "[]netip.Prefix" {
		return "addresses with prefix lengths, comma separated, like 10.0.0.0/8, 192.0.2.7/32 or fd00::/8"
	}
	switch f.typ.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number" + parenthesized(f.Unit)
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return fmt.Sprintf("a whole number up to %d", 1<<(f.typ.Bits()-1)-1) + parenthesized(f.Unit)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return fmt.Sprintf("a whole number, 0 to %d", 1<<f.typ.Bits()-1) + parenthesized(f.Unit)
	case reflect.Uint, reflect.Uint64:
		return "a whole number, 0 or more" + parenthesized(f.Unit)
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number" + parenthesized(f.Unit)
	}
	return cmp.Or(f.Unit, "text")
}

// parenthesized returns a unit for the end of a description, "" for a plain number.
func parenthesized(unit string) string {
	if unit == "" || unit == "number" {
		return ""
	}
	return " (" + unit + ")"
}

// fields lists the variables of T, depth first.
func fields[T any]() []field {
	var list []field
	walk(reflect.TypeFor[T](), "", &list)
	return list
}

// walk appends the variables of t to list. prefix is the envPrefix of the enclosing
// structs.
func walk(t reflect.Type, prefix string, list *[]field) {
	for sf := range t.Fields() {
		tag := sf.Tag.Get("env")
		if tag == "-" || !sf.IsExported() {
			continue
		}
		if tag == "" {
			if sf.Type.Kind() == reflect.Struct {
				walk(sf.Type, prefix+sf.Tag.Get("envPrefix"), list)
			}
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		f := field{
			member: sf.Name, typ: sf.Type,
			Variable: Variable{
				Name: prefix + name, Default: sf.Tag.Get("envDefault"), Unit: sf.Tag.Get("unit"),
				Help: sf.Tag.Get("help"), Required: strings.Contains(options, "required"),
			},
		}
		if f.Unit == "" {
			f.Unit = unitOf(sf.Type)
		}
		*list = append(*list, f)
	}
}

// unitOf returns the unit of a field without the tag unit.
func unitOf(t reflect.Type) string {
	switch {
	case t.String() == "time.Duration":
		return "duration"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "list, comma separated"
	case t.Kind() == reflect.String:
		return "text"
	}
	return "number"
}
