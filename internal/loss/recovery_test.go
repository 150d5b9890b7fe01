package loss

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// A topics holds the records on Kafka: reports, and the flows that replicas produced.
type topics struct {
	*world
	reports  [][2][]byte
	written  []time.Time // reports
	flows    [][]byte
	received []time.Time // of flows
}

// send sends a datagram to a replica (-1: it is lost), which publishes its flows at once.
func (k *topics) send(to, flows, options int) {
	k.t.Helper()
	kind := map[uint16]flowpb.FlowMessage_FlowType{5: flowpb.FlowMessage_NETFLOW_V5, 9: flowpb.FlowMessage_NETFLOW_V9, 10: flowpb.FlowMessage_IPFIX}
	for i := range flows {
		if to < 0 {
			break
		}
		b, err := proto.Marshal(&flowpb.FlowMessage{
			Type: kind[k.version], SamplerAddress: router.AsSlice(), ObservationDomainId: 7, SequenceNum: k.sequence,
			TimeReceivedNs: uint64(k.now.UnixNano()), TimeExportNs: uint64(k.now.UnixNano()), DatagramHash: uint64(k.sent) * 0x9e3779b97f4a7c15,
			RecordOffset: uint32(20 + 48*i), Replica: string(rune('a' + to)), SrcPort: 443, Bytes: 900,
		})
		if err != nil {
			k.t.Fatal(err)
		}
		k.flows, k.received = append(k.flows, b), append(k.received, k.now)
	}
	k.world.send(to, flows, options)
	k.now = k.now.Add(200 * time.Millisecond)
}

// publish lets replicas report; the cluster reads.
func (k *topics) publish(replicas ...int) {
	k.t.Helper()
	for _, i := range replicas {
		r := k.replicas[i]
		for _, rep := range r.book.Gather(k.now, []*Tally{&r.Tally}) {
			k.report(rep)
			r.book.Published(rep, nil)
		}
	}
}

func (k *topics) report(rep Report) {
	k.t.Helper()
	k.reports, k.written = append(k.reports, [2][]byte{rep.Key, rep.Value}), append(k.written, k.now)
	if err := k.cluster.Take(rep.Key, rep.Value); err != nil {
		k.t.Fatal(err)
	}
}

// recovery returns a recovery that has read both topics.
func (k *topics) recovery(of Life) *Recovery {
	r := NewRecovery(of)
	for i, rep := range k.reports {
		if !k.written[i].Before(r.ReportsFrom()) {
			r.Report(rep[0], rep[1], k.written[i])
		}
	}
	for from, to, more := r.Window(); more; from, to, more = r.Window() {
		for i, f := range k.flows {
			if at := k.received[i]; !at.Before(from) && at.Before(to) {
				r.Flow(f)
			}
		}
	}
	return r
}

// Replica a reports, receives for another 7 s, produces the flows, and is killed. The
// datagrams that it received are not lost; datagrams sent to it afterwards are. The
// expected loss is the number of datagrams that no replica received.
func TestWhatAKilledReplicaPublishedIsNotLost(t *testing.T) {
	for _, tt := range []struct {
		version uint16
		counts  Unit
	}{{5, Flows}, {9, Datagrams}, {9, Flows}, {10, Records}, {10, Datagrams}} {
		t.Run(fmt.Sprintf("v%d %v", tt.version, tt.counts), func(t *testing.T) {
			k := &topics{world: newWorld(t, 2, tt.version, tt.counts)}
			for range 6 {
				for i := range 50 {
					k.send(i%2, 20+i%3, 0)
				}
				k.publish(0, 1)
			}
			reported := k.now
			for i := range 35 {
				k.send(i%2, 20+i%3, 0)
			}
			lost := uint64(0)
			for i := range 30 { // the balancer goes on for 3 s
				to := i % 2
				if to == 0 {
					lost += map[Unit]uint64{Datagrams: 1, Flows: uint64(20 + i%3), Records: uint64(20 + i%3)}[tt.counts]
					to = -1
				}
				k.send(to, 20+i%3, 0)
			}
			for range 4 {
				k.publish(1)
				for i := range 50 {
					k.send(1, 20+i%3, 0)
				}
			}
			k.publish(1)
			before := k.row()
			if before.Loss.Lost <= lost {
				t.Fatalf("before: want more than the %d that are missing, got %+v", lost, before.Loss)
			}
			killed := Life{Replica: "a", Started: start.UnixNano(), Reported: reported}
			for range 2 { // a second replica does the same
				for _, rep := range k.recovery(killed).Reports() {
					k.report(rep)
				}
				got := k.row()
				if got.Loss.Lost != lost || got.Loss.Unit != tt.counts || got.Loss.Restarts != 0 {
					t.Errorf("want %d %v lost and no restart, got %+v", lost, tt.counts, got.Loss)
				}
				if sum := got.Loss.Lost + got.Loss.Received; sum != uint64(k.sequence) {
					t.Errorf("the exporter sent %d, the account has %d", k.sequence, sum)
				}
				if want := uint64(k.sent) - 15; got.Received[Datagrams] != want || got.Received[Flows] != uint64(len(k.flows)) {
					t.Errorf("want %d datagrams and %d flows received, got %+v", want, len(k.flows), got.Received)
				}
			}
			if !k.recovery(killed).Closed() {
				t.Error("the account is not closed")
			}
		})
	}
}

