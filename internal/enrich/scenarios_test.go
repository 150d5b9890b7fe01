package enrich

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/annotate/rdns"
	"weir/pkg/flowpb"
)

// The scenarios are those of pairing_dns.md section 8, by number.

// times is each line of want, as often as n groups publish it.
func times(n int, want []string) (all []string) {
	for range n {
		all = append(all, want...)
	}
	slices.Sort(all)
	return all
}

// Two groups consume the same flows, the first in many small transactions with occasional steps of the clock, the second
// at once: both must publish the same connections.
func TestScenario4SlowOrFastTheSameComesOut(t *testing.T) {
	c := cluster(t)
	want := produce(t, c, 3000)
	var now clock
	slow, fast := config(c, "slow"), config(c, "fast")
	slow.Group, slow.CommitRecords, slow.CommitEvery = "slow", 7, time.Millisecond
	fast.Group, fast.CommitRecords, fast.CommitEvery = "fast", 100_000, time.Second
	for _, conf := range []Config{slow, fast} {
		w, stop := start(t, conf, now.now)
		eventually(t, "all flows are taken", func() bool { return w.Stats().Flows == 3000 })
		now.ahead.Add(int64(10 * time.Minute))
		eventually(t, "silence ends what is open", func() bool { return w.Stats().Connections == uint64(len(want)) })
		stop()
	}
	same(t, times(2, want), published(t, c))
}

func TestScenario6FromOneMemberToThreeAndBack(t *testing.T) {
	c := cluster(t)
	want := produce(t, c, 16_000)
	var now clock
	slow := func(name string) Config {
		conf := config(c, name)
		conf.CommitRecords, conf.CommitEvery = 40, 2*time.Millisecond
		return conf
	}
	a, stopA := start(t, slow("a"), now.now)
	eventually(t, "one member works", func() bool { return a.Stats().Flows > 300 })
	b, stopB := start(t, slow("b"), now.now)
	d, stopD := start(t, slow("d"), now.now)
	eventually(t, "three members work", func() bool { return b.Stats().Restores > 0 && d.Stats().Restores > 0 })
	if taken := a.Stats().Flows + b.Stats().Flows + d.Stats().Flows; taken >= 16_000 {
		t.Logf("all %d flows were taken before the others joined: this run proves less", taken)
	}
	stopB()
	stopA()
	eventually(t, "the last member takes the rest", func() bool {
		now.ahead.Add(int64(10 * time.Minute))
		return len(published(t, c)) >= len(want)
	})
	stopD()
	same(t, want, published(t, c))
}

// For an hour no member runs while flows continue to arrive. Timers of the wall clock would end all
// open connections, with one direction each.
func TestScenario7AnHourOfLagSplitsNothing(t *testing.T) {
	c := cluster(t)
	want := produce(t, c, 12_000)
	var now clock
	first, stop := start(t, config(c, "a"), now.now)
	eventually(t, "some flows are taken", func() bool { return first.Stats().Flows > 1000 })
	stop()
	if first.Stats().Flows >= 12_000 {
		t.Fatal("all flows were taken at once: nothing is late")
	}
	now.ahead.Add(int64(time.Hour))
	w, stop := start(t, config(c, "a"), now.now)
	eventually(t, "all flows are taken", func() bool { return first.Stats().Flows+w.Stats().Flows >= 12_000 })
	now.ahead.Add(int64(10 * time.Minute))
	eventually(t, "silence ends what is open", func() bool { return len(published(t, c)) >= len(want) })
	stop()
	same(t, want, published(t, c))
}

// put produces a flow of each of n conversations, received now.
func put(t *testing.T, w Config, n int, at time.Time) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.Kafka.Brokers...), kgo.MaxBufferedRecords(n+1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{8, byte(i >> 16), byte(i >> 8), byte(i)}, DstAddr: []byte{9, 9, 9, 9}, SrcPort: 40000, DstPort: 443, Proto: 6,
			SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 900, Packets: 9, DatagramHash: uint64(i) + 1, FlowEndReason: 3, TimeResolutionUs: 1000,
			TimeReceivedNs: uint64(at.UnixNano()), TimeFlowStartNs: uint64(at.UnixNano()), TimeFlowEndNs: uint64(at.UnixNano()),
		}
		v, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		cl.Produce(t.Context(), &kgo.Record{Topic: "t.flows", Key: fmt.Append(nil, i), Value: v}, nil)
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The last connection of the day, with nothing after it: emitted within IDLE + 4 s
// of the clock that counts silence.
func TestScenario8TheLastConnectionIsReportedWithoutFurtherInput(t *testing.T) {
	c := cluster(t)
	conf := config(c, "a")
	var now clock
	w, stop := start(t, conf, now.now)
	eventually(t, "the worker is ready", func() bool { return w.Ready() == nil })
	put(t, conf, 1, time.Now())
	eventually(t, "the flow is taken", func() bool { return w.Stats().Flows == 1 })
	now.ahead.Add(int64(conf.Pair.Idle - 20*time.Second)) // not yet, however slow this machine is
	tick := time.NewTimer(1500 * time.Millisecond)
	<-tick.C
	if n := w.Stats().Connections; n != 0 {
		t.Errorf("%d connections before the idle time is over", n)
	}
	now.ahead.Add(int64(24 * time.Second))
	eventually(t, "the connection is reported", func() bool { return w.Stats().Connections == 1 })
	stop()
}

// A name server that swallows all questions: nothing waits for it.
func TestScenario22ASilentNameServerHoldsUpNothing(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := cluster(t)
	conf := config(c, "a")
	conf.CommitRecords = 5000
	conf.Annotate.DNS = rdns.Config{Enabled: true, Servers: []string{silent.LocalAddr().String()}, Timeout: 100 * time.Millisecond, Rate: 500, InFlight: 64, Queue: 1000, CacheSize: 10_000}
	const n = 20_000
	put(t, conf, n, time.Now())
	var now clock
	before := runtime.NumGoroutine()
	w, stop := start(t, conf, now.now)
	most := 0
	eventually(t, "all flows are taken", func() bool { most = max(most, runtime.NumGoroutine()); return w.Stats().Flows == n })
	eventually(t, "questions time out", func() bool { return w.annotator.Names.Stats().Down == 1 })
	now.ahead.Add(int64(10 * time.Minute))
	eventually(t, "all connections are reported", func() bool { return w.Stats().Connections == n })
	if most > before+300 { // 64 in flight, the worker, its clients and the brokers they talk to
		t.Errorf("%d goroutines, %d before", most, before)
	}
	stop()
	if got := w.annotator.Names.Stats(); got.Dropped == 0 || got.Answers[flowpb.NameStatus_NAME_STATUS_TIMEOUT] == 0 {
		t.Errorf("want drops and timeouts, got %+v", got)
	}
}
