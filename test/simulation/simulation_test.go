//go:build synctests

package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds   = flag.Int("seeds", 20, "how many seeds to run")
	first   = flag.Uint64("first", 1, "the first seed")
	steps   = flag.Int("steps", 40, "steps of a plan")
	chosen  = flag.String("profile", "", "profile to draw plans from; empty: all, in turn")
	tracing = flag.String("trace", "", "file that the trace of the last seed is written to")
)

// gcPercent reduces the number of garbage collections: a run keeps little memory in use.
const gcPercent = 400

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(m.Run())
}

// Every plan must hold the promises of its profile's class.
func TestSimulation(t *testing.T) {
	all := rotation()
	if *chosen != "" {
		p, ok := profileNamed(*chosen)
		if !ok {
			t.Fatalf("-profile %s: want one of %s", *chosen, profileNames())
		}
		all = []profile{p}
	}
	began := time.Now()
	t.Run("seed", func(t *testing.T) {
		for n := range uint64(*seeds) {
			seed := *first + n
			p := drawPlan(seed, all[seed%uint64(len(all))], *steps)
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				search(t, p)
			})
		}
	})
	t.Logf("%d seeds in %v", *seeds, time.Since(began).Round(time.Millisecond))
}

func profileNames() string {
	var out []string
	for _, p := range profiles {
		out = append(out, p.name)
	}
	return strings.Join(out, ", ")
}

// Bounds for a run that does not end. All runs of the process share the memory.
const (
	guardEvery = time.Second
	stalledFor = 2 * time.Minute // without fake time passing
	heapBound  = 4 << 30
)

// guard ends the process, and prints the plan, if the run of a plan makes no progress or the heap exceeds its
// bound. now is the fake time of the run's last request. The caller must call stop after the run.
func guard(p plan, now *atomic.Int64) (stop func()) {
	over := make(chan struct{})
	go func() {
		look := time.NewTicker(guardEvery)
		defer look.Stop()
		last, since := now.Load(), time.Now()
		for {
			select {
			case <-over:
				return
			case <-look.C:
			}
			if n := now.Load(); n != last {
				last, since = n, time.Now()
			}
			if why := runaway(time.Since(since), heapObjects()); why != "" {
				debug.SetTraceback("all")
				panic(fmt.Sprintf("%s at %v of seed %d: does something ask again and again at one instant?\n%v%s", why, time.Unix(0, last).UTC(), p.Seed, p, p.command()))
			}
		}
	}()
	return func() { close(over) }
}

// runaway returns a description of the exceeded bound, or "".
func runaway(stalled time.Duration, heap uint64) string {
	switch {
	case stalled > stalledFor:
		return fmt.Sprintf("no fake time passed in %v", stalled.Round(time.Second))
	case heap > heapBound:
		return fmt.Sprintf("the heap has %d MiB, of %d that it may have", heap>>20, heapBound>>20)
	}
	return ""
}

// heapObjects returns the octets of objects on the heap.
func heapObjects() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// search runs a plan. If there are findings, it fails with them, the plan, and the command that runs it
// again.
func search(t *testing.T, p plan) {
	tr := &trace{}
	if testing.Verbose() && *seeds == 1 {
		tr.also = os.Stdout
	}
	stop := guard(p, &tr.now)
	r := simulate(t, p, tr)
	stop()
	if *tracing != "" {
		if err := os.WriteFile(*tracing, []byte(tr.text()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range r.Findings {
		t.Errorf("%s: %s", f.Kind, f.Text)
	}
	if t.Failed() {
		t.Logf("%v%s", p, p.command())
	}
	t.Logf("%d flows, %d counted as lost, %d connections, %d merged, %d reports, %d members, %v of fake time, trace %x", r.Flows, r.Lost, r.Connections, r.Merged, r.Reports, r.Members, r.Took, tr.sum())
}
