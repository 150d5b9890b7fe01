package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/workload"
	"weir/pkg/flowpb"
)

// A smaller version of the test of a million connections in test/integration: three workers on the
// embedded broker are killed in turn while late records arrive.
func TestScenario5ManyConnectionsExactlyOnceWhileWorkersAreKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: starts and kills processes")
	}
	const (
		connections = 150_000 // 150 s of receive time: late records fit
		kills       = 4
		workers     = 3
		prefix      = "many."
	)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	bin := build(ctx, t)
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	k := newKafka(t, b.Addr())
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: []string{b.Addr()}}, topics(prefix), nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	undisturbed, flows := workload.NewUndisturbed(partitions), int64(0)
	workload.Flows(connections, time.Now().Add(-30*time.Minute), 1, func(_ int, key []byte, m *flowpb.FlowMessage) {
		flows++
		undisturbed.Publish(ctx, t, cl, prefix+"flows", key, m)
	})
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}

	launch := func(i int) *process {
		return start(ctx, t, bin, b.Addr(), prefix, fmt.Sprintf("INSTANCE=w%d", i), "COMMIT_RECORDS=2000", "COMMIT_INTERVAL=50ms")
	}
	var members [workers]*process
	for i := range members {
		members[i] = launch(i)
	}
	for i := range kills {
		k.waitCommitted(ctx, prefix, flows*int64(i+1)/(kills+2))
		members[i%workers].kill()
		members[i%workers] = launch(i % workers)
	}
	k.waitCommitted(ctx, prefix, flows)
	want, got := undisturbed.Reports, workload.Reports{}
	last, quiet := -1, time.Now()
	kafkatest.Poll(ctx, t, "all connections are there", func() bool {
		n := len(k.read(ctx, prefix+"connections"))
		if n != last {
			last, quiet = n, time.Now()
		}
		return n >= len(want) && time.Since(quiet) > time.Second || time.Since(quiet) > 20*time.Second
	})
	for _, r := range k.read(ctx, prefix+"connections") {
		var c flowpb.Connection
		if err := proto.Unmarshal(r.Value, &c); err != nil {
			t.Fatal(err)
		}
		got.Add(&c)
	}
	for _, p := range members {
		p.stop()
	}
	missing, duplicate, wrong := workload.Compare(want, got)
	if missing+duplicate+wrong > 0 || len(want) < connections || undisturbed.Versions[2] == 0 {
		t.Errorf("%d reports, want %d (%d second versions): %d missing, %d duplicate, %d wrong", len(got), len(want), undisturbed.Versions[2], missing, duplicate, wrong)
	}
	t.Logf("%d flows, %d reports of connections, %d of them second versions: missing %d, duplicate %d, wrong %d after %d kills", flows, len(want), undisturbed.Versions[2], missing, duplicate, wrong, kills)
}
