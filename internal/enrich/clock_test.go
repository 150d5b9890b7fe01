package enrich

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// A flowWriter puts single flows on the flows topic.
type flowWriter struct {
	t  *testing.T
	cl *kgo.Client
	n  uint64
}

func newFlowWriter(t *testing.T, c *kfake.Cluster) *flowWriter {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &flowWriter{t: t, cl: cl}
}

// put writes a flow from src, of source port port, received at the instant at; set
// changes it.
func (w *flowWriter) put(partition int32, at time.Time, src []byte, port uint32, set ...func(m *flowpb.FlowMessage)) {
	w.t.Helper()
	w.n++
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SrcAddr: src, DstAddr: []byte{1, 1, 1, 1}, SrcPort: port, DstPort: 443, Proto: 17,
		SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 900, Packets: 9, SamplingRate: 1, DatagramHash: w.n, TimeResolutionUs: 1000,
		TimeReceivedNs: uint64(at.UnixNano()), TimeExportNs: uint64(at.UnixNano()),
		TimeFlowStartNs: uint64(at.Add(-2 * time.Second).UnixNano()), TimeFlowEndNs: uint64(at.Add(-time.Second).UnixNano()),
	}
	for _, f := range set {
		f(m)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &kgo.Record{Topic: "t.flows", Partition: partition, Value: b, Timestamp: at}
	if err := w.cl.ProduceSync(w.t.Context(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// slow returns the wall clock of a host that is six minutes behind.
func slow() time.Time { return time.Now().Add(-6 * time.Minute) }

// Exporters, ingest and the brokers have the right time; enrich's host is six minutes slow,
// more than maxAhead. Receive times run ahead of the wall clock here, so that the test
// does not wait for PAIR_IDLE.
func TestASlowClockEndsConnectionsByTheBrokersTimeAndIsNotReady(t *testing.T) {
	c := cluster(t)
	flows := newFlowWriter(t, c)
	began := time.Now()
	flows.put(0, began, []byte{10, 0, 0, 1}, 40001)
	w, stop := start(t, config(c, "a"), slow)
	defer stop()
	eventually(t, "the brokers' time is known", func() bool { return w.session.Behind() > 5*time.Minute })
	// Behind is a lower bound of the true lag, by at most the time of a transaction.
	if got := w.session.Behind(); got > 6*time.Minute+time.Second {
		t.Errorf("the clock is 6m0s behind, want at most that, got %v", got)
	}
	for i := range uint32(10) { // PAIR_IDLE is 75 s
		flows.put(0, began.Add(time.Duration(i)*10*time.Second), []byte{10, 0, 0, 2}, 41000+i)
	}
	eventually(t, "the first connection ends", func() bool { return w.Stats().Connections > 0 })
	if err := w.Ready(); err == nil || !strings.Contains(err.Error(), "behind that of the Kafka brokers") {
		t.Errorf("want not ready for the clock, got %v", err)
	}
}

// Brokers before 3.0 do not describe transactions, so that the wrong clock is not known. Flows from
// the future must still end no connection, and the worker must report the fault.
func TestWithoutTheBrokersTimeFlowsFromTheFutureAreNotReady(t *testing.T) {
	c := cluster(t)
	c.ControlKey(int16(kmsg.DescribeTransactions), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
		st := kmsg.NewDescribeTransactionsResponseTransactionState()
		st.ErrorCode = 53 // TRANSACTIONAL_ID_AUTHORIZATION_FAILED
		resp.TransactionStates = append(resp.TransactionStates, st)
		return resp, nil, true
	})
	flows := newFlowWriter(t, c)
	cl := &clock{}
	w, stop := start(t, config(c, "a"), cl.now)
	defer stop()
	ahead := func(port uint32) {
		flows.put(0, cl.now().Add(10*time.Minute), []byte{10, 0, 0, 1}, port)
	}
	ahead(40001)
	eventually(t, "the flow is taken", func() bool { return w.Stats().Ahead == 1 })
	eventually(t, "ready", func() bool { return w.Ready() == nil })
	cl.ahead.Add(int64(allAheadFor))
	ahead(40002)
	eventually(t, "not ready", func() bool {
		return w.Ready() != nil && strings.Contains(w.Ready().Error(), "received more than 5m0s in the future")
	})
	flows.put(0, cl.now(), []byte{10, 0, 0, 1}, 40003) // one ingest has the right time
	eventually(t, "ready again", func() bool { return w.Ready() == nil })
}

// A single flow from the future, then silence: that the clocks are wrong all the time is not
// known from it.
func TestOneFlowFromTheFutureLeavesTheWorkerReady(t *testing.T) {
	var c clockCheck
	began := time.Unix(1_800_000_000, 0)
	c.committed(1, 1, began)
	if err := c.wrong(0); err != nil {
		t.Errorf("after one flow: want no error, got %v", err)
	}
	c.committed(1, 1, began.Add(allAheadFor))
	if err := c.wrong(0); err == nil {
		t.Errorf("every flow for %v: want an error", allAheadFor)
	}
	c.committed(2, 1, began.Add(2*allAheadFor))
	c.committed(1, 1, began.Add(3*allAheadFor))
	if err := c.wrong(0); err != nil {
		t.Errorf("after a flow from the present: want no error, got %v", err)
	}
}
