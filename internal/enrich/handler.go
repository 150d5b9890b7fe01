package enrich

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/pair"
	"weir/pkg/flowpb"
)

// A partition holds the pairing state of a partition of flows. Only the session's goroutine may use it. The fields of
// the open transaction are reset by Committed. After an abort the session calls Assigned again, which replaces the
// partition as a whole.
type partition struct {
	machine *pair.Machine
	heard   int64 // stream time at the last record or restore; idle time counts from there
	again   bool  // restored after an abort, not newly assigned

	tx      *kafka.Tx            // the open transaction
	sent    []*flowpb.Connection // produced in the open transaction; only with Deps.Committed
	offsets []int64              // of the pieces of state in the open transaction; set when their produce completes
	restore restorePoint         // returned by the last Metadata
	kept    restorePoint         // committed
	counts  counts               // of the open transaction
}

// counts holds the counts of a transaction. Committed adds them to the totals; after an abort they are dropped with
// their partition, since the flows are read a second time.
type counts struct {
	flows, notPairable, duplicates, poison, ahead uint64
	connections                                   [reasons]uint64
	bounded                                       pair.Bounded
	tally                                         tally
	long                                          []longRecords
}

// reasons is the length of an array indexed by EmitReason.
const reasons = int(flowpb.EmitReason_EMIT_REASON_MERGED) + 1

// handler implements kafka.Handler for a Worker. The session calls its methods one at a time, from one goroutine.
type handler struct{ *Worker }

var _ kafka.Handler = handler{}

// maxPiece limits a piece of state, in octets. It must stay below the broker's default limit of a record, 1 MiB.
const maxPiece = 900_000

// maxAhead limits how far in the future a receive time may lie and still advance stream time: a single wrong clock
// would end every open connection.
const maxAhead = 5 * time.Minute

