package broker

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func start(t *testing.T, addr string, small bool) *Broker {
	t.Helper()
	b, err := Start(addr, small)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func client(t *testing.T, b *Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestATakenPortIsAnErrorThatNamesTheAddress(t *testing.T) {
	b := start(t, "127.0.0.1:0", false)
	_, err := Start(b.Addr(), false)
	if err == nil || !strings.Contains(err.Error(), b.Addr()+" is in use") || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("want an error that says %s is in use, got %v", b.Addr(), err)
	}
}

func TestAnAddressWithoutHostIsOnLoopbackOnly(t *testing.T) {
	if b := start(t, ":0", false); !strings.HasPrefix(b.Addr(), "127.0.0.1:") {
		t.Errorf("want 127.0.0.1, got %s", b.Addr())
	}
}

func TestABrokerComesBackOnTheSamePort(t *testing.T) {
	b := start(t, "127.0.0.1:0", false)
	addr := b.Addr()
	b.Close()
	if again := start(t, addr, false); again.Addr() != addr {
		t.Errorf("want %s, got %s", addr, again.Addr())
	}
}

func TestASmallBrokerCutsOnlyTopicsWhoseRecordsMayBeDeleted(t *testing.T) {
	tests := []struct {
		name          string
		small         bool
		configs       map[string]string
		wantRetention string
		wantSegment   string
	}{
		{"small, deleted by age", true, map[string]string{"cleanup.policy": "delete", "retention.ms": "86400000"}, smallRetention, smallSegment},
		{"small, nothing said", true, nil, smallRetention, smallSegment},
		{"small, its own segments", true, map[string]string{"segment.bytes": "67108864"}, smallRetention, smallSegment},
		{"small, no time limit", true, map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"}, "-1", smallSegment},
		{"small, compacted", true, map[string]string{"cleanup.policy": "compact"}, "-1", smallSegment},
		{"small, compacted and deleted", true, map[string]string{"cleanup.policy": "compact,delete"}, "-1", smallSegment},
		{"not small", false, map[string]string{"cleanup.policy": "delete", "retention.ms": "86400000"}, "-1", "104857600"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			adm := kadm.NewClient(client(t, start(t, "127.0.0.1:0", tt.small)))
			configs := map[string]*string{}
			for k, v := range tt.configs {
				configs[k] = &v
			}
			if _, err := adm.CreateTopic(ctx, 1, -1, configs, "x"); err != nil {
				t.Fatal(err)
			}
			rs, err := adm.DescribeTopicConfigs(ctx, "x")
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, c := range rs[0].Configs {
				if c.Key == "retention.bytes" || c.Key == "segment.bytes" {
					got[c.Key] = c.MaybeValue()
				}
			}
			want := map[string]string{"retention.bytes": tt.wantRetention, "segment.bytes": tt.wantSegment}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("configs (-want +got):\n%s", d)
			}
		})
	}
}

func TestASmallBrokerForgetsOldRecords(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b := start(t, "127.0.0.1:0", true)
	cl := client(t, b, kgo.ProducerBatchCompression(kgo.NoCompression()))
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 1, -1, nil, "x"); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 100_000)
	for range 200 { // 20 MB: five times the retention
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "x", Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	b.cluster.ApplyRetention() // the cleaner does so every 5 s
	offs, err := adm.ListStartOffsets(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offs.Lookup("x", 0)
	if o.Offset < 200-53 || o.Offset > 200-40 { // 4 MiB kept, up to a segment (1 MiB) more
		t.Errorf("want 40 to 53 of 200 records kept, got %d", 200-o.Offset)
	}
}
