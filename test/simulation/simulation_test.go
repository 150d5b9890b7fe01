//go:build synctests

package simulation

import (
	"flag"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
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

// gcPercent lets a run, which makes little garbage that stays, collect less often than usual.
const gcPercent = 400

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(m.Run())
}

// Every plan keeps the promises of its profile's class.
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

// search runs a plan, and fails with what was found, the plan, and how to run it again.
func search(t *testing.T, p plan) {
	tr := &trace{}
	if testing.Verbose() && *seeds == 1 {
		tr.also = os.Stdout
	}
	r := simulate(t, p, tr)
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
