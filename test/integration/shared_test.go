//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/templates"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/pkg/flowpb"
)

// TestTheSharedStateOnRealKafka checks behaviour of topics that only a cluster shows: three nodes,
// replication 3.
func TestTheSharedStateOnRealKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	w := &world{t: t, bin: build(ctx, t, t.TempDir()), c: kafkatest.Start(ctx, t)}
	t.Run("a topic that cannot be used is named, with what is and what should be", func(t *testing.T) { w.unusable(ctx, t) })
	t.Run("templates outlive their topic", func(t *testing.T) { w.topicDeleted(ctx, t) })
	t.Run("a bootstrap while the topic is compacted", func(t *testing.T) { w.compacted(ctx, t) })
	t.Run("a template reaches another replica as fast as Kafka", func(t *testing.T) { w.latency(ctx, t) })
	t.Run("a node killed under load", func(t *testing.T) { w.nodeKilled(ctx, t) })
}

func (w *world) admin(t *testing.T) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

func (w *world) unusable(ctx context.Context, t *testing.T) {
	adm := w.admin(t)
	policy := "delete"
	if _, err := adm.CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": &policy}, "bad.templates"); err != nil {
		t.Fatal(err)
	}
	kc := kafka.Config{Brokers: w.c.Brokers()}
	var err error
	kafkatest.Poll(ctx, t, "the topic is known", func() bool {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err = kafka.Ensure(try, kc, config("bad.", 3), nil, kafka.Templates)
		return err != nil && try.Err() == nil
	})
	for _, want := range []string{"bad.templates", "cleanup.policy=delete", "want compact", "kafka-configs.sh"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("a wrong cleanup policy: want %q in %v", want, err)
		}
	}
	// An error of the broker must be reported with the broker's reason, and retried.
	many := config("many.", 3)
	many.Replication = 7
	var why error
	try, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err = kafka.Ensure(try, kc, many, func(e error) { why = e }, kafka.Templates)
	if err == nil || why == nil || !strings.Contains(why.Error(), "many.templates") || !strings.Contains(why.Error(), "replication factor") {
		t.Errorf("a replication factor of 7 on 3 nodes: want the broker's reason, got %v (%v)", why, err)
	}
	huge := config("huge.", 3)
	huge.Prefix = "huge." + strings.Repeat("x", 240) + "."
	if err := kafka.Ensure(ctx, kc, huge, nil, kafka.Templates); err == nil {
		t.Error("a name that is too long: want an error")
	}
}

// An exporter sends datagrams to replicas, all from the same port.
type exporter struct{ *net.UDPConn }

func newExporter(t *testing.T) exporter {
	t.Helper()
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return exporter{l}
}

func (e exporter) send(t *testing.T, to *process, pkt []byte) {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", to.udp)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.WriteTo(pkt, addr); err != nil {
		t.Fatal(err)
	}
}

// topicDeleted deletes and recreates the templates topic while replicas run. They must publish
// their templates again, and a replica that starts then must decode with them.
func (w *world) topicDeleted(ctx context.Context, t *testing.T) {
	x, adm := newExporter(t), w.admin(t)
	first := w.ingest(ctx, "one", "TOPIC_PREFIX=gone.")
	kafkatest.Poll(ctx, t, "ready", func() bool { code, _ := first.ready(); return code == http.StatusOK })
	x.send(t, first, packet(t, "v9_template.hex"))
	topic := "gone.templates"
	onTopic := func() (n int) {
		_ = kafka.ReadWhole(ctx, kafka.Config{Brokers: w.c.Brokers()}, topic, func(r kafka.Record) { // the topic may not exist for a moment
			if _, ok, err := templates.Read(r.Key, r.Value); ok && err == nil {
				n++
			}
		})
		return n
	}
	kafkatest.Poll(ctx, t, "the template is on the topic", func() bool { return onTopic() > 0 })
	if _, err := adm.DeleteTopic(ctx, topic); err != nil {
		t.Fatal(err)
	}
	kafkatest.Poll(ctx, t, "the topic is gone", func() bool {
		l, err := adm.ListTopics(ctx, topic)
		return err == nil && !l.Has(topic)
	})
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: w.c.Brokers()}, config("gone.", partitions), nil, kafka.Templates); err != nil {
		t.Fatal(err)
	}
	kafkatest.Poll(ctx, t, "the template is on the new topic", func() bool { return onTopic() > 0 })
	second := w.ingest(ctx, "two", "TOPIC_PREFIX=gone.")
	x.send(t, second, packet(t, "v9_data.hex"))
	n := 0
	w.consume(ctx, t, "gone.flows", func(r *kgo.Record) bool { n++; return n == 24 })
	first.terminate(t)
	second.terminate(t)
}

