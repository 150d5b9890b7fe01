package kafka

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Three seconds are read, of the partitions that have records in them: no records before or after, and none of
// an aborted transaction.
func TestTheRecordsOfATimeAreReadOnce(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	write := func(end kgo.TransactionEndTry, partition int32, names string, seconds ...int) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for i, s := range seconds {
			r := &kgo.Record{Topic: "t.flows", Partition: partition, Value: []byte(names[i : i+1]), Timestamp: start.Add(time.Duration(s) * time.Second)}
			if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	write(kgo.TryCommit, 0, "abcdef", 0, 1, 2, 3, 4, 5)
	write(kgo.TryCommit, 1, "gh", 0, 9)
	write(kgo.TryCommit, 2, "i", 3)
	write(kgo.TryAbort, 2, "j", 4) // the last of the partition
	read := func(from, to int) (got []string) {
		t.Helper()
		at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		err := ReadBetween(ctx, config(b.Addr()), "t.flows", at(from), at(to), func(records []Record) error {
			for _, r := range records {
				got = append(got, string(r.Value))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		return got
	}
	for _, tt := range []struct {
		from, to int
		want     []string
	}{
		{2, 5, []string{"c", "d", "e", "i"}},
		{5, 100, []string{"f", "h"}},
		{-5, 0, nil},
		{50, 60, nil},
	} {
		if d := cmp.Diff(tt.want, read(tt.from, tt.to)); d != "" {
			t.Errorf("second %d to %d (-want +got):\n%s", tt.from, tt.to, d)
		}
	}
	stop := errors.New("enough")
	if err := ReadBetween(ctx, config(b.Addr()), "t.flows", start, time.Now(), func([]Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("want the error of apply, got %v", err)
	}
	if err := ReadBetween(ctx, config(b.Addr()), "t.nowhere", start, time.Now(), nil); err == nil {
		t.Error("a topic that is not there: want an error")
	}
}
