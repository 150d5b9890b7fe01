package kafka

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/templates"
)

// A replica is a store joined to the shared log, as in ingest.
type replica struct {
	*templates.Store
	log    *TemplateLog
	change chan struct{}
}

func startReplica(ctx context.Context, t *testing.T, addr, name string) *replica {
	t.Helper()
	r := &replica{change: make(chan struct{}, 1)}
	r.Store = templates.New(templates.Options{Replica: name, Now: time.Now, Changed: func([16]byte) {
		select {
		case r.change <- struct{}{}:
		default:
		}
	}})
	log, err := NewTemplateLog(config(addr), "t.templates", name)
	if err != nil {
		t.Fatal(err)
	}
	log.Renewed = r.Republish
	r.log = log
	ctx, cancel := context.WithCancel(ctx)
	go r.publishUntil(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- log.Run(ctx, func(k, v []byte) {
			if err := r.Merge(k, v); err != nil {
				t.Errorf("%s: merge: %v", name, err)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

// publishUntil publishes due records until ctx ends, repeatedly, as ingest does. Due records may be withheld for
// a while, so that a single try for each change is too few.
func (r *replica) publishUntil(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.publish()
		}
	}
}

// publish passes the due records to the log.
func (r *replica) publish() {
	for _, rec := range r.Due() {
		r.log.Publish(rec.Key, rec.Value, func(err error) { r.Published(rec, err) })
	}
}

func (r *replica) learn(t *testing.T, id uint16, octets uint16) {
	t.Helper()
	k := templateKey(id)
	if _, err := r.Learn(k, &decode.Meta{Exporter: netip.AddrFrom16(k.Exporter).Unmap(), Port: 1, Received: time.Now().UnixNano()},
		&decode.Header{Version: 9}, &decode.Template{ID: id, Fields: []decode.Field{{ID: 1, Length: octets}}}); err != nil {
		t.Fatal(err)
	}
	r.publish()
}

func (r *replica) octets(id uint16) uint16 {
	p := r.Known(templateKey(id), 1)
	if p == nil {
		return 0
	}
	return p.Template().Fields[0].Length
}

func (r *replica) waitFor(ctx context.Context, t *testing.T, id, octets uint16) {
	t.Helper()
	for r.octets(id) != octets {
		select {
		case <-r.change:
		case <-ctx.Done():
			t.Fatalf("template %d: want its layout of %d octets, got %d", id, octets, r.octets(id))
		}
	}
}

func templateKey(id uint16) *decode.TemplateKey {
	return &decode.TemplateKey{Exporter: decode.Map16(netip.MustParseAddr("192.0.2.1")), Domain: 7, ID: id, Version: 9}
}

func (r *replica) untilReady(ctx context.Context, t *testing.T) {
	t.Helper()
	untilReady(ctx, t, &tail{TemplateLog: r.log})
}

func TestAReplicaDecodesWithATemplateThatOnlyAnotherReceived(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	one := startReplica(ctx, t, b.Addr(), "one")
	two := startReplica(ctx, t, b.Addr(), "two")
	two.untilReady(ctx, t)
	one.learn(t, 300, 4)
	two.waitFor(ctx, t, 300, 4)
	one.learn(t, 300, 8)
	two.waitFor(ctx, t, 300, 8)
	two.learn(t, 300, 4)
	one.waitFor(ctx, t, 300, 4)

	three := startReplica(ctx, t, b.Addr(), "three")
	three.untilReady(ctx, t)
	if got := three.octets(300); got != 4 { // ready: so the layout is known without waiting
		t.Errorf("a replica that is ready: want the layout of 4 octets, got %d", got)
	}
	if got := three.Stats(); got.Definitions != 2 || got.Pending != 0 {
		t.Errorf("a replica that received nothing itself: want 2 definitions, 0 pending; got %+v", got)
	}
}

func TestWhatIsLearntWhileKafkaIsAwayIsSharedWhenItIsThere(t *testing.T) {
	ctx := testContext(t)
	addr := freeAddr(t)
	one := startReplica(ctx, t, addr, "one")
	two := startReplica(ctx, t, addr, "two")
	one.learn(t, 300, 4)
	if got := one.octets(300); got != 4 {
		t.Errorf("the replica that received it, Kafka away: want the layout of 4 octets, got %d", got)
	}
	if one.log.Ready() == nil {
		t.Error("ready without Kafka")
	}
	startBroker(t, addr)
	ensure(ctx, t, addr, Templates)
	two.waitFor(ctx, t, 300, 4)
	one.untilReady(ctx, t)
	two.untilReady(ctx, t)
}

func TestABrokerThatRestartsWithNothingGetsAgainWhatReplicasReceive(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	one := startReplica(ctx, t, b.Addr(), "one")
	one.untilReady(ctx, t)
	one.learn(t, 300, 4)
	b.Close()
	one.learn(t, 301, 8)
	startBroker(t, b.Addr())
	ensure(ctx, t, b.Addr(), Templates)
	late := startReplica(ctx, t, b.Addr(), "late")
	late.waitFor(ctx, t, 301, 8)
	late.waitFor(ctx, t, 300, 4)
	if err := one.log.Ready(); err != nil {
		t.Errorf("an outage changed readiness: %v", err)
	}
}
