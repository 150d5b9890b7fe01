//go:build synctests

package simulation

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/pkg/flowpb"
)

// The kinds of findings of ingest.
const (
	findTwice   = "twice"   // a record is on the flows topic twice, or waits twice
	findLost    = "lost"    // a record is nowhere, and no counter and no killed replica has it
	findWaiting = "waiting" // a set waits though its template was shared
	findValue   = "value"   // a flow is not what the exporter sent
)

// inMemory is the time within which a replica with a working network must have put received data on a topic:
// a second in memory for the template, errors of brokers, and retries.
const inMemory = 15 * time.Second

// lostWith reports whether a replica may have had a datagram in memory when it was killed.
func (d *sentDatagram) lostWith() bool { return d.inMemoryAt(d.to.killed) }

// shares reports whether the template of a datagram must be on the topic. That is not the case if its replica
// was killed before, or stopped, which it does within seconds even without Kafka.
func (d *sentDatagram) shares() bool {
	return d.template && !d.inMemoryAt(d.to.killed) && !d.inMemoryAt(d.to.sigterm)
}

// inMemoryAt reports whether a datagram may not be on a topic at the end of its replica.
func (d *sentDatagram) inMemoryAt(end time.Time) bool {
	since := d.at
	if d.to.calm.After(since) {
		since = d.to.calm
	}
	return !end.IsZero() && end.Before(since.Add(inMemory))
}

// judge compares the topics with the datagrams sent. Each record must be on the flows topic once; or its set
// waits, and its template was lost with a killed replica; or it was lost with a killed replica itself; or it
// is counted as dropped.
func (r *reception) judge(t *testing.T) {
	w := r.w
	byHash := map[uint64]*sentDatagram{}
	byNumber := map[uint64]*sentDatagram{}
	shared := map[template]bool{{5, 0}: true}
	for _, d := range r.sent {
		byHash[d.hash] = d
		for _, n := range d.records {
			byNumber[n] = d
		}
		if d.shares() {
			shared[d.needs] = true
		}
	}
	decoded := r.decoded(t, byNumber)
	waiting := r.waiting(t, byHash)
	var lost int
	for _, d := range r.sent {
		missing := 0
		for _, n := range d.records {
			if decoded[n] == 0 {
				missing++
			}
		}
		switch {
		case waiting[d.hash] && missing < len(d.records):
			w.find(findTwice, "datagram %x of exporter %d waits, and %d of its records are flows", d.hash, d.needs.exporter, len(d.records)-missing)
		case waiting[d.hash] && shared[d.needs]:
			w.find(findWaiting, "datagram %x of exporter %d, sent to replica %d at %s, waits for template %d, which was received", d.hash, d.needs.exporter, d.to.number, clock(d.at), d.needs.id)
		case waiting[d.hash] || missing == 0 || d.lostWith():
		default:
			lost += missing
			w.trace.printf("MISSING %d records of datagram %x of exporter %d, sent to replica %d at %s", missing, d.hash, d.needs.exporter, d.to.number, clock(d.at))
		}
	}
	counted := 0
	for _, i := range r.all {
		if i.killed.IsZero() {
			counted += int(i.metric("weir_ingest_dropped_flows_total")) + recordsOfDatagram*int(i.metric("weir_ingest_undecoded_sets_total"))
		}
	}
	if lost > counted {
		w.find(findLost, "%d of %d records are nowhere, %d are counted as dropped", lost, r.records, counted)
	}
}

func clock(at time.Time) string { return at.UTC().Format("15:04:05.000") }

// decoded returns the number of copies of each record on the flows topic.
func (r *reception) decoded(t *testing.T, byNumber map[uint64]*sentDatagram) map[uint64]int {
	count := map[uint64]int{}
	flows := r.w.read(t, kafka.Flows)
	for _, n := range sortedKeys(flows) {
		for _, rec := range flows[n] {
			f := &flowpb.FlowMessage{}
			if err := proto.Unmarshal(rec.Value, f); err != nil {
				t.Fatal(err)
			}
			r.w.trace.printf("FLOW offset %d of partition %d, by producer %d epoch %d: %d", rec.Offset, rec.Partition, rec.ProducerID, rec.ProducerEpoch, f.Bytes)
			d := byNumber[f.Bytes]
			if d == nil || d.hash != f.DatagramHash {
				r.w.find(findValue, "flow %v: no such record was sent", f)
				continue
			}
			if want := r.exporters[d.needs.exporter].flowOf(f.Bytes); !equalFlow(f, want) {
				r.w.find(findValue, "flow %v: want %v", f, want)
			}
			if count[f.Bytes]++; count[f.Bytes] > 1 {
				r.w.find(findTwice, "record %d of datagram %x, offset %d of partition %d, by producer %d: %d times", f.Bytes, d.hash, rec.Offset, rec.Partition, rec.ProducerID, count[f.Bytes])
			}
		}
	}
	return count
}

// equalFlow compares the fields that flowOf sets.
func equalFlow(f, want *flowpb.FlowMessage) bool {
	return bytes.Equal(f.SrcAddr, want.SrcAddr) && bytes.Equal(f.DstAddr, want.DstAddr) && bytes.Equal(f.SamplerAddress, want.SamplerAddress) &&
		f.SrcPort == want.SrcPort && f.DstPort == want.DstPort && f.Proto == want.Proto && f.TcpFlags == want.TcpFlags && f.Packets == want.Packets && f.Bytes == want.Bytes
}

// waiting returns the hashes of the datagrams whose set is on the undecoded topic behind the committed offset
// of the group.
func (r *reception) waiting(t *testing.T, byHash map[uint64]*sentDatagram) map[uint64]bool {
	waits := map[uint64]bool{}
	info := r.w.cluster.GroupInfo(undecodedGroup)
	sets := r.w.read(t, kafka.Undecoded)
	for _, n := range sortedKeys(sets) {
		var committed int64
		if info != nil {
			committed = max(0, info.Commits[topicPrefix+string(kafka.Undecoded)][n].Offset)
		}
		for _, rec := range sets[n] {
			s := &flowpb.RawSet{}
			if err := proto.Unmarshal(rec.Value, s); err != nil {
				t.Fatal(err)
			}
			r.w.trace.printf("SET offset %d of partition %d, by producer %d: datagram %x, waits: %v", rec.Offset, rec.Partition, rec.ProducerID, s.DatagramHash, rec.Offset >= committed)
			switch {
			case rec.Offset < committed:
			case byHash[s.DatagramHash] == nil:
				r.w.find(findValue, "a set of datagram %x waits, which was not sent", s.DatagramHash)
			case waits[s.DatagramHash]:
				r.w.find(findTwice, "the set of datagram %x waits twice", s.DatagramHash)
			default:
				waits[s.DatagramHash] = true
			}
		}
	}
	return waits
}
