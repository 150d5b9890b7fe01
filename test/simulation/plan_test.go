//go:build synctests

package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A plan describes a run. A run must not change it.
type plan struct {
	Seed    uint64
	Profile profile
	Setup   setup
	Steps   []step
}

// A step is an action and the fake time that passes after it.
type step struct {
	Index  int    // in the plan as drawn; kept when the plan is shrunk
	Seed   uint64 // of the random numbers that the action draws
	Action action
	Wait   time.Duration
}

// An action changes the world. Its fields are its parameters. The existing members depend on earlier steps,
// so an action identifies a member by a number modulo the number of members.
type action interface {
	run(w *world, rng *rand.Rand)
	String() string
}

// A setup holds the settings of all members.
type setup struct {
	Partitions int32
	Members    int
	Replicas   int // of ingest
	MaxOpen    int
	StateLost  string        `json:",omitempty"` // empty: refuse
	LateGrace  time.Duration `json:",omitempty"` // 0: as pairing has it
	Sinks      bool          `json:",omitempty"` // a sink of each topic
	Names      bool          `json:",omitempty"` // members ask for names
}

// Random streams from which a plan is drawn.
const (
	streamPlan = 1 + iota
	streamStep
	streamRun
)

// drawPlan draws the plan of a seed. Each step depends on the seed and its index alone.
func drawPlan(seed uint64, p profile, steps int) plan {
	rng := rand.New(rand.NewPCG(seed, streamPlan))
	out := plan{Seed: seed, Profile: p, Setup: p.setup(rng)}
	for i := range steps {
		s := step{Index: i, Seed: seed<<20 | uint64(i)}
		rng := rand.New(rand.NewPCG(s.Seed, streamStep))
		s.Action = p.draw(rng)
		s.Wait = time.Duration(rng.IntN(2000)) * time.Millisecond
		out.Steps = append(out.Steps, s)
	}
	return out
}

// String returns the plan as text, a line for each step.
func (p plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan of seed %d, profile %s, %+v\n", p.Seed, p.Profile.name, p.Setup)
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "  %3d %v; wait %v\n", s.Index, s.Action, s.Wait)
	}
	return b.String()
}

// command returns the command that runs the plan again.
func (p plan) command() string {
	return fmt.Sprintf("go test -tags synctests ./test/simulation -run TestSimulation -profile %s -steps %d -seeds 1 -first %d -v",
		p.Profile.name, len(p.Steps), p.Seed)
}

// A class is the kind of promise that a run must hold.
type class int

const (
	// exact: nothing is lost, and every connection is that of the model.
	exact class = iota
	// conserved: nothing is lost, and the sums over all connections equal those over all flows. The
	// assignment of records to connections depends on evictions, changed settings or clocks.
	conserved
	// counted: input was destroyed. At most as much as is counted as lost may be missing.
	counted
	// remade: topics were deleted and recreated. Nothing may be counted twice.
	remade
	// truncated: the ends of logs were lost. Missing records must be counted.
	truncated
)

// A profile is a kind of search: the actions that are drawn, and their frequencies.
type profile struct {
	name   string
	class  class
	weight []weighted
	setup  func(*rand.Rand) setup
	share  int // its number of seeds in a rotation
}

type weighted struct {
	weight int
	draw   func(*rand.Rand) action
}

func (p profile) draw(rng *rand.Rand) action {
	total := 0
	for _, w := range p.weight {
		total += w.weight
	}
	n := rng.IntN(total)
	for _, w := range p.weight {
		if n -= w.weight; n < 0 {
			return w.draw(rng)
		}
	}
	panic("unreachable")
}

func usualSetup(rng *rand.Rand) setup {
	return setup{Partitions: 2 + rng.Int32N(3), Members: 1 + rng.IntN(3), MaxOpen: 1_000_000}
}

// profiles lists the profiles that can be selected by name.
var profiles = []profile{
	{name: "exact", class: exact, share: 4, setup: usualSetup, weight: []weighted{
		{40, drawTraffic}, {4, drawStart}, {4, drawStop}, {3, drawKill}, {3, drawZombie}, {4, drawCut}, {4, drawBlackhole}, {2, drawSlow}, {3, drawLostReplies},
		{14, drawFault}, {3, drawLeaders}, {3, drawCoordinators}, {3, drawSilence},
	}},
	tailProfile,
	{name: "quiet", class: exact, share: 3, setup: usualSetup, weight: []weighted{
		{10, drawTraffic}, {8, drawStart}, {5, drawStop}, {2, drawKill}, {4, drawSilence}, {1, drawCut}, {1, drawCoordinators},
	}},
	{name: "crowded", class: conserved, share: 2, setup: crowdedSetup, weight: []weighted{
		{30, drawPlainTraffic}, {3, drawStart}, {3, drawStop}, {3, drawKill}, {2, drawZombie}, {2, drawCut}, {2, drawLostReplies}, {4, drawFault}, {2, drawSilence},
	}},
	{name: "settings", class: conserved, share: 2, setup: usualSetup, weight: []weighted{
		{24, drawPlainTraffic}, {4, drawSettings}, {2, drawStart}, {2, drawKill}, {1, drawCut}, {3, drawSilence},
	}},
	{name: "clocks", class: conserved, share: 2, setup: usualSetup, weight: []weighted{
		{24, drawPlainTraffic}, {6, drawClock}, {2, drawStart}, {2, drawStop}, {1, drawKill}, {1, drawCut}, {3, drawSilence},
	}},
	{name: "retention", class: counted, share: 2, setup: usualSetup, weight: []weighted{
		{24, drawPlainTraffic}, {5, drawRetention}, {2, drawStart}, {2, drawStop}, {1, drawKill}, {2, drawCut}, {1, drawLeaders}, {3, drawSilence},
	}},
	receptionProfile,
	wholeProfile,
	namesProfile,
	busyProfile,
	topicsProfile,
	partitionsProfile,
	restoreProfile,
}

// rotation returns the profiles from which plans are drawn in turn, each as often as its share.
func rotation() (all []profile) {
	for _, p := range profiles {
		all = append(all, slices.Repeat([]profile{p}, p.share)...)
	}
	return all
}

func profileNamed(name string) (profile, bool) {
	for _, p := range profiles {
		if p.name == name {
			return p, true
		}
	}
	return profile{}, false
}