// A process that is paused for a minute and continues reports for itself.
func TestAPausedReplicaCountsOnceAfterItsRecovery(t *testing.T) {
	k := &topics{world: newWorld(t, 2, 10, Records)}
	for range 6 {
		for i := range 50 {
			k.send(i%2, 20, 0)
		}
		k.publish(0, 1)
	}
	reported := k.now
	for i := range 55 { // into the next slot, of which it has reported nothing
		k.send(i%2, 20, 0)
	}
	for _, rep := range k.recovery(Life{Replica: "a", Started: start.UnixNano(), Reported: reported}).Reports() {
		k.report(rep)
	}
	k.publish(0, 1)
	got := k.row()
	if got.Loss.Lost != 0 || got.Loss.Lost+got.Loss.Received != uint64(k.sequence) || got.Received[Flows] != uint64(len(k.flows)) {
		t.Errorf("the exporter sent %d records and nothing is lost, got %+v of %+v", k.sequence, got.Loss, got.Received)
	}
}

// Templates and options data are not on the flows topic.
func TestOptionsDataOfAKilledReplicaCannotBeRecovered(t *testing.T) {
	k := &topics{world: newWorld(t, 2, 10, Records)}
	for range 6 {
		for i := range 50 {
			k.send(i%2, 20, 0)
		}
		k.publish(0, 1)
	}
	reported := k.now
	k.send(0, 0, 6)
	k.send(0, 20, 0)
	for range 10 {
		k.send(1, 20, 0)
	}
	for _, rep := range k.recovery(Life{Replica: "a", Started: start.UnixNano(), Reported: reported}).Reports() {
		k.report(rep)
	}
	k.publish(1)
	if got := k.row().Loss; got.Lost != 6 {
		t.Errorf("want the 6 options records to seem lost, got %+v", got)
	}
}

// Messages over TCP are not accounted by sequence numbers, which flows do not show.
func TestFlowsOfAStreamWithoutRunsAreAddedWithoutSequenceNumbers(t *testing.T) {
	k := &topics{world: newWorld(t, 1, 10, Records)}
	for range 2 {
		k.replicas[0].Add(&Datagram{Stream: Stream{router, 10, 7}, Received: k.now.UnixNano(), Export: k.now.UnixNano(), Units: Units{1, 20, 20, 20}})
		k.publish(0)
		k.now = k.now.Add(10 * time.Second)
	}
	flows := len(k.flows)
	k.send(0, 20, 0)
	for _, rep := range k.recovery(Life{Replica: "a", Started: start.UnixNano(), Reported: k.now.Add(-time.Second)}).Reports() {
		k.report(rep)
		if m, _, err := parseReport(rep.Value); err != nil || len(m.GetSlot().GetRuns()) != 0 {
			t.Errorf("want no runs, got %v, %v", m, err)
		}
	}
	if got := k.row(); got.Received[Flows] != uint64(40+len(k.flows)-flows) || got.Loss.Usable {
		t.Errorf("want 60 flows and no loss, got %+v", got)
	}
}

// A stream that was silent for ten minutes has a summary that the recovery does not read.
func TestARecoveryKeepsTheTotalsOfAStreamThatWasSilent(t *testing.T) {
	k := &topics{world: newWorld(t, 2, 10, Records)}
	k.send(0, 29, 0)
	k.publish(0)
	k.now = k.now.Add(10 * time.Minute)
	reported := k.now // of another stream
	k.send(0, 20, 0)
	for _, rep := range k.recovery(Life{Replica: "a", Started: start.UnixNano(), Reported: reported}).Reports() {
		k.report(rep)
	}
	if got := k.row(); got.Received[Flows] < 29 {
		t.Errorf("want at least the 29 flows that the replica had reported, got %+v", got.Received)
	}
}

