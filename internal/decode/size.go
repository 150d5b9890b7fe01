package decode

import (
	"unsafe"

	"weir/internal/ie"
)

// Octets returns the memory that p takes, octets: what a bound on plans counts.
func (p *Plan) Octets() int {
	n := sizeOf[Plan]() + space(p.template.Fields) + space(p.steps) + space(p.stray) + space(p.options)
	for i := range p.steps {
		if p.steps[i].extension != nil {
			n += sizeOf[ie.Extension]()
		}
	}
	if f := p.fast; f != nil {
		n += f.octets()
	}
	return n
}

func (f *fastPlan) octets() int {
	n := sizeOf[fastPlan]() + space(f.addrs4) + space(f.addrs6) + space(f.elements) + space(f.rest) + space(f.tail) +
		space(f.segments) + space(f.loads) + space(f.stray) + space(f.names)
	for _, ints := range f.ints {
		n += space(ints)
	}
	for i := range f.elements {
		n += space(f.elements[i].head)
	}
	return n
}

func sizeOf[T any]() int {
	var t T
	return int(unsafe.Sizeof(t))
}

// space returns the octets of a slice's array.
func space[T any](s []T) int { return cap(s) * sizeOf[T]() }

// What Trim leaves of a Decoder and a Result, entries of each kind. A datagram of
// ordinary traffic fits.
const (
	keptFlows  = 8192
	keptFields = 4096
	keptOthers = 256
)

// Trim releases the space that an extraordinary datagram left in d and r; at most
// 1 MiB remains beside r.Buf, which is the caller's. The parts of r are not valid
// afterwards.
func (d *Decoder) Trim(r *Result) {
	d.tmpl.Fields, d.pending = trimmed(d.tmpl.Fields, keptFields), trimmed(d.pending, keptOthers)
	r.Flows, r.fields = trimmed(r.Flows, keptFlows), trimmed(r.fields, keptFields)
	r.Templates, r.Unknown, r.Errors = trimmed(r.Templates, keptOthers), trimmed(r.Unknown, keptOthers), trimmed(r.Errors, keptOthers)
	r.Options = trimmed(r.Options, keptOthers)
}

// trimmed returns s, or nil when it has space for more than most entries.
func trimmed[T any](s []T, most int) []T {
	if cap(s) > most {
		return nil
	}
	return s
}
