package decode

// Capacities that Trim leaves in a Decoder and a Result, entries of each kind. An
// ordinary datagram fits.
const (
	keptFlows  = 8192
	keptFields = 4096
	keptOthers = 256
)

// Trim releases the space that an extraordinary datagram left in d and r; at most 1 MiB remains,
// r.Buf not included, which the caller owns. The parts of r are invalid afterwards.
// A Decoder lives as long as its goroutine. Without Trim the largest datagram that a sender ever
// sent would decide its memory.
func (d *Decoder) Trim(r *Result) {
	d.tmpl.Fields, d.pending = trimmed(d.tmpl.Fields, keptFields), trimmed(d.pending, keptOthers)
	r.Flows, r.fields = trimmed(r.Flows, keptFlows), trimmed(r.fields, keptFields)
	r.Templates, r.Unknown = trimmed(r.Templates, keptOthers), trimmed(r.Unknown, keptOthers)
	r.Errors = trimmed(r.Errors, keptOthers)
	r.Options = trimmed(r.Options, keptOthers)
}

// trimmed returns s, or nil if its capacity exceeds most entries.
func trimmed[T any](s []T, most int) []T {
	if cap(s) > most {
		return nil
	}
	return s
}
