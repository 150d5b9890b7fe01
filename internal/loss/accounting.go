// Package loss keeps what was received of each export stream, and tells over
// all replicas together what was not.
//
// A Tally is filled by one goroutine that receives; a Book gathers a replica's
// Tallies and gives the records of the topic netflow.exporters; a Cluster reads
// those of all replicas. Sequence numbers are compared within slots of ten seconds
// of the exporter's own time, so that it does not matter which replica a datagram
// went to.
package loss

import (
	"math"
	"net/netip"
	"slices"

	"weir/pkg/flowpb"
)

// slotSeconds is how much export time a slot has.
const slotSeconds = 10

// A Stream is what has sequence numbers of its own.
type Stream struct {
	Exporter netip.Addr // the zero one: all beyond the bound
	Version  uint16
	Domain   uint32
}

// A Unit is what sequence numbers may count.
type Unit int

// The units.
const (
	Datagrams  Unit = iota
	Flows           // flow records
	Records         // data records: flows and options data
	All             // data records and template records
	unitsCount      // how many there are
)

var unitNames = [unitsCount]string{"datagrams", "flows", "records", "records and templates"}

// String is the unit's name in the plural.
func (u Unit) String() string { return unitNames[u] }

// Units are how much was received, by unit.
type Units [unitsCount]uint64

// add adds v; a sum that would overflow stays at its greatest value.
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

func (u *Units) most(v *Units) {
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
	// sameBoot is how far export time less uptime of one life of an exporter may
	// drift from slot to slot, s; where the uptime is nonsense it does by a slot.
	sameBoot = 2 * slotSeconds
	// near is how far a datagram's sequence number may be from those of its run. A
	// receiver that is flooded loses that many numbers at once. A single datagram
	// beyond that may be forged: it begins a run of its own, which counts once others
	// continue it.
	near = 1 << 20
	// maxGap is how far the next slot's may be ahead: beyond that the exporter
	// began anew.
	maxGap = 1 << 28
	// maxRuns bounds the runs of a slot.
	maxRuns = 8
)

// A run is consecutive sequence numbers, of which some datagrams may be missing.
type run struct {
	least, greatest uint32
	last            Units // of the datagram with the greatest
	received        Units
	boot            int64 // s since the epoch; 0: not known
}

// of reports whether a datagram or run of an exporter that started then may be of
// this one.
func (r *run) of(boot int64) bool {
	return r.boot-boot <= sameBoot && boot-r.boot <= sameBoot // no overflow: validateSlot bounds both
}

// endsBefore reports whether r and numbers from least to greatest lie on both sides of
// 2^32. Where no start of the exporter is known (IPFIX) a run ends there: the next
// may be that of a restarted exporter.
func (r *run) endsBefore(least, greatest uint32) bool {
	return r.boot == 0 && (crossesZero(r.least, greatest) || crossesZero(least, r.greatest))
}

// takes adds a datagram if its sequence number is of this run.
func (r *run) takes(sequence uint32, boot int64, u *Units) bool {
	if !r.of(boot) || r.endsBefore(sequence, sequence) {
		return false
	}
	switch after, before := int32(sequence-r.greatest), int32(r.least-sequence); {
	case after > 0 && after < near:
		r.greatest, r.last = sequence, *u
	case after == 0:
		// One without records has the number of the next one.
		r.last.most(u)
	case before > 0 && before < near:
		r.least = sequence
	case before > 0 || after > 0:
		return false
	}
	r.received.add(u)
	return true
}

// single reports whether r is a datagram alone.
func (r *run) single() bool { return r.received[Datagrams] < 2 }

// joins adds another run if both may be parts of one.
func (r *run) joins(o *run) bool {
	if !r.of(o.boot) || r.endsBefore(o.least, o.greatest) || int32(o.least-r.greatest) >= near || int32(r.least-o.greatest) >= near {
		return false
	}
	switch after := int32(o.greatest - r.greatest); {
	case after > 0:
		r.greatest, r.last = o.greatest, o.last
	case after == 0:
		r.last.most(&o.last)
	}
	if int32(r.least-o.least) > 0 {
		r.least = o.least
	}
	r.received.add(&o.received)
	return true
}

// runs are the runs of a slot.
type runs []run

// runsOf returns the runs of a reported slot.
func runsOf(s *flowpb.ExporterSlot) runs {
	rs := make(runs, 0, len(s.Runs))
	for _, r := range s.Runs {
		rs = append(rs, run{least: r.Least, greatest: r.Greatest, last: unitsFrom(r.Last), received: unitsFrom(r.Received), boot: r.Boot})
	}
	return rs
}

func (rs runs) proto() (out []*flowpb.SequenceRun) {
	for i := range rs {
		r := &rs[i]
		out = append(out, &flowpb.SequenceRun{Least: r.least, Greatest: r.greatest, Last: r.last.proto(), Received: r.received.proto(), Boot: r.boot})
	}
	return out
}

// extend adds a datagram to the run that it continues; false when there is none.
func (rs *runs) extend(sequence uint32, boot int64, u *Units) bool {
	for i := range *rs {
		if (*rs)[i].takes(sequence, boot, u) {
			return true
		}
	}
	return false
}

// begin adds a datagram that continues no run. Without room it takes the place of the
// first run of a single datagram, so that forged ones do not keep a run from
// beginning.
func (rs *runs) begin(sequence uint32, boot int64, u *Units, room bool) {
	r := run{least: sequence, greatest: sequence, last: *u, received: *u, boot: boot}
	if room {
		*rs = append(*rs, r)
		return
	}
	rs.replaceSingle(&r)
}

// merge adds a run of another replica or tally; room: for one more. False when it was
// not added.
func (rs *runs) merge(o *run, room bool) bool {
	for i := range *rs {
		if (*rs)[i].joins(o) {
			return true
		}
	}
	if room && len(*rs) < maxRuns {
		*rs = append(*rs, *o)
		return true
	}
	return !o.single() && rs.replaceSingle(o)
}

func (rs *runs) replaceSingle(r *run) bool {
	i := slices.IndexFunc(*rs, func(r run) bool { return r.single() })
	if i < 0 {
		return false
	}
	copy((*rs)[i:], (*rs)[i+1:])
	(*rs)[len(*rs)-1] = *r
	return true
}
