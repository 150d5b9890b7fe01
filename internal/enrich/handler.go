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

// A partition is the pairing of one partition of flows.
type partition struct {
	machine *pair.Machine
	heard   int64 // stream time as of the last record, or the restore: silence counts from there
	again   bool  // restored after an abort, not newly assigned

	tx      *kafka.Tx            // the open transaction
	sent    []*flowpb.Connection // in the open transaction, when someone wants to be told
	offsets []int64              // of the pieces of state in the open transaction
	restore restorePoint         // as of the last Metadata
	kept    restorePoint         // committed
	counts  counts               // of the open transaction
}

// counts are what a transaction adds to the totals once it is committed.
type counts struct {
	flows, notPairable, duplicates, poison, ahead uint64
	connections                                   [reasons]uint64
	bounded                                       pair.Bounded
	tally                                         tally
	long                                          []longRecords
}

// reasons are how many reasons of emissions there are.
const reasons = int(flowpb.EmitReason_EMIT_REASON_MERGED) + 1

// handler is the Worker as its session sees it.
type handler struct{ *Worker }

var _ kafka.Handler = handler{}

// maxPiece is how large a piece of state becomes, octets; below the broker's
// default limit of 1 MiB.
const maxPiece = 900_000

// maxAhead is how far in the future a flow's receive time may lie and still move
// stream time: one wrong clock would end every open connection.
const maxAhead = 5 * time.Minute

// Assigned implements kafka.Handler: restores the state that belongs to the
// positions.
func (w handler) Assigned(ctx context.Context, partitions int, at []kafka.Position) (err error) {
	defer func() {
		if err != nil {
			for _, pos := range at {
				delete(w.partitions, pos.Partition)
			}
		}
		w.count()
	}()
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
			return fmt.Errorf("%w: group %s, partition %d: %w. %s", kafka.ErrFatal, w.c.Group, pos.Partition, err, w.otherGroup())
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
		w.log.Info("state restored", "partitions", len(at), "pieces", pieces, "took", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// stateless judges a position without pairing state. Nothing is missing at the first offset
// that the flows topic holds: after a reset of the group to the earliest offset.
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
		return fmt.Errorf("%w: group %s is at offset %d of %s partition %d, without pairing state: another program committed it. %s; "+
			"or set STATE_LOST=continue: flows before this offset stay unread, connections open there are reported in parts",
			kafka.ErrFatal, w.c.Group, pos.Offset, topic, pos.Partition, w.otherGroup())
	default:
		w.lose(pos.Partition, restorePoint{streamTime: pos.Offset}, "pairing state is gone: another program committed the position; "+
			"connections open there are reported in parts", "offset", pos.Offset)
	}
	return nil
}

// otherGroup is the advice for a group whose positions are not enrich's.
func (w handler) otherGroup() string {
	return fmt.Sprintf("Choose another GROUP; or end all members and reset the group to the earliest offset: kafka-consumer-groups.sh "+
		"--bootstrap-server %s --group %s --topic %s --reset-offsets --to-earliest --execute. Both ways the flows that are still on the topic "+
		"are paired once more", w.c.Kafka.Brokers[0], w.c.Group, w.c.Topics.Name(kafka.Flows))
}

// lose counts and logs that a partition goes on without the state of a restore point,
// once, however often the same position is restored.
func (w handler) lose(n int32, point restorePoint, msg string, args ...any) {
	if w.left[n] == point {
		return
	}
	w.left[n] = point
	w.stats.stateLost.Add(1)
	w.log.Error(msg, append(args, "partition", n)...)
}

