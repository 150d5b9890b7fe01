package kafka

import (
	"context"
	"math"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka/broker"
)

// deadline bounds the waits of a test for Kafka. It is far above their usual length.
const deadline = 30 * time.Second

func startBroker(t *testing.T, addr string) *broker.Broker {
	t.Helper()
	b, err := broker.Start(addr, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// freeAddr returns an address on which nothing listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return addr
}

func config(addr string) Config {
	return Config{Brokers: []string{addr}, ClientID: "test", SessionTimeout: 15 * time.Second}
}

func topicConfig() TopicConfig {
	return TopicConfig{
		Prefix: "t.", Mode: modeCreate, Partitions: 3, Replication: -1,
		FlowsRetention: 24 * time.Hour, ConnRetention: 168 * time.Hour,
	}
}

func ensure(ctx context.Context, t *testing.T, addr string, topics ...Topic) {
	t.Helper()
	if err := Ensure(ctx, config(addr), topicConfig(), nil, topics...); err != nil {
		t.Fatal(err)
	}
}

// startFake starts a single broker whose requests a test can answer itself.
func startFake(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// answerFetchesOf answers all fetches of the topic with this id without records and without an error, also when the
// topic does not exist any more. It returns a tally of them.
func answerFetchesOf(c *kfake.Cluster, id [16]byte) *tally[struct{}] {
	answered := newTally[struct{}]()
	c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.FetchRequest)
		for _, topic := range req.Topics {
			if topic.TopicID != id {
				return nil, nil, false
			}
		}
		answered.add(struct{}{})
		return r.ResponseKind(), nil, true
	})
	return answered
}

// allocationsOf returns the number of allocations of round, after a first round in which pools grow. A garbage
// collection empties the pools: it is the best of three.
func allocationsOf(round func()) float64 {
	round()
	least := math.Inf(1)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		round()
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs))
	}
	return least
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func admin(t *testing.T, addr string, opts ...kgo.Opt) *kadm.Client {
	t.Helper()
	c := config(addr)
	cl, err := kgo.NewClient(append(c.opts(), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// A tally collects the arguments of callbacks, and lets a test wait for them.
type tally[T any] struct {
	mu    sync.Mutex
	items []T
	more  chan struct{}
}

func newTally[T any]() *tally[T] { return &tally[T]{more: make(chan struct{}, 1)} }

func (c *tally[T]) add(v T) {
	c.mu.Lock()
	c.items = append(c.items, v)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *tally[T]) all() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]T(nil), c.items...)
}

// wait returns the collected values once enough returns true for them.
func (c *tally[T]) wait(ctx context.Context, t *testing.T, what string, enough func([]T) bool) []T {
	t.Helper()
	for {
		if got := c.all(); enough(got) {
			return got
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v; got %v", what, deadline, c.all())
		}
	}
}

func atLeast[T any](n int) func([]T) bool {
	return func(got []T) bool { return len(got) >= n }
}
