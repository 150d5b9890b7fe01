// Package loss counts the datagrams, flows and records received of each export
// stream and computes the loss across all replicas from sequence numbers.
//
// A Tally counts the datagrams of one receiving goroutine. A Book merges the Tallies
// of a replica and makes the records of the topic netflow.exporters. A Cluster reads
// the records of all replicas. Sequence numbers are compared within slots of ten
// seconds of export time, so the result does not depend on the replica that received
// a datagram.
package loss

import (
	"math"
	"net/netip"
	"slices"

	"weir/pkg/flowpb"
)

// slotSeconds is the length of a slot in seconds of export time.
const slotSeconds = 10

// A Stream identifies a series of sequence numbers: exporter, protocol version and
// Observation Domain (RFC 7011 section 3.1; Source ID in NetFlow v9, engine in v5).
// The zero Stream stands for all streams beyond the bound maxStreams.
type Stream struct {
	Exporter netip.Addr // invalid in the zero Stream
	Version  uint16
	Domain   uint32
}

// A Unit is a quantity that sequence numbers may count. The protocols define one for
// each version; exporters deviate from it.
type Unit int

// Units of sequence numbers.
const (
	Datagrams  Unit = iota
	Flows           // flow records
	Records         // data records: flows and options data
	All             // data records and template records
	unitsCount      // number of units
)

var unitNames = [unitsCount]string{"datagrams", "flows", "records", "records and templates"}

// String returns the unit's name in the plural.
func (u Unit) String() string { return unitNames[u] }

// Units holds a received quantity in each unit. An array index is a Unit.
type Units [unitsCount]uint64

// add adds v. A sum saturates at math.MaxInt64.
func (u *Units) add(v *Units) {
	for i := range u {
		u[i] = saturatingSum(u[i], v[i])
	}
}

// saturatingSum returns a+b, at most math.MaxInt64, so that a sum also fits the
// signed differences of a loss.
func saturatingSum(a, b uint64) uint64 {
	if sum := a + b; sum >= a && sum <= math.MaxInt64 {
		return sum
	}
	return math.MaxInt64
}

// raiseTo sets each unit to the greater of u and v.
func (u *Units) raiseTo(v *Units) {
	for i := range u {
		u[i] = max(u[i], v[i])
	}
}

func (u *Units) proto() *flowpb.ExportUnits {
	return &flowpb.ExportUnits{Datagrams: u[Datagrams], Flows: u[Flows], Records: u[Records], All: u[All]}
}

func unitsFrom(p *flowpb.ExportUnits) Units {
	return Units{p.GetDatagrams(), p.GetFlows(), p.GetRecords(), p.GetAll()}
}

const (
	// sameBoot bounds the drift of the boot time (export time minus uptime) between
	// slots without a restart, in seconds. It covers an exporter whose uptime does not
	// advance: its boot time drifts by a slot per slot.
	sameBoot = 2 * slotSeconds
	// near bounds the distance of a sequence number from its run. A flooded receiver
	// can lose that many numbers at once. A single datagram beyond it may be forged:
	// it begins a run of its own, which counts once other datagrams continue it.
	near = 1 << 20
	// maxGap bounds the gap between the runs of two slots. A greater gap is a restart
	// of the exporter.
	maxGap = 1 << 28
	// maxRuns bounds the runs of a slot. It is part of the record format: a reader
	// rejects a slot with more runs.
	maxRuns = 8
)

// A run is a range of sequence numbers from one life of an exporter. Datagrams of the
// range may be missing. Sequence numbers wrap at 2^32 (RFC 7011 section 3.1), so they
// are compared by their signed difference.
type run struct {
	least, greatest uint32
	last            Units // of the datagram whose number is greatest
	received        Units
	boot            int64 // s since the epoch; 0: unknown
}

// sameLife reports whether a datagram or run with this boot time may belong to the
// exporter life of r.
func (r *run) sameLife(boot int64) bool {
	return r.boot-boot <= sameBoot && boot-r.boot <= sameBoot // no overflow: validateSlot bounds both
}

