//go:build synctests

package simulation

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/internal/kafka"
	"weir/pkg/flowpb"
	"weir/test/pairmodel"
)

// read returns all committed records of a topic, by partition.
func (w *world) read(t *testing.T, topic kafka.Topic) map[int32][]*kgo.Record {
	t.Helper()
	name := topicPrefix + string(topic)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.Dialer(w.admin.dial), kgo.ConsumeTopics(name), kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	starts, err := kadm.NewClient(cl).ListStartOffsets(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if start, _ := starts.Lookup(name, o.Partition); o.Offset > start.Offset {
			left[o.Partition] = o.Offset
		}
	})
	out := map[int32][]*kgo.Record{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for len(left) > 0 {
		f := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%s cannot be read to its end: %v are missing", name, left)
		}
		f.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], r)
			}
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	return out
}

// A report is a message of the connections topic with its position.
type report struct {
	*flowpb.Connection
	at string
}

// judge compares the content of the topics with the promises of the profile's class.
func (w *world) judge(t *testing.T) result {
	r := result{Members: len(w.all)}
	if w.reception != nil {
		w.reception.judge(t)
	}
	if w.plan.Setup.Members == 0 || !w.grown.IsZero() {
		r.Findings = w.findings
		return r
	}
	// With a deleted topic, reports or state are lost and versions have gaps. With the flows topic, the
	// positions are lost, and with them the state of a partition that another member gets before its owner
	// has handed it over.
	apart := w.remade[kafka.Connections] || w.remade[kafka.Pairing]
	var last []report // of each connection, in order of appearance
	index := map[string]int{}
	reports := w.read(t, kafka.Connections)
	for _, n := range sortedKeys(reports) {
		for _, rec := range reports[n] {
			c := &flowpb.Connection{}
			if err := proto.Unmarshal(rec.Value, c); err != nil {
				t.Fatal(err)
			}
			r.Reports++
			now := report{c, fmt.Sprintf("offset %d of partition %d, by producer %d epoch %d, emitted %s",
				rec.Offset, rec.Partition, rec.ProducerID, rec.ProducerEpoch, time.Unix(0, c.EmittedUnixNs).UTC().Format("15:04:05.000"))}
			w.trace.printf("REPORT %s: %v", now.at, c)
			i, known := index[string(c.ConnectionId)]
			switch {
			case !known:
				if c.Version != 1 && !apart {
					w.find(findVersion, "connection %x begins with version %d (%s)", c.ConnectionId, c.Version, now.at)
				}
				index[string(c.ConnectionId)] = len(last)
				last = append(last, now)
				continue
			case c.Version != last[i].Version+1 && !apart:
				w.find(findVersion, "connection %x has version %d (%s) after %d (%s)", c.ConnectionId, c.Version, now.at, last[i].Version, last[i].at)
			}
			last[i] = now
		}
	}
	r.Connections = len(last)
	for _, c := range last {
		if w.resolver != nil {
			w.resolver.judge(w, c)
		}
		if c.EmitReason == flowpb.EmitReason_EMIT_REASON_MERGED {
			r.Merged++
			if c.Version < 2 || c.Forward != nil || c.Reverse != nil {
				w.find(findVersion, "connection %x became a part of another, and ends with version %d and traffic %v %v (%s)", c.ConnectionId, c.Version, c.Forward, c.Reverse, c.at)
			}
		}
		if !c.Final && len(w.remade) == 0 {
			w.find(findVersion, "connection %x ends with version %d, which is not final (%s)", c.ConnectionId, c.Version, c.at)
		}
	}
	switch w.plan.Profile.class {
	case exact:
		w.compare(t, &r, last)
	case conserved:
		w.sum(&r, last, 0)
	case counted:
		w.sum(&r, last, uint64(w.counter("weir_kafka_unread_records_lost_total")))
	case truncated:
		w.judgeTails(&r, last)
	case remade:
		w.sum(&r, last, math.MaxUint64)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Findings = w.findings
	return r
}

// compare compares the connections with those of the model.
func (w *world) compare(t *testing.T, r *result, last []report) {
	p := w.pairing
	var want, got []string
	flows := w.read(t, kafka.Flows)
	for _, n := range sortedKeys(flows) {
		m := pairmodel.New(pairmodel.Config{
			Idle: p.Idle, Linger: p.Linger, LateGrace: p.LateGrace, TCPPause: p.TCPPause, ClockSkew: p.ClockSkew, MaxClockSkew: p.MaxClockSkew,
			ActiveTimeout: p.ActiveTimeout, InactiveTimeout: p.InactiveTimeout, Registered: p.Service,
		})
		for _, rec := range flows[n] {
			f := &flowpb.FlowMessage{}
			if err := proto.Unmarshal(rec.Value, f); err != nil {
				t.Fatal(err)
			}
			r.Flows++
			w.trace.printf("FLOW offset %d of partition %d, taken by the model: %v: %v", rec.Offset, n, m.Add(f), f)
		}
		for _, c := range m.Connections() {
			want = append(want, c.String())
		}
	}
	for _, c := range last {
		if c.EmitReason != flowpb.EmitReason_EMIT_REASON_MERGED {
			got = append(got, modelOf(c.Connection).String())
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if missing, extra := difference(want, got), difference(got, want); len(missing)+len(extra) > 0 {
		w.find(findModel, "%d connections of the model are missing, %d are not the model's:\n  want %s\n  got  %s",
			len(missing), len(extra), strings.Join(missing[:min(8, len(missing))], "\n       "), strings.Join(extra[:min(8, len(extra))], "\n       "))
	}
}

// sum compares the sums over all connections with those over all flows. At most lost records may be missing.
// Two members can count the same loss if the first did not commit the position after it.
func (w *world) sum(r *result, last []report, lost uint64) {
	var got totals
	for _, c := range last {
		for _, d := range []*flowpb.Traffic{c.Forward, c.Reverse} {
			got.records, got.octets = got.records+uint64(d.GetRecords()), got.octets+d.GetOctets()
		}
	}
	r.Flows, r.Lost = int(w.sent.records), int(lost)
	switch {
	case got.records > w.sent.records || got.octets > w.sent.octets:
		w.find(findSum, "%+v in connections, more than %+v in flows", got, w.sent)
	case got.records == w.sent.records && got.octets != w.sent.octets:
		w.find(findSum, "%+v in connections, %+v in flows", got, w.sent)
	case w.sent.records-got.records > lost:
		w.find(findSum, "%+v in connections, %+v in flows: %d records are missing, %d are counted as lost", got, w.sent, w.sent.records-got.records, lost)
	}
}

// modelOf converts a report to the model's types.
func modelOf(c *flowpb.Connection) *pairmodel.Connection {
	out := &pairmodel.Connection{FirstReceived: c.FirstReceivedUnixNs, LoInitiates: true, Method: c.DirectionMethod, State: c.ConnState}
	a, b := endOf(c, c.Initiator), endOf(c, c.Responder)
	out.Proto, out.Lo, out.Hi, out.ToHi, out.ToLo = uint8(c.Protocol), a, b, directionOf(c.Forward), directionOf(c.Reverse)
	if c.IcmpType != nil && c.GetIcmpType() != 8 && c.GetIcmpType() != 0 {
		out.Lo.Port, out.Hi.Port = uint16(c.GetIcmpType()), uint16(c.GetIcmpCode())
		return out // one-way: the sender is first
	}
	if c.Protocol == 1 {
		out.Lo.Port, out.Hi.Port = 8, 0
	}
	if x := slices.Compare(out.Lo.Addr[:], out.Hi.Addr[:]); x > 0 || x == 0 && out.Lo.Port > out.Hi.Port {
		out.Lo, out.Hi, out.ToHi, out.ToLo = out.Hi, out.Lo, out.ToLo, out.ToHi
		out.LoInitiates = false
	}
	return out
}

func endOf(c *flowpb.Connection, e *flowpb.Endpoint) (out pairmodel.End) {
	out.Addr, _ = flowkey.Address(e.GetAddress())
	if c.Protocol == 6 || c.Protocol == 17 {
		out.Port = uint16(e.GetPort())
	}
	return out
}

func directionOf(t *flowpb.Traffic) *pairmodel.Direction {
	if t == nil {
		return nil
	}
	return &pairmodel.Direction{
		Octets: t.Octets, Packets: t.Packets, OctetsEst: t.OctetsEst, PacketsEst: t.PacketsEst, Records: t.Records, ObservationPoints: t.Vantages,
		Flags: t.TcpFlags, Start: t.StartUnixNs, End: t.EndUnixNs,
	}
}

// difference returns the elements of a that are not in b. Both must be sorted.
func difference(a, b []string) (out []string) {
	for i, j := 0, 0; i < len(a); {
		switch {
		case j == len(b) || a[i] < b[j]:
			out = append(out, a[i])
			i++
		case a[i] == b[j]:
			i, j = i+1, j+1
		default:
			j++
		}
	}
	return out
}

func sortedKeys(m map[int32][]*kgo.Record) (out []int32) {
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
