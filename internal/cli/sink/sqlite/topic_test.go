package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/cli/sink"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// putFlows publishes flows with the numbers first up to, not including, end. It uses a new client that has not
// seen the topic before.
func putFlows(t *testing.T, cl *kgo.Client, partition int32, first, end int) {
	t.Helper()
	own, err := kgo.NewClient(kgo.SeedBrokers(cl.OptValue(kgo.SeedBrokers).([]string)...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for i := first; i < end; i++ {
		m := marshal(t, &flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, ObservationDomainId: uint32(i)})
		r := &kgo.Record{Topic: "t.flows", Partition: partition, Value: m}
		if err := own.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// rowsAndDistinct returns the number of stored flows and the number of distinct flows.
func rowsAndDistinct(t *testing.T, path string) string {
	t.Helper()
	return look(t, path, "SELECT count(*) || '|' || count(DISTINCT domain) FROM flows")
}

func TestNoFlowIsARowTwiceWhenTheTopicEndsBeforeTheStoredPosition(t *testing.T) {
	cl := onBroker(t)
	path := filepath.Join(t.TempDir(), "f.db")
	run := func() string {
		t.Helper()
		var errout bytes.Buffer
		if code := program([]string{path, "--topic", "flows", "--once"}, io.Discard, &errout); code != 0 {
			t.Fatalf("exit code %d: %s", code, errout.String())
		}
		return errout.String()
	}
	putFlows(t, cl, 0, 0, 10)
	run()
	// The stored offset is beyond the end of the topic, as after the loss of its last records.
	s := open(t, path, "flows", sink.Options{})
	if _, err := s.db.ExecContext(t.Context(), "UPDATE offsets SET next = 1000 WHERE partition = 0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	const want = "the last records of t.flows are lost in Kafka, 990 of which are in"
	if out := run(); !strings.Contains(out, want) {
		t.Errorf("want %q, got %q", want, out)
	}
	putFlows(t, cl, 0, 10, 15)
	if out := run(); strings.Contains(out, "Kafka lost") {
		t.Errorf("the loss is reported again: %q", out)
	}
	if got := rowsAndDistinct(t, path); got != "15|15" {
		t.Errorf("rows and distinct rows: want 15|15, got %s", got)
	}
}

func TestATopicThatChangesUnderARunningSinkIsReadOn(t *testing.T) {
	cl := onBroker(t)
	adm := kadm.NewClient(cl)
	path := filepath.Join(t.TempDir(), "f.db")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &locked.Buffer{}
	cmd := exec.CommandContext(ctx, os.Args[0], path, "--topic", "flows")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait := func(want int) {
		t.Helper()
		for got := ""; got != fmt.Sprintf("%d|%d", want, want); got = rowsAndDistinct(t, path) {
			select {
			case <-ctx.Done():
				t.Fatalf("rows and distinct rows: want %d, got %s; %s", want, got, out.String())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	putFlows(t, cl, 0, 0, 10)
	wait(10)
	if _, err := adm.DeleteTopic(ctx, "t.flows"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "t.flows"); err != nil {
		t.Fatal(err)
	}
	putFlows(t, cl, 0, 10, 15)
	wait(15)
	if _, err := adm.UpdatePartitions(ctx, 2, "t.flows"); err != nil {
		t.Fatal(err)
	}
	putFlows(t, cl, 1, 15, 20)
	wait(20)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the program: %v\n%s", err, out.String())
	}
	if d := cmp.Diff(1, strings.Count(out.String(), "was deleted and recreated: reading it from its start")); d != "" {
		t.Errorf("reports of the new topic: -want +got\n%s%s", d, out.String())
	}
	if n := strings.Count(out.String(), "\n"); n > 30 {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}

// Kafka loses the records from offset 6 on, and the topic grows beyond the stored offset before the sink starts
// again. The records after the truncation must be read. The broker of the test only reports the loss, so six of
// the rows occur twice.
func TestRecordsBehindACutAreRead(t *testing.T) {
	var cut atomic.Int64
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t.flows"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.OffsetForLeaderEpochRequest)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, topic := range req.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, cut.Load()
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	t.Setenv("KAFKA_BROKERS", strings.Join(c.ListenAddrs(), ","))
	t.Setenv("TOPIC_PREFIX", "t.")
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	path := filepath.Join(t.TempDir(), "f.db")
	run := func(want string) {
		t.Helper()
		var errout bytes.Buffer
		if code := program([]string{path, "--topic", "flows", "--once"}, io.Discard, &errout); code != 0 || !strings.Contains(errout.String(), want) {
			t.Fatalf("exit code %d, want 0 and %q: %s", code, want, errout.String())
		}
	}
	cut.Store(1 << 40)
	putFlows(t, cl, 0, 0, 10)
	run("10 rows written")
	putFlows(t, cl, 0, 10, 12)
	run("2 rows written") // no truncation
	cut.Store(6)
	putFlows(t, cl, 0, 12, 20)
	run("the last records of t.flows are lost in Kafka, 6 of which are in")
	if got := rowsAndDistinct(t, path); got != "26|20" {
		t.Errorf("rows and distinct rows: want 26|20, got %s", got)
	}
}