// endsBefore reports whether r must not be extended by the numbers from least to greatest:
// r has no boot time (IPFIX has no uptime) and the sequence numbers wrap between the two,
// so the numbers may be those of a restarted exporter.
func (r *run) endsBefore(least, greatest uint32) bool {
	return r.boot == 0 && (crossesZero(r.least, greatest) || crossesZero(least, r.greatest))
}

// addDatagram adds a datagram if its sequence number belongs to the run, else it
// returns false.
func (r *run) addDatagram(sequence uint32, boot int64, u *Units) bool {
	if !r.sameLife(boot) || r.endsBefore(sequence, sequence) {
		return false
	}
	switch after, before := int32(sequence-r.greatest), int32(r.least-sequence); {
	case after > 0 && after < near:
		r.greatest, r.last = sequence, *u
	case after == 0:
		// A datagram without records has the sequence number of its successor.
		r.last.raiseTo(u)
	case before > 0 && before < near:
		r.least = sequence
	case before > 0 || after > 0:
		return false
	}
	r.received.add(u)
	return true
}

// single reports whether r holds a single datagram.
func (r *run) single() bool { return r.received[Datagrams] < 2 }

// merge adds the run o if both may be parts of the same run, else it returns false.
func (r *run) merge(o *run) bool {
	if !r.sameLife(o.boot) || r.endsBefore(o.least, o.greatest) ||
		int32(o.least-r.greatest) >= near || int32(r.least-o.greatest) >= near {
		return false
	}
	switch after := int32(o.greatest - r.greatest); {
	case after > 0:
		r.greatest, r.last = o.greatest, o.last
	case after == 0:
		r.last.raiseTo(&o.last)
	}
	if int32(r.least-o.least) > 0 {
		r.least = o.least
	}
	r.received.add(&o.received)
	return true
}

// runs holds the runs of a slot, at most maxRuns.
type runs []run

// runsOf returns the runs of a reported slot.
func runsOf(s *flowpb.ExporterSlot) runs {
	rs := make(runs, 0, len(s.Runs))
	for _, r := range s.Runs {
		rs = append(rs, run{
			least: r.Least, greatest: r.Greatest, boot: r.Boot,
			last: unitsFrom(r.Last), received: unitsFrom(r.Received),
		})
	}
	return rs
}

func (rs runs) proto() (out []*flowpb.SequenceRun) {
	for i := range rs {
		r := &rs[i]
		out = append(out, &flowpb.SequenceRun{
			Least: r.least, Greatest: r.greatest, Boot: r.boot,
			Last: r.last.proto(), Received: r.received.proto(),
		})
	}
	return out
}

// extend adds a datagram to the run that it continues. It returns false if there is no
// such run; the caller must then call begin.
func (rs *runs) extend(sequence uint32, boot int64, u *Units) bool {
	for i := range *rs {
		if (*rs)[i].addDatagram(sequence, boot, u) {
			return true
		}
	}
	return false
}

// begin adds a run for a datagram that extends no existing run. room must be false at maxRuns. Without
// room the new run replaces the first run of a single datagram, if there is one, so that forged
// datagrams cannot prevent new runs.
func (rs *runs) begin(sequence uint32, boot int64, u *Units, room bool) {
	r := run{least: sequence, greatest: sequence, last: *u, received: *u, boot: boot}
	if room {
		*rs = append(*rs, r)
		return
	}
	rs.replaceSingle(&r)
}

// merge adds a run of another replica or tally. room reports whether memory for another
// run is left. merge returns false if it dropped the run.
func (rs *runs) merge(o *run, room bool) bool {
	for i := range *rs {
		if (*rs)[i].merge(o) {
			return true
		}
	}
	if room && len(*rs) < maxRuns {
		*rs = append(*rs, *o)
		return true
	}
	return !o.single() && rs.replaceSingle(o)
}

// replaceSingle replaces the first run of a single datagram by r, at the end of the
// runs. It returns false if there is no such run.
func (rs *runs) replaceSingle(r *run) bool {
	i := slices.IndexFunc(*rs, func(r run) bool { return r.single() })
	if i < 0 {
		return false
	}
	copy((*rs)[i:], (*rs)[i+1:])
	(*rs)[len(*rs)-1] = *r
	return true
}
