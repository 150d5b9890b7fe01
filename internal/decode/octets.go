package decode

import (
	"unsafe"

	"weir/internal/ie"
)

// HeapOctets returns the octets of heap that p holds: the plan, its template, its steps and the
// tables of the fast path. The rounding of the allocator (an eighth of a block at most) is not
// included. It walks all steps, so the caller should keep the result.
func (p *Plan) HeapOctets() int {
	n := int(unsafe.Sizeof(*p)) + sliceOctets(p.template.Fields) + sliceOctets(p.steps) +
		sliceOctets(p.stray) + sliceOctets(p.lifts)
	for i := range p.steps {
		if p.steps[i].extension != nil {
			n += int(unsafe.Sizeof(ie.Extension{}))
		}
	}
	for _, f := range [...]*fastPlan{p.fast, p.fast6} {
		if f != nil {
			n += f.heapOctets()
		}
	}
	return n
}

func (f *fastPlan) heapOctets() int {
	n := int(unsafe.Sizeof(*f)) + sliceOctets(f.addrs4) + sliceOctets(f.addrs6) + sliceOctets(f.elements) +
		sliceOctets(f.rest) + sliceOctets(f.tail) + sliceOctets(f.segments) + sliceOctets(f.loads) +
		sliceOctets(f.stray) + sliceOctets(f.names)
	if f.nat != nil {
		n += int(unsafe.Sizeof(*f.nat))
	}
	for _, ints := range f.ints {
		n += sliceOctets(ints)
	}
	for i := range f.elements {
		n += cap(f.elements[i].head)
	}
	return n
}

// sliceOctets returns the octets of the array that s points to.
func sliceOctets[E any](s []E) int {
	var e E
	return cap(s) * int(unsafe.Sizeof(e))
}
