package kafka

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A heldConn sends nothing while its network is held.
type heldConn struct {
	net.Conn
	held     *atomic.Bool
	waits    chan<- struct{}
	released <-chan struct{}
}

// Write implements net.Conn.
func (c heldConn) Write(p []byte) (int, error) {
	if c.held.Load() {
		select {
		case c.waits <- struct{}{}:
		default:
		}
		<-c.released
	}
	return c.Conn.Write(p)
}

// The handler of the undecoded topic holds its lock while it adds and removes partitions: it must not wait for a
// request that cannot be sent.
func TestAFollowerIsToldOfPartitionsWithoutWaitingForKafka(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded)
	tc := topicConfig()
	topic := tc.Name(Undecoded)
	var held atomic.Bool
	waits, released := make(chan struct{}, 1), make(chan struct{})
	c := config(b.Addr())
	c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return heldConn{conn, &held, waits, released}, err
	}
	f := NewFollower(c, topic)
	f.Add(0, -1)
	run, stop := context.WithCancel(ctx)
	seen := newTally[string]()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(run, func(_ int32, r Record) { seen.add(string(r.Value)) }) }()
	put := func(partition int32, value string) {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	put(0, "a")
	seen.wait(ctx, t, "the first record", atLeast[string](1))
	held.Store(true)
	put(0, "b") // the open fetch is answered; the next is not sent
	<-waits
	reported := make(chan struct{})
	go func() {
		for range 3 {
			f.Remove(0)
			f.Add(0, 0)
			f.Add(1, 0)
		}
		close(reported)
	}()
	select {
	case <-reported:
	case <-time.After(10 * time.Second):
		t.Error("Add and Remove wait until a request is sent")
	}
	put(1, "c")
	held.Store(false)
	close(released)
	seen.wait(ctx, t, "partition 0 from its start, and partition 1", func(got []string) bool {
		times := map[string]int{}
		for _, v := range got {
			times[v]++
		}
		return times["a"] >= 2 && times["b"] >= 1 && times["c"] >= 1
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