// compacted refreshes 200 definitions while the broker compacts the topic and a replica reads it
// from its start. When the replica is ready, it must know all definitions.
func (w *world) compacted(ctx context.Context, t *testing.T) {
	const definitions, prefix = 200, "compact."
	kc := kafka.Config{Brokers: w.c.Brokers()}
	value := func(s string) *string { return &s }
	adm := w.admin(t)
	if _, err := adm.CreateTopic(ctx, 1, -1, map[string]*string{
		"cleanup.policy": value("compact"), "segment.ms": value("1000"), "min.cleanable.dirty.ratio": value("0.01"), "max.compaction.lag.ms": value("1000"),
	}, prefix+"templates"); err != nil {
		t.Fatal(err)
	}
	template := func(id int) *decode.Template {
		return &decode.Template{ID: uint16(300 + id), Fields: []decode.Field{{ID: 8, Length: 4}, {ID: uint16(100 + id), Length: 8}}}
	}
	write := func(rounds int) {
		var all []kafka.Record
		for range rounds {
			for id := range definitions {
				both, err := templates.Added("test", time.Now(), netip.MustParseAddr("192.0.2.1"), 9, 7, template(id))
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range both {
					all = append(all, kafka.Record{Key: r.Key, Value: r.Value})
				}
			}
		}
		if err := kafka.Write(ctx, kc, prefix+"templates", all); err != nil {
			t.Fatal(err)
		}
	}
	write(50)
	start := func() int64 {
		o, err := adm.ListStartOffsets(ctx, prefix+"templates")
		if err != nil {
			t.Fatal(err)
		}
		l, _ := o.Lookup(prefix+"templates", 0)
		return l.Offset
	}
	records := func() (n int) {
		if err := kafka.ReadWhole(ctx, kc, prefix+"templates", func(kafka.Record) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	time.Sleep(1100 * time.Millisecond) // the next write begins a new segment, so that the previous segment may be compacted
	compacting := false
	for round := 0; !compacting && ctx.Err() == nil; round++ {
		store := templates.New(templates.Options{Replica: "r"})
		log, err := kafka.NewTemplateLog(kc, prefix+"templates", fmt.Sprintf("r%d", round))
		if err != nil {
			t.Fatal(err)
		}
		run, stop := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := log.Run(run, func(k, v []byte) {
				if err := store.Merge(k, v); err != nil {
					t.Errorf("merge: %v", err)
				}
			}); err != nil {
				t.Errorf("log: %v", err)
			}
		})
		write(1)
		kafkatest.Poll(ctx, t, "the log is read to its end", func() bool { return log.Ready() == nil })
		if n := store.Stats().Definitions; n != definitions {
			t.Errorf("round %d: ready with %d definitions, want %d", round, n, definitions)
		}
		stop()
		ended.Wait()
		compacting = records() < 50*2*definitions/2 // two records for each definition
	}
	t.Logf("compacted to %d records, from offset %d", records(), start())
}

