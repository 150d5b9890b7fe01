//go:build synctests

package simulation

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// After FENCED_LEADER_EPOCH for a partition of which it has read nothing, kgo fetches again at once, until it
// has new metadata, for which it waits 10 ms. Fake time must pass meanwhile.
func TestAClientThatAsksAgainAtOnceLetsTimePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "x"), kfake.Ports(19092), kfake.ListenFn(network.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h := &host{network: &network}
		w := &watch{find: func(kind, format string, args ...any) { t.Errorf("%s: %s", kind, fmt.Sprintf(format, args...)) }}
		var requests atomic.Int64
		const most = 20 * paceFree
		c.Control(func(r kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if requests.Add(1) == most {
				h.cut() // otherwise the test would not end
			}
			return w.request(r)
		})
		consumer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(h.dial),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"x": {0: kgo.NewOffset().At(0), 1: kgo.NewOffset().At(0)}}), kgo.MetadataMinAge(250*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		producer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(network.DialContext), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
		if err != nil {
			t.Fatal(err)
		}
		defer producer.Close()
		read := make(chan struct{})
		go func() {
			defer close(read)
			for !consumer.PollFetches(t.Context()).IsClientClosed() {
			}
		}()
		time.Sleep(10 * time.Second)
		before := requests.Load()
		consumer.ForceMetadataRefresh()
		time.Sleep(time.Millisecond)
		if err := c.MoveTopicPartition("x", 0, 0); err != nil { // a new epoch of the same leader
			t.Fatal(err)
		}
		if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Partition: 1}).FirstErr(); err != nil { // a fetch is answered
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		n := requests.Load()
		t.Logf("%d requests after the epoch changed", n-before)
		if n-before < paceFree {
			t.Errorf("%d requests: the client does not ask again at once any more: is there another that does?", n-before)
		}
		if n >= most {
			t.Errorf("%d requests, and no fake time passed", n)
		}
		consumer.Close()
		<-read
	})
}

// A client that sends requests without pause and without end must be reported.
func TestRequestsWithoutEndAreHot(t *testing.T) {
	var p pace
	now := time.Unix(0, 0)
	hot := 0
	for now.Before(time.Unix(60, 0)) {
		delay, first := p.request(now)
		now = now.Add(delay)
		if first {
			hot++
		}
	}
	if hot != 1 {
		t.Errorf("%d findings, want one", hot)
	}
	p = pace{}
	now = time.Unix(0, 0)
	for range 10 { // bursts of 2 s every 20 s
		for until := now.Add(2 * time.Second); now.Before(until); {
			delay, first := p.request(now)
			now = now.Add(delay)
			if first {
				t.Fatal("a burst is a finding")
			}
		}
		now = now.Add(hotFor)
	}
}

// The bounds of guard must end an endless run, and must be far from healthy runs.
func TestARunThatDoesNotEndIsARunaway(t *testing.T) {
	for _, c := range []struct {
		stalled time.Duration
		heap    uint64
		want    string
	}{
		{stalledFor, heapBound, ""},
		{stalledFor + time.Second, 0, "no fake time passed in 2m1s"},
		{0, heapBound + 1<<20, "the heap has 4097 MiB, of 4096 that it may have"},
	} {
		if got := runaway(c.stalled, c.heap); got != c.want {
			t.Errorf("%v, %d octets: %q: want %q", c.stalled, c.heap, got, c.want)
		}
	}
	if n := heapObjects(); n == 0 || n > heapBound {
		t.Errorf("the heap has %d octets", n)
	}
}
