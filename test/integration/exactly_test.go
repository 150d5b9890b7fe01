//go:build integration

package integration

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/pkg/flowpb"
	kafkatest "weir/test/kafka"
	"weir/test/workload"
)

// A million connections, late records among them, while workers are killed eight
// times and a node once: what consumers read is what an undisturbed run gives.
func TestAMillionConnectionsExactlyOnce(t *testing.T) {
	const (
		connections = 1_000_000
		parts       = 8 // partitions of the flows
		kills       = 8
		workers     = 3
		session     = 6 * time.Second
		prefix      = "million."
	)
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Minute)
	defer cancel()
	c := kafkatest.Start(ctx, t)
	w := &world{t: t, bin: build(ctx, t, t.TempDir()), c: c}
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: c.Brokers()}, config(prefix, parts), nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(20_000), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()

	// The flows come in as many shares as there are kills, and one: in each there is
	// work for every partition when a worker is killed.
	undisturbed := workload.NewUndisturbed(parts)
	next := make(chan struct{}, kills+1)
	produced := make(chan int, kills+1)
	go func() {
		flows, share := 0, -1
		workload.Flows(connections, time.Now().Add(-50*time.Minute), kills+1, func(part int, key []byte, m *flowpb.FlowMessage) {
			if part != share {
				if share >= 0 {
					if err := cl.Flush(ctx); err != nil {
						t.Errorf("producing: %v", err)
					}
					produced <- flows
				}
				share = part
				<-next
			}
			flows++
			undisturbed.Publish(ctx, t, cl, prefix+"flows", key, m)
		})
		if err := cl.Flush(ctx); err != nil {
			t.Errorf("producing: %v", err)
		}
		produced <- flows
	}()

	settings := func(i int) []string {
		return []string{
			"TOPIC_PREFIX=" + prefix, fmt.Sprintf("INSTANCE=w%d", i), fmt.Sprintf("TOPIC_PARTITIONS=%d", parts), "KAFKA_SESSION_TIMEOUT=" + session.String(),
			"DNS_ENABLED=false",
		}
	}
	var members [workers]*process
	for i := range members {
		members[i] = w.start("enrich", settings(i)...)
	}
	var mu sync.Mutex
	got, versions := workload.Reports{}, 0
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var read sync.WaitGroup
	read.Go(func() {
		r, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.ConsumeTopics(prefix+"connections"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(250*time.Millisecond))
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		for reading.Err() == nil {
			f := r.PollFetches(reading)
			mu.Lock()
			f.EachRecord(func(r *kgo.Record) {
				var m flowpb.Connection
				if err := proto.Unmarshal(r.Value, &m); err != nil {
					t.Errorf("a record that is no connection: %v", err)
					return
				}
				got.Add(&m)
				versions = len(got)
			})
			mu.Unlock()
		}
	})
	adm := kadm.NewClient(cl)
	committed := func() (at [parts]int64) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		offsets, err := adm.FetchOffsetsForTopics(try, "enrich", prefix+"flows")
		if err == nil {
			offsets.Each(func(o kadm.OffsetResponse) {
				if o.Err == nil && o.Topic == prefix+"flows" {
					at[o.Partition] = o.At
				}
			})
		}
		return at
	}
	sum := func(at [parts]int64) (n int64) {
		for _, v := range at {
			n += max(v, 0)
		}
		return n
	}

	began := time.Now()
	next <- struct{}{}
	flows := <-produced
	var restarts []time.Duration // from each kill until all partitions moved
	for k := range kills {
		// The share is being worked on; the next one is on its way, so that every
		// partition has something to move on to.
		before := sum(committed())
		next <- struct{}{}
		kafkatest.Poll(ctx, t, "the share is worked on", func() bool { return sum(committed()) > before })
		members[k%workers].kill()
		if k == kills/2 {
			c.Kill(2)
		}
		killed, at := time.Now(), committed()
		members[k%workers] = w.start("enrich", settings(k%workers)...)
		moved := map[int]bool{}
		kafkatest.Poll(ctx, t, "all partitions move again", func() bool {
			now := committed()
			for p := range parts {
				if now[p] > at[p] {
					moved[p] = true
				}
			}
			return len(moved) == parts
		})
		took := time.Since(killed)
		flows = <-produced
		restarts = append(restarts, took)
		t.Logf("kill %d: all partitions moved again after %v", k+1, took.Round(100*time.Millisecond))
		if k == kills/2 {
			if err := c.StartNode(2); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Seven processes share two cores, with who knows what beside: the median holds
	// the bound, and none waits for a transaction to time out.
	slices.Sort(restarts)
	median, slowest := restarts[len(restarts)/2], restarts[len(restarts)-1]
	if median > session+6*time.Second || slowest > 40*time.Second {
		t.Errorf("all partitions moved again after %v in the median, %v at most; want %v", median, slowest, session+6*time.Second)
	}
	kafkatest.Poll(ctx, t, "all flows are taken", func() bool { return sum(committed()) >= int64(flows) })
	want := undisturbed.Reports
	last, quiet := -1, time.Now()
	kafkatest.Poll(ctx, t, "all connections are read", func() bool {
		mu.Lock()
		defer mu.Unlock()
		if versions != last {
			last, quiet = versions, time.Now()
		}
		return versions >= len(want) && time.Since(quiet) > 2*time.Second || time.Since(quiet) > 20*time.Second
	})
	took := time.Since(began)
	stop()
	read.Wait()
	missing, duplicate, wrong := workload.Compare(want, got)
	if missing+duplicate+wrong > 0 || len(want) < connections || undisturbed.Versions[2] < connections/100 {
		t.Errorf("%d reports, want %d (%d second versions): %d missing, %d duplicate, %d wrong", len(got), len(want), undisturbed.Versions[2], missing, duplicate, wrong)
	}
	t.Logf("%d flows, %d reports of connections, %d of them second versions: missing %d, duplicate %d, wrong %d after %d kills of workers and one of a node; all partitions moved again after %v in the median, %v at most; %v in all",
		flows, len(want), undisturbed.Versions[2], missing, duplicate, wrong, kills, median.Round(100*time.Millisecond), slowest.Round(100*time.Millisecond), took.Round(time.Second))
	for _, p := range members {
		p.terminate(t)
	}
}