// restoreState reads the state of the partitions in parts into their machines and returns
// how many pieces it had. The state of a partition that the pairing topic no longer holds
// is left behind if STATE_LOST allows it; the other partitions keep theirs.
func (w handler) restoreState(ctx context.Context, partitions int, parts map[int32]kafka.Range, at []kafka.Position) (pieces int, err error) {
	topic := w.c.Topics.Name(kafka.Pairing)
	for {
		pieces = 0
		err := w.session.ReadLog(ctx, topic, parts, func(n int32, offset int64, value []byte) error {
			pieces++
			if err := w.partitions[n].machine.Apply(offset, value); err != nil {
				return fmt.Errorf("%w: %s partition %d: %w", kafka.ErrFatal, topic, n, err)
			}
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
			return 0, fmt.Errorf("%w: the pairing state is gone: %w. With STATE_LOST=continue the state of these partitions is left behind: "+
				"connections open then are reported in parts", kafka.ErrFatal, gone)
		}
		for n := range parts { // what was read of them is read again
			p := w.partitions[n]
			p.machine = w.machine(p, partitions)
		}
		w.leave(gone, parts)
	}
}

// current returns an error unless the positions in at are still the committed ones. A
// member that the group put out restores what its successor has passed and truncated: its
// positions are stale, nothing is lost, and it has to join again.
func (w handler) current(ctx context.Context, gone *kafka.TruncatedError, at []kafka.Position) error {
	committed, err := w.session.Committed(ctx, slices.Collect(maps.Keys(gone.Partitions)))
	if err != nil {
		return fmt.Errorf("is the state gone, or is this position stale? %w; %w", gone, err)
	}
	for _, pos := range at {
		now, asked := committed[pos.Partition]
		if asked && now.Metadata != pos.Metadata { // the end of the state in it grows with each commit
			return fmt.Errorf("partition %d has another owner: position %d was restored, %d is committed", pos.Partition, pos.Offset, now.Offset)
		}
	}
	return nil
}

// leave goes on without the state of the partitions in gone and takes them out of parts.
func (w handler) leave(gone *kafka.TruncatedError, parts map[int32]kafka.Range) {
	for n := range gone.Partitions {
		delete(parts, n)
		p := w.partitions[n]
		p.restore = restorePoint{format: p.kept.format, streamTime: p.kept.streamTime, from: 0, tip: -1}
		w.lose(n, p.kept, "pairing state is gone; the partition goes on without it: connections open then are reported in parts", "err", gone)
		p.kept = p.restore
	}
}

// machine returns a machine that emits into a partition's transaction.
func (w handler) machine(p *partition, partitions int) *pair.Machine {
	topic := w.c.Topics.Name(kafka.Connections)
	return pair.New(w.c.Pair, partitions, func(e *pair.Emission) { w.publish(topic, p, e) })
}

// Lost implements kafka.Handler.
func (w handler) Lost(partitions []int32) {
	for _, n := range partitions {
		delete(w.partitions, n)
	}
	w.count()
}

// Records implements kafka.Handler. A flow that ends more connections than the
// transaction has room for is left for the next one, with what comes after it. Where
// several flows share a record the first of them decides.
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

// room is how many more connections may end in a transaction.
func (w handler) room(tx *kafka.Tx) int {
	if w.tx != tx {
		w.tx, w.reported = tx, 0
	}
	return max(0, w.c.CommitRecords-w.reported)
}

// observe takes one flow. It returns false, and has not taken it, when mayLeave is set
// and connections that end before it exceed the transaction's room.
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

// pair gives a flow to the machine.
func (w handler) pair(p *partition, m *flowpb.FlowMessage, f *pair.Flow) {
	switch p.machine.Observe(f) {
	case pair.Duplicate:
		p.counts.duplicates++
		return
	case pair.Opened: // names have until the connection ends
		w.annotator.Want(netip.AddrFrom16(f.Key.Lo).Unmap())
		w.annotator.Want(netip.AddrFrom16(f.Key.Hi).Unmap())
	case pair.Joined:
	}
	if f.Event() { // other events of its flow count the same
		octets, packets := p.machine.Raised()
		p.counts.tally.crossed(m, octets, packets)
	} else {
		p.counts.tally.flow(m)
	}
	if w.c.Pair.Long(f) && m.FirewallEvent == 0 { // a firewall's event spans the connection so far
		p.counts.long = addLong(p.counts.long, flowkey.AddressOrZero(m.SamplerAddress), time.Duration(f.End-f.Start))
	}
}

// publish produces one report of a connection.
func (w handler) publish(topic string, p *partition, e *pair.Emission) {
	c := e.Connection
	w.annotator.Annotate(c)
	if cap(w.buf)-len(w.buf) < 4096 {
		w.buf = make([]byte, 0, 1<<18)
	}
	start := len(w.buf)
	buf := append(w.buf, c.ConnectionId...)
	key := buf[start:len(buf):len(buf)]
	if w.c.Form.Plain() {
		buf = flowpb.AppendConnection(buf, c)
	} else {
		w.plain = flowpb.AppendConnection(w.plain[:0], c)
		buf, _ = w.c.Form.Append(buf, framing.Connections, w.plain) // our own messages are good
	}
	value := buf[start+len(key) : len(buf) : len(buf)]
	w.buf = buf
	p.tx.Produce(topic, 0, key, value, nil)
	w.reported++
	p.counts.connections[c.EmitReason]++
	p.counts.tally.connection(c, e.More)
	if w.deps.Committed != nil {
		p.sent = append(p.sent, proto.CloneOf(c))
	}
}

// Due implements kafka.Handler: a quiet partition's stream time goes on with the
// wall clock, else its last connections would never end.
func (w handler) Due(n int32, quiet time.Duration) bool {
	p := w.partitions[n]
	if p != nil && p.kept.format > w.c.StateFormat {
		return true // an older version may be started next: it must find what it can read
	}
	return p != nil && p.heard != math.MinInt64 && p.machine.Due(p.heard+int64(quiet))
}

// Quiet implements kafka.Handler.
func (w handler) Quiet(tx *kafka.Tx, n int32, quiet time.Duration) (more bool) {
	p := w.partitions[n]
	p.tx = tx
	return p.heard != math.MinInt64 && p.machine.AdvanceUpTo(p.heard+int64(quiet), w.room(tx))
}

// Finish implements kafka.Handler: writes what changed of the state, even when
// that is nothing (transactions of offsets alone are aborted now and then).
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

// Metadata implements kafka.Handler.
func (w handler) Metadata(n int32) string {
	p := w.partitions[n]
	p.machine.Logged(p.offsets)
	tip := p.offsets[len(p.offsets)-1]
	p.restore = restorePoint{format: w.c.StateFormat, streamTime: p.machine.StreamTime(), from: p.machine.RestoreFrom(), tip: tip}
	if p.restore.from < 0 {
		p.restore.from = tip + 1
	}
	return p.restore.String()
}

// Committed implements kafka.Handler.
func (w handler) Committed(partitions []int32) {
	w.stats.commits.Add(1)
	var all []*flowpb.Connection
	var flows, ahead uint64
	for _, n := range partitions {
		p := w.partitions[n]
		if p == nil {
			continue
		}
		p.kept = p.restore
		w.metrics.bounded.WithLabelValues("vantages").Add(float64(p.counts.bounded.Vantages))
		w.metrics.bounded.WithLabelValues("same_key").Add(float64(p.counts.bounded.SameKey))
		w.metrics.bounded.WithLabelValues("paused").Add(float64(p.counts.bounded.Paused))
		w.stats.flows.Add(p.counts.flows)
		w.stats.notPairable.Add(p.counts.notPairable)
		w.stats.duplicates.Add(p.counts.duplicates)
		w.stats.poison.Add(p.counts.poison)
		w.stats.ahead.Add(p.counts.ahead)
		flows, ahead = flows+p.counts.flows, ahead+p.counts.ahead
		if p.counts.poison > 0 {
			w.log.Warn("records of the flows topic are skipped: they are no flow messages", "partition", n, "records", p.counts.poison)
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

// truncateEvery is how often state that no restore needs is deleted.
const truncateEvery = 5 * time.Second

// truncate hands the committed restore points to the deletion of old state, unless the last deletion still runs.
func (w handler) truncate() {
	if time.Since(w.truncated) < truncateEvery {
		return
	}
	before := map[int32]int64{}
	for n, p := range w.partitions {
		if p.kept.from > 0 {
			before[n] = p.kept.from
		}
	}
	if len(before) == 0 {
		return
	}
	select {
	case w.truncations <- before:
		w.truncated = time.Now()
	default:
	}
}

// deleteOldState deletes the pairing state before the restore points that truncate hands over, until ctx ends.
func (w *Worker) deleteOldState(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case before := <-w.truncations:
			attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := w.session.Truncate(attempt, w.c.Topics.Name(kafka.Pairing), before)
			cancel()
			if err != nil && ctx.Err() == nil {
				w.log.Warn("old pairing state is not deleted: the topic grows "+
					"(enrich needs the right to delete its records)", "err", err)
			}
		}
	}
}

// count refreshes the gauges.
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