// latency measures the time until a template that a replica received is known to another replica,
// while 50 000 flows/s are produced. It compares it with a bare producer and consumer in the same
// run.
func (w *world) latency(ctx context.Context, t *testing.T) {
	const prefix, samples = "fast.", 250
	kc := kafka.Config{Brokers: w.c.Brokers()}
	if err := kafka.Ensure(ctx, kc, config(prefix, partitions), nil, kafka.Flows, kafka.Templates); err != nil {
		t.Fatal(err)
	}
	if _, err := w.admin(t).CreateTopic(ctx, 1, -1, nil, prefix+"bare"); err != nil {
		t.Fatal(err)
	}
	load, stop := context.WithCancel(ctx)
	defer stop()
	producer, err := kafka.NewProducer(kc, prefix+"flows", kafka.ProducerConfig{Linger: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	var produced, acked counter
	go func() {
		value := make([]byte, 105)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := uint64(0); load.Err() == nil; {
			<-tick.C
			for range 500 {
				n++
				key := binary.BigEndian.AppendUint64(nil, n*0x9e3779b97f4a7c15)
				produced.add()
				producer.Produce(key, value, time.Now(), func(err error) {
					if err == nil {
						acked.add()
					}
				})
			}
		}
	}()

	// Two replicas, each with a store and a template log as in ingest.
	seen := make(chan struct{}, 1)
	a := w.replica(ctx, t, kc, prefix, "a", nil)
	b := w.replica(ctx, t, kc, prefix, "b", seen)
	bare, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.ProducerLinger(0), kgo.DefaultProduceTopic(prefix+"bare"))
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.ConsumeTopics(prefix+"bare"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	if err := bare.ProduceSync(ctx, kgo.StringRecord("first")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if consumer.PollFetches(ctx).Err() != nil {
		t.Fatal("the bare consumer received nothing")
	}

	var ours, theirs []time.Duration
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i := range samples {
		<-pace.C
		k := &decode.TemplateKey{Exporter: decode.Map16(netip.MustParseAddr("192.0.2.1")), Version: 9, ID: uint16(300 + i)}
		began := time.Now()
		if _, err := a.Learn(k, &decode.Meta{Exporter: netip.MustParseAddr("192.0.2.1"), Port: 1, Received: began.UnixNano()}, &decode.Header{Version: 9},
			&decode.Template{ID: k.ID, Fields: []decode.Field{{ID: 8, Length: 4}}}); err != nil {
			t.Fatal(err)
		}
		for b.Known(k, 1) == nil {
			select {
			case <-seen:
			case <-ctx.Done():
				t.Fatal("a template did not arrive")
			}
		}
		ours = append(ours, time.Since(began))
		<-pace.C
		began = time.Now()
		bare.Produce(ctx, kgo.StringRecord("x"), nil)
		for got := 0; got == 0 && ctx.Err() == nil; {
			got = consumer.PollFetches(ctx).NumRecords()
		}
		theirs = append(theirs, time.Since(began))
	}
	stop()
	for _, q := range []float64{0.5, 0.99} {
		x, y := quantile(ours, q), quantile(theirs, q)
		t.Logf("p%.0f: a template at another replica %v, a record of a bare producer at a bare consumer %v: %.1f times", q*100, x, y, float64(x)/float64(y))
		if x > 3*y {
			t.Errorf("p%.0f: want at most 3 times the time of the bare consumer", q*100)
		}
	}
	t.Logf("beside %d flows produced, %d acknowledged", produced.get(), acked.get())
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add() { c.mu.Lock(); c.n++; c.mu.Unlock() }

func (c *counter) get() int { c.mu.Lock(); defer c.mu.Unlock(); return c.n }

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// replica returns a store that is connected to the topic and ready.
func (w *world) replica(ctx context.Context, t *testing.T, kc kafka.Config, prefix, name string, changed chan struct{}) *templates.Store {
	t.Helper()
	log, err := kafka.NewTemplateLog(kc, prefix+"templates", name)
	if err != nil {
		t.Fatal(err)
	}
	wake := make(chan struct{}, 1)
	store := templates.New(templates.Options{Replica: name, Changed: func([16]byte) {
		for _, c := range []chan struct{}{changed, wake} {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}})
	run, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := log.Run(run, func(k, v []byte) { _ = store.Merge(k, v) }); err != nil { // all records are this test's
			t.Errorf("log: %v", err)
		}
	})
	ended.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond) // retries failed and withheld records
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-wake:
			case <-tick.C:
			}
			for _, r := range store.Due() {
				log.Publish(r.Key, r.Value, func(err error) { store.Published(r, err) })
			}
		}
	})
	t.Cleanup(func() { stop(); ended.Wait() })
	kafkatest.Poll(ctx, t, "the log is read to its end", func() bool { return log.Ready() == nil })
	return store
}

// nodeKilled kills one of three nodes, and restarts it, while ingest receives 20 000 flows/s. Every
// flow must be on the topic exactly once.
func (w *world) nodeKilled(ctx context.Context, t *testing.T) {
	if !w.c.Own() {
		t.Skip("SKIPPED: the test must not kill the nodes of KAFKA_BROKERS")
	}
	const seconds, perDatagram = 60, 30
	in := w.ingest(ctx, "load", "TOPIC_PREFIX=load.")
	kafkatest.Poll(ctx, t, "ready", func() bool { code, _ := in.ready(); return code == http.StatusOK })
	x := newExporter(t)
	pkt := packet(t, "v5_30.hex")
	sent := 0
	began := time.Now()
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	killed, back := false, false
	for time.Since(began) < seconds*time.Second {
		<-tick.C
		for range 10 { // 10 datagrams of 30 flows in 15 ms: 20 000 flows/s
			binary.BigEndian.PutUint32(pkt[16:], uint32(sent*perDatagram)) // the sequence number makes each datagram different
			x.send(t, in, pkt)
			sent++
		}
		switch s := time.Since(began); {
		case !killed && s > seconds/3*time.Second:
			killed = true
			w.c.Kill(1)
		case !back && s > 2*seconds/3*time.Second:
			back = true
			if err := w.c.StartNode(1); err != nil {
				t.Fatal(err)
			}
		}
	}
	type id struct {
		hash   uint64
		offset uint32
	}
	seen := make(map[id]int, sent*perDatagram)
	w.consume(ctx, t, "load.flows", func(r *kgo.Record) bool {
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(r.Value, &m); err != nil {
			t.Fatal(err)
		}
		seen[id{m.DatagramHash, m.RecordOffset}]++
		return len(seen) == sent*perDatagram
	})
	in.terminate(t)
	total := 0
	ends, err := w.admin(t).ListEndOffsets(ctx, "load.flows")
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { total += int(o.Offset) })
	if total != sent*perDatagram {
		t.Errorf("records on the topic: want %d, each flow once, got %d", sent*perDatagram, total)
	}
	t.Logf("%d flows in %v, each once, with one of three nodes down for a third of the time", total, time.Since(began).Round(time.Second))
}