// Assigned implements kafka.Handler. It restores the state of the partitions at the committed positions. On an error
// none of them is kept. It must not return before the state is restored: the session passes records of the partitions
// right after it.
func (w handler) Assigned(ctx context.Context, partitions int, at []kafka.Position) (err error) {
	defer func() {
		if err != nil {
			for _, pos := range at {
				delete(w.partitions, pos.Partition)
			}
		}
		w.count()
	}()
	w.slabs = octetSlabs{} // after an abort the client may still hold records
	aborted := false
	parts := map[int32]kafka.Range{}
	points := map[int32]restorePoint{}
	for _, pos := range at {
		aborted = aborted || w.partitions[pos.Partition] != nil
		p := &partition{heard: math.MinInt64, again: w.partitions[pos.Partition] != nil}
		p.machine = w.machine(p, partitions)
		w.partitions[pos.Partition] = p
		if pos.Metadata == "" {
			if err := w.stateless(ctx, pos); err != nil {
				return err
			}
			p.restore = noState
			p.kept = noState
			continue
		}
		point, err := parsePoint(pos.Metadata)
		if err != nil {
			return fmt.Errorf("%w: group %s, partition %d: %w. %s",
				kafka.ErrFatal, w.c.Group, pos.Partition, err, w.otherGroup())
		}
		p.restore, p.kept, points[pos.Partition] = point, point, point
		if point.from <= point.tip {
			parts[pos.Partition] = kafka.Range{From: point.from, To: point.tip}
		}
	}
	began := time.Now()
	pieces, err := w.restoreState(ctx, partitions, parts, at)
	if err != nil {
		return err
	}
	for n, point := range points {
		p := w.partitions[n]
		p.machine.Restored(point.streamTime)
		p.heard = point.streamTime
		w.wantHeld(p)
	}
	if aborted {
		w.stats.aborts.Add(1)
	}
	if len(at) > 0 {
		w.stats.restores.Add(1)
		w.stats.restoring.Add(int64(time.Since(began)))
		w.log.Info("state restored", "partitions", len(at), "pieces", pieces,
			"took", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// stateless checks a position that was committed without pairing state. At or before the first offset of the flows
// topic no state is missing: the group is new, or was reset to the earliest offset. At a later offset it returns a
// fatal error unless STATE_LOST is "continue". An offset without state means that a program that is not Weir committed
// it, for example a reset of the group. The state of connections open at that offset was never written.
func (w handler) stateless(ctx context.Context, pos kafka.Position) error {
	if pos.Offset <= 0 {
		return nil
	}
	first, err := w.session.InputStart(ctx, pos.Partition)
	if err != nil {
		return err
	}
	topic := w.c.Topics.Name(kafka.Flows)
	switch {
	case pos.Offset <= first:
	case w.c.StateLost != "continue":
		return fmt.Errorf("%w: group %s is at offset %d of %s partition %d, without pairing state: "+
			"another program committed it. %s; or set STATE_LOST=continue: "+
			"flows before this offset are skipped, and connections open at this offset are reported in parts",
			kafka.ErrFatal, w.c.Group, pos.Offset, topic, pos.Partition, w.otherGroup())
	default:
		w.lose(pos.Partition, restorePoint{streamTime: pos.Offset},
			"pairing state is gone: another program committed the position; "+
				"connections open there are reported in parts", "offset", pos.Offset)
	}
	return nil
}

// otherGroup returns the advice for a consumer group with offsets that another program committed.
func (w handler) otherGroup() string {
	return fmt.Sprintf("Choose another GROUP; or end all members and reset the group to the earliest offset: "+
		"kafka-consumer-groups.sh --bootstrap-server %s --group %s --topic %s --reset-offsets --to-earliest --execute. "+
		"In both cases the flows that are still on the topic are paired again",
		w.c.Kafka.Brokers[0], w.c.Group, w.c.Topics.Name(kafka.Flows))
}

// lose counts and logs that a partition continues without the state of a restore point. A repeated restore of the
// same position, as after each abort, is counted and logged only once.
func (w handler) lose(n int32, point restorePoint, msg string, args ...any) {
	if w.left[n] == point {
		return
	}
	w.left[n] = point
	w.stats.stateLost.Add(1)
	w.log.Error(msg, append(args, "partition", n)...)
}

// restoreState reads the state of the partitions in parts into their machines and returns the number of pieces. If the
// pairing topic no longer holds the state of a partition, the partition starts with empty state if STATE_LOST is
// "continue"; otherwise restoreState returns a fatal error. Other partitions are not affected. restoreState removes the
// partitions without state from parts. It repeats the whole read if a partition is lost, since ReadLog stops at the
// first truncated partition.
func (w handler) restoreState(
	ctx context.Context, partitions int, parts map[int32]kafka.Range, at []kafka.Position,
) (pieces int, err error) {
	topic := w.c.Topics.Name(kafka.Pairing)
	for {
		pieces = 0
		err := w.session.ReadLog(ctx, topic, parts, func(n int32, offset int64, value []byte) error {
			pieces++
			if err := w.partitions[n].machine.Apply(offset, value); err != nil {
				return fmt.Errorf("%w: %s partition %d: %w", kafka.ErrFatal, topic, n, err)
			}
			w.count() // limitGarbage follows the state while it grows
			return nil
		})
		gone, truncated := errors.AsType[*kafka.TruncatedError](err)
		if !truncated {
			return pieces, err
		}
		if err := w.current(ctx, gone, at); err != nil {
			return 0, err
		}
		if w.c.StateLost != "continue" {
			return 0, fmt.Errorf("%w: the pairing state is gone: %w. "+
				"With STATE_LOST=continue the state of these partitions is left behind: "+
				"connections open then are reported in parts", kafka.ErrFatal, gone)
		}
		for n := range parts { // every remaining partition is read from its start: a machine must not see a piece twice
			p := w.partitions[n]
			p.machine = w.machine(p, partitions)
		}
		w.abandonState(gone, parts)
	}
}

// current returns an error unless the positions in at are still committed. A member that was fenced by the group may
// restore from offsets that its successor has already truncated: its positions are stale, no state is lost, and the
// member must join again.
func (w handler) current(ctx context.Context, gone *kafka.TruncatedError, at []kafka.Position) error {
	committed, err := w.session.Committed(ctx, slices.Collect(maps.Keys(gone.Partitions)))
	if err != nil {
		return fmt.Errorf("cannot read the committed offsets, "+
			"so the pairing state may be lost or this position stale: %w; %w", gone, err)
	}
	for _, pos := range at {
		now, asked := committed[pos.Partition]
		if asked && now.Metadata != pos.Metadata { // every commit raises the last offset in the restore point
			return fmt.Errorf("partition %d has another owner: position %d was restored, %d is committed",
				pos.Partition, pos.Offset, now.Offset)
		}
	}
	return nil
}

// abandonState replaces the state of the partitions in gone with empty state and removes them from parts. It keeps
// their stream time and their format, so that Due can still rewrite the restore point in an older format.
func (w handler) abandonState(gone *kafka.TruncatedError, parts map[int32]kafka.Range) {
	for n := range gone.Partitions {
		delete(parts, n)
		p := w.partitions[n]
		p.restore = restorePoint{format: p.kept.format, streamTime: p.kept.streamTime, from: 0, tip: -1}
		w.lose(n, p.kept, "pairing state is lost; the partition continues with empty state: "+
			"connections that were open are reported in parts", "err", gone)
		p.kept = p.restore
	}
}

// machine returns an empty machine for p. Its emissions are produced in the open transaction of p.
func (w handler) machine(p *partition, partitions int) *pair.Machine {
	topic := w.c.Topics.Name(kafka.Connections)
	return pair.New(w.c.Pair, partitions, func(e *pair.Emission) { w.publish(topic, p, e) })
}

// Lost implements kafka.Handler. It drops the state: the new owner restores it from the pairing topic.
func (w handler) Lost(partitions []int32) {
	for _, n := range partitions {
		delete(w.partitions, n)
	}
	w.count()
}

// Records implements kafka.Handler and returns the number of records that it has consumed. If the receive time of a
// flow ends more connections than the transaction has room for, Records stops before the record of this flow: the
// session passes this record and its successors again in the next transaction. A record with several flows cannot be
// split, so only its first flow can stop Records. A record that is not a flow message is consumed and counted as
// poison: it must not stop the partition.
func (w handler) Records(tx *kafka.Tx, n int32, records []kafka.Record) int {
	p := w.partitions[n]
	p.tx = tx
	limit := w.latest().UnixNano()
	first, full := true, false
	observe := func(flow []byte) {
		if !full {
			full = !w.observe(p, flow, limit, first)
			first = false
		}
	}
	taken := len(records)
	for i := range records {
		first = true
		flows, err := framing.Flows.Each(records[i].Value, observe)
		if full {
			taken = i
			break
		}
		if err != nil {
			p.counts.poison++
		}
		tx.Count(max(flows-1, 0))
	}
	p.heard = p.machine.StreamTime()
	return taken
}

// room returns the number of connections that may still end in tx, at most CommitRecords. The transaction of a tx may
// cover several partitions: all of them share the room.
func (w handler) room(tx *kafka.Tx) int {
	if w.tx != tx {
		w.tx, w.reported = tx, 0
	}
	return max(0, w.c.CommitRecords-w.reported)
}

// observe passes a flow to the machine of p. If mayLeave is true and the connections that end before the flow exceed
// the room of the transaction, it returns false without passing the flow. A receive time after limit must not advance
// stream time: it is replaced by the present stream time; flow times are kept. flow must not be modified before observe
// returns: the message in w.flow refers to its octets.
func (w handler) observe(p *partition, flow []byte, limit int64, mayLeave bool) bool {
	m := &w.flow
	if err := flowpb.ReadPairingFields(flow, m); err != nil || m.Type == flowpb.FlowMessage_FLOWUNKNOWN {
		p.counts.poison++
		return true
	}
	w.facts.complete(m)
	w.learned.Learn(m)
	f, ok := pair.FromMessage(m, &w.c.Pair)
	if !ok {
		p.counts.flows++
		p.counts.notPairable++
		return true
	}
	ahead := f.Received > limit
	if ahead {
		if f.Received = p.machine.StreamTime(); f.Received == math.MinInt64 {
			f.Received = limit
		}
	}
	if mayLeave && p.machine.AdvanceUpTo(f.Received, w.room(p.tx)) {
		return false
	}
	p.counts.flows++
	if ahead {
		p.counts.ahead++
	}
	w.pair(p, m, &f)
	return true
}

// pair adds a flow to the machine of p and to the counts of its transaction. m must be the message of f. It is separate
// from observe because it must run exactly once for a flow, after the transaction has room for it.
func (w handler) pair(p *partition, m *flowpb.FlowMessage, f *pair.Flow) {
	switch p.machine.Observe(f) {
	case pair.Duplicate:
		p.counts.duplicates++
		return
	case pair.Opened: // the lookups may take until the connection ends
		w.annotator.Want(netip.AddrFrom16(f.Key.Lo).Unmap())
		w.annotator.Want(netip.AddrFrom16(f.Key.Hi).Unmap())
	case pair.Joined:
	}
	if f.Event() { // every event of a flow counts the same octets: only the increase is added
		octets, packets := p.machine.Raised()
		p.counts.tally.crossed(m, octets, packets)
	} else {
		p.counts.tally.flow(m)
	}
	// A firewall event spans the connection so far: its duration shows no active timeout.
	if w.c.Pair.Long(f) && m.FirewallEvent == 0 {
		p.counts.long = addLong(p.counts.long, flowkey.AddressOrZero(m.SamplerAddress), time.Duration(f.End-f.Start))
	}
}

// publish annotates a report of a connection and produces it in the transaction of p. Key and value are in w.slabs. It
// is the emit function of the machines: it must not call the machine of p.
func (w handler) publish(topic string, p *partition, e *pair.Emission) {
	c := e.Connection
	w.annotator.Annotate(c)
	buf := w.slabs.current()
	start := len(buf)
	buf = append(buf, c.ConnectionId...)
	key := buf[start:len(buf):len(buf)]
	if w.c.Form.Plain() {
		buf = flowpb.AppendConnection(buf, c)
	} else {
		w.plain = flowpb.AppendConnection(w.plain[:0], c)
		buf, _ = w.c.Form.Append(buf, framing.Connections, w.plain) // it fails only on malformed protobuf
	}
	value := buf[start+len(key) : len(buf) : len(buf)]
	w.slabs.appended(buf)
	p.tx.Produce(topic, 0, key, value, nil)
	w.reported++
	p.counts.connections[c.EmitReason]++
	p.counts.tally.connection(c, e.More)
	if w.deps.Committed != nil {
		p.sent = append(p.sent, proto.CloneOf(c))
	}
}

// Due implements kafka.Handler. It returns true if Quiet has work for a partition without records for the duration
// quiet: stream time then advances with the wall clock, or the last connections would never end. It is called at least
// once a second for each quiet partition, so that it must be cheap.
func (w handler) Due(n int32, quiet time.Duration) bool {
	p := w.partitions[n]
	if p != nil && p.kept.format > w.c.StateFormat {
		return true // an older version may be started next: the committed restore point must be in its format
	}
	return p != nil && p.heard != math.MinInt64 && p.machine.Due(p.heard+int64(quiet))
}

// Quiet implements kafka.Handler. It advances the stream time of a partition without records by the duration quiet.
// more is true if further connections must end in the next transaction. The session calls it only for partitions that
// were read to their end. With unread records, the wall clock would pass their receive times, and their connections
// would end too early (docs/decisions/0005-stream-time.md).
func (w handler) Quiet(tx *kafka.Tx, n int32, quiet time.Duration) (more bool) {
	p := w.partitions[n]
	p.tx = tx
	return p.heard != math.MinInt64 && p.machine.AdvanceUpTo(p.heard+int64(quiet), w.room(tx))
}

// Finish implements kafka.Handler. It produces the changes of the state at the end of a transaction. It must produce
// at least one piece per partition, even without changes: brokers abort transactions of offsets alone now and then.
func (w handler) Finish(tx *kafka.Tx, partitions []int32) {
	topic := w.c.Topics.Name(kafka.Pairing)
	for _, n := range partitions {
		p := w.partitions[n]
		p.counts.bounded = p.machine.TakeBounded()
		pieces := p.machine.Deltas(maxPiece)
		p.offsets = make([]int64, len(pieces))
		for i, piece := range pieces {
			w.stats.logged.Add(uint64(len(piece)))
			tx.Produce(topic, n, nil, piece, func(offset int64) { p.offsets[i] = offset })
		}
	}
}

// Metadata implements kafka.Handler. It returns the restore point of a partition. The session must call it after
// Finish, when the pieces of state have their offsets. Pieces after tip may follow on the topic, of transactions that
// did not commit this restore point: a restore must not read them.
func (w handler) Metadata(n int32) string {
	p := w.partitions[n]
	p.machine.Logged(p.offsets)
	tip := p.offsets[len(p.offsets)-1]
	p.restore = restorePoint{
		format: w.c.StateFormat, streamTime: p.machine.StreamTime(), from: p.machine.RestoreFrom(), tip: tip,
	}
	if p.restore.from < 0 {
		p.restore.from = tip + 1
	}
	return p.restore.String()
}

// Committed implements kafka.Handler. It adds the counts of the transaction to the totals, so that the flows of an
// aborted transaction are not counted twice.
func (w handler) Committed(partitions []int32) {
	w.stats.commits.Add(1)
	w.slabs.reuse()
	var all []*flowpb.Connection
	var flows, ahead uint64
	for _, n := range partitions {
		p := w.partitions[n]
		if p == nil {
			continue
		}
		p.kept = p.restore
		w.metrics.bounded.WithLabelValues("vantages").Add(float64(p.counts.bounded.ObservationPoints))
		w.metrics.bounded.WithLabelValues("same_key").Add(float64(p.counts.bounded.SameKey))
		w.metrics.bounded.WithLabelValues("paused").Add(float64(p.counts.bounded.Paused))
		w.stats.flows.Add(p.counts.flows)
		w.stats.notPairable.Add(p.counts.notPairable)
		w.stats.duplicates.Add(p.counts.duplicates)
		w.stats.poison.Add(p.counts.poison)
		w.stats.ahead.Add(p.counts.ahead)
		flows, ahead = flows+p.counts.flows, ahead+p.counts.ahead
		if p.counts.poison > 0 {
			w.log.Warn("records of the flows topic are skipped: they are not flow messages",
				"partition", n, "records", p.counts.poison)
		}
		for r, n := range p.counts.connections {
			if n > 0 {
				w.metrics.connections.WithLabelValues(reason(flowpb.EmitReason(r))).Add(float64(n))
				w.stats.connections.Add(n)
			}
		}
		t := p.counts.tally
		w.traffic.add(&t, w.learned)
		t.clear()
		for _, r := range p.counts.long {
			w.timeouts.add(r, w.learned.Exporter(r.exporter))
		}
		p.counts = counts{tally: t, long: p.counts.long[:0]}
		all = append(all, p.sent...)
		p.sent = nil
	}
	w.clock.committed(flows, ahead, w.deps.Now())
	if w.deps.Committed != nil && len(all) > 0 {
		w.deps.Committed(all)
	}
	w.count()
	w.truncate()
}

// count sets the gauges from the machines of all partitions. A member without partitions reports 0.
func (w handler) count() {
	var open, grace, octets int
	for _, p := range w.partitions {
		o, g := p.machine.Held()
		open, grace, octets = open+o, grace+g, octets+p.machine.Octets()
	}
	w.stats.octets.Store(int64(octets))
	w.stats.open.Store(int64(open))
	w.stats.grace.Store(int64(grace))
}