func TestProcessesThatEndedWithoutClosingTheirAccountAreFound(t *testing.T) {
	value := func(replica string, started int64, s *flowpb.ExporterSummary) []byte {
		b, err := proto.Marshal(&flowpb.ExporterReport{Schema: 1, Replica: replica, StartedNs: started, Report: &flowpb.ExporterReport_Summary{Summary: s}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	running, closed, byOther := &flowpb.ExporterSummary{}, &flowpb.ExporterSummary{Closed: true}, &flowpb.ExporterSummary{Closed: true, Recovered: true}
	l := NewLives()
	self := Life{Replica: "self", Started: 1}
	take := func(replica string, started int64, s *flowpb.ExporterSummary, at time.Time) {
		l.Take(value(replica, started, s), at, at)
	}
	take("self", 1, running, start)
	take("killed", 2, running, start)
	take("stopped", 3, running, start)
	take("stopped", 3, closed, start)
	take("restarted", 4, running, start)
	take("restarted", 5, running, start.Add(40*time.Second))
	take("alive", 6, running, start.Add(40*time.Second))
	named := func(now time.Time) (out []string) {
		for _, e := range l.Ended(now, self) {
			out = append(out, fmt.Sprint(e.Replica, " ", e.Started, " ", e.Next))
		}
		return out
	}
	if got, want := fmt.Sprint(named(start.Add(30*time.Second))), "[restarted 4 5]"; got != want {
		t.Errorf("after 30 s: want %s, got %s", want, got)
	}
	if got, want := fmt.Sprint(named(start.Add(50*time.Second))), "[killed 2 0]"; got != want {
		t.Errorf("after 50 s: want %s, got %s", want, got)
	}
	take("killed", 2, byOther, start.Add(55*time.Second))
	take("alive", 6, running, start.Add(340*time.Second))
	take("restarted", 5, running, start.Add(340*time.Second))
	// A failed attempt is repeated after five minutes.
	if got, want := fmt.Sprint(named(start.Add(350*time.Second))), "[restarted 4 5]"; got != want {
		t.Errorf("after 350 s: want %s, got %s", want, got)
	}
	take("killed", 2, running, start.Add(360*time.Second)) // it was paused
	if got, want := fmt.Sprint(named(start.Add(420*time.Second))), "[killed 2 0]"; got[:len("[")] != want[:1] || len(got) < len(want) {
		t.Errorf("after it continued: want %s among them, got %s", want, got)
	}
	for i := range 3 * maxKnownLives {
		take("x", int64(1000+i), running, start.Add(400*time.Second))
	}
	if n := l.all.Len(); n > maxKnownLives {
		t.Errorf("%d processes are remembered", n)
	}
}

func FuzzRecovery(f *testing.F) {
	b, err := proto.Marshal(&flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SamplerAddress: router.AsSlice(), TimeReceivedNs: 2, Replica: "a", TimeExportNs: 1, SequenceNum: 5,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("k"), []byte{}, b)
	f.Fuzz(func(t *testing.T, key, value, flow []byte) {
		r := NewRecovery(Life{Replica: "a"})
		r.Report(key, value, start)
		r.Flow(flow)
		c := NewCluster()
		for _, rep := range r.Reports() {
			if err := c.Take(rep.Key, rep.Value); err != nil {
				t.Fatalf("a report of Weir's own: %v", err)
			}
		}
	})
}

// The slots of a killed replica are settled when its account is recovered, or before a
// second replica recovers it, too. Kafka may repeat a record, and a reader may begin again
// before its last offset. None of that may hide a loss.
func TestARecoveryCountsOnceHoweverOftenAndLateItIsRead(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first int // slots after the kill, before the first recovery
		again int // then before the second
	}{{"both late", openSlots + 6, 0}, {"the second late", 5, openSlots + 6}, {"neither", 5, 1}, {"both later and later", openSlots + 6, 4}} {
		t.Run(tt.name, func(t *testing.T) {
			k := &topics{world: newWorld(t, 2, 10, Records)}
			for range 6 {
				for i := range 50 {
					k.send(i%2, 20, 0)
				}
				k.publish(0, 1)
			}
			killed := Life{Replica: "a", Started: start.UnixNano(), Reported: k.now}
			for i := range 35 { // a publishes its flows, and is killed
				k.send(i%2, 20, 0)
			}
			const lost = 5
			for i := range 2 * lost {
				k.send(1-i%2*2, 20, 0)
			}
			later := func(slots int) {
				for range slots {
					for range 50 {
						k.send(1, 20, 0)
					}
					k.publish(1)
				}
			}
			check := func(when string) {
				t.Helper()
				got := k.row()
				if got.Loss.Lost != 20*lost || got.Loss.Lost+got.Loss.Received != uint64(k.sequence) || got.Loss.Restarts != 0 {
					t.Errorf("%s: %d records were sent and %d lost, got %+v", when, k.sequence, 20*lost, got.Loss)
				}
			}
			later(tt.first)
			reports := k.recovery(killed).Reports()
			for range 2 {
				for _, rep := range reports {
					k.report(rep)
				}
				check("recovered")
			}
			later(tt.again)
			for _, rep := range reports { // as if from a replica that read the topics at the same time
				k.report(rep)
			}
			check("recovered again")
		})
	}
}

// The account of a process that received nothing for a minute is closed by another. It then
// goes on, and is killed: that account is completed.
func TestAnAccountThatWasClosedInASilenceIsCompletedAfterAKill(t *testing.T) {
	k := &topics{world: newWorld(t, 2, 10, Records)}
	both := func() {
		for range 3 {
			for i := range 50 {
				k.send(i%2, 20, 0)
			}
			k.publish(0, 1)
		}
	}
	both()
	silent := Life{Replica: "a", Started: start.UnixNano(), Reported: k.now}
	k.now = k.now.Add(50 * time.Second)
	for _, rep := range k.recovery(silent).Reports() {
		k.report(rep)
	}
	if !k.recovery(silent).Closed() {
		t.Fatal("the account is not closed in the silence: the test needs that")
	}
	both()
	killed := silent
	killed.Reported = k.now
	for i := range 35 {
		k.send(i%2, 20, 0)
	}
	k.publish(1)
	r := k.recovery(killed)
	if r.Closed() {
		t.Fatal("the account counts as closed after the process continued")
	}
	for _, rep := range r.Reports() {
		k.report(rep)
	}
	if got := k.row().Loss; got.Lost != 0 || got.Received != uint64(k.sequence) {
		t.Errorf("the exporter sent %d records and nothing is lost, got %+v", k.sequence, got)
	}
}

// A recovery holds the last report of each key, however many came before. If it cannot
// hold the last report of a stream, it must not add datagrams to an older report.
func TestManyReportsAreRecoveredFromTheNewest(t *testing.T) {
	for _, streams := range []int{1, 120_000} {
		k := &topics{world: newWorld(t, 1, 10, Records)}
		k.send(0, 20, 0)
		k.publish(0)
		r := NewRecovery(Life{Replica: "a", Started: start.UnixNano(), Reported: k.now.Add(time.Minute)})
		own := func(key, value []byte) (Stream, *flowpb.ExporterReport) {
			m, s, err := parseReport(value)
			if err != nil {
				t.Fatal(err)
			}
			r.Report(key, value, k.now)
			return s, m
		}
		var key []byte
		var m *flowpb.ExporterReport
		for _, rep := range k.reports {
			if _, x := own(rep[0], rep[1]); x.GetSummary() != nil {
				key, m = rep[0], x
			}
		}
		exporter := m.Exporter
		for i := range 120_000 { // more than recoveryOctets of reports
			m.GetSummary().LastReceivedNs = k.now.UnixNano() + int64(i)
			of := key
			if n := i % streams; n > 0 {
				of, m.Exporter = fmt.Appendf(nil, "of stream %d", n), []byte{10, byte(n >> 16), byte(n >> 8), byte(n)}
			}
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			r.Report(of, b, k.now)
		}
		m.Exporter = exporter
		m.GetSummary().LastReceivedNs = k.now.Add(time.Minute).UnixNano()
		m.GetSummary().Name = "a name makes it larger than the one before"
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		r.Report(key, b, k.now)
		k.now = k.now.Add(30 * time.Second)
		k.send(0, 20, 0) // before the last report: it was counted
		r.Window()
		for _, f := range k.flows {
			r.Flow(f)
		}
		if flows, beyond := r.Flows(); flows != 0 || beyond != (streams > 1) {
			t.Errorf("%d streams: %d flows are added although they were counted; beyond the bound: %v", streams, flows, beyond)
		}
	}
}
