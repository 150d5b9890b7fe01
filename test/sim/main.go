// Command sim measures how the shared state of exporters scales: many replicas
// in one process, on the embedded broker, with a clock of their own that runs as
// fast as they work. It writes its table into docs/scaling.md.
//
//	go run ./test/sim [-replicas 4,32] [-exporters 1000,20000] docs/scaling.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/templates"
)

const (
	perExporter = 4
	prefix      = "sim."
	refresh     = time.Minute // how often an exporter sends its templates
	begin       = "<!-- written by make scaling -->\n"
	end         = "<!-- end -->"
)

func main() {
	log.SetFlags(log.Ltime)
	replicas := flag.String("replicas", "4,32", "numbers of replicas")
	exporters := flag.String("exporters", "1000,20000", "numbers of exporters")
	flag.Parse()
	if err := run(context.Background(), *replicas, *exporters, flag.Arg(0), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func numbers(list string) (out []int, err error) {
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q: want numbers, comma separated", list)
		}
		out = append(out, n)
	}
	return out, nil
}

func run(ctx context.Context, replicas, exporters, path string, out io.Writer) error {
	rs, err := numbers(replicas)
	if err != nil {
		return err
	}
	es, err := numbers(exporters)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs; %d templates an exporter, each sent once a minute to any replica.\n\n", runtime.Version(), runtime.NumCPU(), perExporter)
	b.WriteString("| replicas | exporters | a new template known everywhere, p50 / max | a replica's start until it knows all | rolling restart of all: sets that lacked a template | " +
		"writes a template in the first hour | in each later hour | heap octets a template and replica |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rs {
		for _, e := range es {
			log.Printf("%d replicas, %d exporters", r, e)
			row, err := simulate(ctx, r, e)
			if err != nil {
				return err
			}
			b.WriteString(row)
			log.Print(row)
		}
	}
	if path == "" {
		_, err := io.WriteString(out, b.String())
		return err
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no place for the table between %q and %q", path, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(path, []byte(head+begin+"\n"+b.String()+"\n"+end+tail), 0o600)
}

// A world is a topic and the replicas on it. Its clock is moved by hand.
type world struct {
	c        kafka.Config
	ns       atomic.Int64
	replicas []*replica
	started  int
	written  int64
}

func (w *world) now() time.Time { return time.Unix(0, w.ns.Load()) }

// A replica is a store joined to the topic, as ingest joins them.
type replica struct {
	*templates.Store
	log     *kafka.TemplateLog
	stop    context.CancelFunc
	ended   chan error
	applied atomic.Int64 // records
	before  int64        // writes less applied when it was ready: compaction took them
	changed chan struct{}
}

func (w *world) start(ctx context.Context) (*replica, error) {
	w.started++
	name := fmt.Sprintf("r%d", w.started)
	r := &replica{ended: make(chan error, 1), changed: make(chan struct{}, 1)}
	r.Store = templates.New(templates.Options{Replica: name, Now: w.now, MaxUnconfirmed: 1_000_000, Changed: func([16]byte) {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}})
	var err error
	if r.log, err = kafka.NewTemplateLog(w.c, prefix+"templates", name); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(ctx)
	r.stop = stop
	go func() {
		r.ended <- r.log.Run(run, func(k, v []byte) {
			if err := r.Merge(k, v); err != nil {
				log.Printf("merge: %v", err)
			}
			r.applied.Add(1)
		})
	}()
	for r.log.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	r.before = w.written - r.applied.Load()
	return r, nil
}

func (r *replica) end() error {
	r.stop()
	return <-r.ended
}

// share publishes what is due anywhere and waits until all replicas have it.
func (w *world) share() {
	for {
		var wg sync.WaitGroup
		n := int64(0)
		for _, r := range w.replicas {
			for _, rec := range r.Due() {
				n++
				wg.Add(1)
				r.log.Publish(rec.Key, rec.Value, func(err error) {
					r.Published(rec, err)
					wg.Done()
				})
			}
			wg.Wait() // at most so much is buffered
		}
		w.written += n
		if n == 0 {
			return
		}
		for _, r := range w.replicas {
			for want := w.written - r.before; r.applied.Load() < want; {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
}

func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

func key(exporter, template int) *decode.TemplateKey {
	return &decode.TemplateKey{Exporter: decode.Map16(address(exporter)), Domain: 1, ID: uint16(256 + template), Version: 9}
}

// layout is a template like those that routers send: 18 fields, four kinds.
func layout(template int) *decode.Template {
	t := &decode.Template{ID: uint16(256 + template)}
	for _, id := range []uint16{8, 12, 15, 10, 14, 2, 1, 22, 21, 7, 11, 6, 4, 5, 16, 17, 9, 13} {
		t.Fields = append(t.Fields, decode.Field{ID: id, Length: 4})
	}
	t.Fields[0].Length += uint16(template)
	return t
}

func (w *world) learn(r *replica, exporter int) error {
	for i := range perExporter {
		m := &decode.Meta{Exporter: address(exporter), Port: 2055, Received: w.ns.Load()}
		if _, err := r.Learn(key(exporter, i), m, &decode.Header{Version: 9, Uptime: uint32(w.ns.Load() / 1e6), Sequence: 1}, layout(i)); err != nil {
			return err
		}
	}
	return nil
}

// minute lets every exporter send its templates and one data set of each, every
// datagram to any replica. It returns how many sets lacked their template.
func (w *world) minute(exporters int) (lacking int, err error) {
	w.ns.Add(int64(refresh))
	for e := range exporters {
		if err := w.learn(w.replicas[rand.IntN(len(w.replicas))], e); err != nil {
			return lacking, err
		}
	}
	w.share()
	for e := range exporters {
		for i := range perExporter {
			r := w.replicas[rand.IntN(len(w.replicas))]
			m := &decode.Meta{Exporter: address(e), Port: 2055, Received: w.ns.Load()}
			if r.Plan(key(e, i), m, &decode.Header{Version: 9, Uptime: uint32(w.ns.Load() / 1e6), Sequence: 2}) == nil {
				lacking++
			}
		}
	}
	w.share()
	return lacking, nil
}

func simulate(ctx context.Context, replicas, exporters int) (row string, err error) {
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		return "", err
	}
	defer b.Close()
	w := &world{c: kafka.Config{Brokers: []string{b.Addr()}, ClientID: "sim", Log: slog.New(slog.DiscardHandler)}}
	w.ns.Store(time.Now().Add(-48 * time.Hour).UnixNano())
	tc := kafka.TopicConfig{Prefix: prefix, Mode: "create", Partitions: 1, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	if err := kafka.Ensure(ctx, w.c, tc, nil, kafka.Templates); err != nil {
		return "", err
	}
	for range replicas {
		r, err := w.start(ctx)
		if err != nil {
			return "", err
		}
		w.replicas = append(w.replicas, r)
	}
	defer func() {
		for _, r := range w.replicas {
			err = errors.Join(err, r.end())
		}
	}()
	all := exporters * perExporter

	var hours [2]int64
	for h := range hours {
		before := w.written
		for range 60 {
			if _, err := w.minute(exporters); err != nil {
				return "", err
			}
		}
		hours[h] = w.written - before
		log.Printf("hour %d: %d writes of %d templates", h+1, hours[h], all)
	}

	// A rolling restart: one replica after the other, traffic in between.
	lacking := 0
	var bootstrap time.Duration
	for i, r := range w.replicas {
		if err := r.end(); err != nil {
			return "", err
		}
		began := time.Now()
		if w.replicas[i], err = w.start(ctx); err != nil {
			return "", err
		}
		for w.replicas[i].Stats().Definitions < all {
			time.Sleep(100 * time.Microsecond)
		}
		bootstrap = max(bootstrap, time.Since(began))
		n, err := w.minute(exporters)
		if err != nil {
			return "", err
		}
		lacking += n
		if i >= 7 { // enough is seen
			break
		}
	}

	var everywhere []time.Duration
	for i := range 50 {
		began := time.Now()
		if err := w.learn(w.replicas[i%replicas], exporters+i); err != nil {
			return "", err
		}
		from := w.replicas[i%replicas]
		for _, rec := range from.Due() {
			w.written++
			from.log.Publish(rec.Key, rec.Value, func(err error) { from.Published(rec, err) })
		}
		for _, r := range w.replicas {
			for r.Known(key(exporters+i, perExporter-1), 1) == nil {
				<-r.changed
			}
		}
		everywhere = append(everywhere, time.Since(began))
	}
	slices.Sort(everywhere)

	octets := heap(w, exporters)
	return fmt.Sprintf("| %d | %d | %v / %v | %v | %d | %.2f | %.2f | %d |\n", replicas, exporters,
		everywhere[len(everywhere)/2].Round(100*time.Microsecond), everywhere[len(everywhere)-1].Round(100*time.Microsecond), bootstrap.Round(time.Millisecond), lacking,
		float64(hours[0])/float64(all), float64(hours[1])/float64(all), octets), nil
}

// heap is what a store of its own with all templates takes, octets a template.
func heap(w *world, exporters int) uint64 {
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	s := templates.New(templates.Options{Replica: "heap", Now: w.now, MaxUnconfirmed: 1_000_000})
	r := &replica{Store: s}
	for e := range exporters {
		if err := w.learn(r, e); err != nil {
			log.Print(err)
		}
	}
	for _, rec := range s.Due() {
		s.Published(rec, nil)
	}
	after := used()
	runtime.KeepAlive(s)
	return (after - before) / uint64(exporters*perExporter)
}
