package decode

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
