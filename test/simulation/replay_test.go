//go:build synctests

package simulation

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
)

var (
	planTo   = flag.String("plan", "", "with TestReplay: file that the plan is written to")
	caseFrom = flag.String("case", "", "with TestReplay: file with the plan to run")
)

// TestReplay runs a single plan in a process of its own, for test/simulation/replay: the plan of the seed
// -first, or that of a file. It prints the hash of the trace and each finding.
func TestReplay(t *testing.T) {
	if os.Getenv("WEIR_SIM_SEED") == "" {
		t.Skip("SKIPPED: of make simulation-replay and simulation-shrink")
	}
	p := planOf(t)
	if *planTo != "" {
		if err := writeCase(*planTo, p); err != nil {
			t.Fatal(err)
		}
	}
	cryptotest.SetGlobalRandom(t, p.Seed)
	tr := &trace{}
	r := simulate(t, p, tr)
	text := tr.text()
	if *tracing != "" {
		if err := os.WriteFile(*tracing, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("TRACE seed %d: %d bytes, %d lines, %x\n", p.Seed, len(text), strings.Count(text, "\n"), tr.sum())
	for _, f := range r.Findings {
		t.Fail()
		fmt.Printf("FINDING %s: %s\n", f.Kind, strings.ReplaceAll(f.Text, "\n", " "))
	}
}

// planOf returns the plan that the flags select.
func planOf(t *testing.T) plan {
	if *caseFrom != "" {
		c, err := readCase(*caseFrom)
		if err != nil {
			t.Fatal(err)
		}
		return c.plan
	}
	all := rotation()
	p := all[*first%uint64(len(all))]
	if *chosen != "" {
		var is bool
		if p, is = profileNamed(*chosen); !is {
			t.Fatalf("-profile %s: want one of %s", *chosen, profileNames())
		}
	}
	return drawPlan(*first, p, *steps)
}

// Cases are plans that had a finding, reduced to the steps that it needs.
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/cases/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		c, err := readCase(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			search(t, c.plan)
			if t.Failed() {
				t.Logf("%s: had: %s", path, c.about)
			}
		})
	}
}

// A namedCase is a plan read from a file.
type namedCase struct {
	name, about string
	plan
}

// caseFile is the JSON form of a case. The seed is that from which the plan was drawn; the steps are complete
// without it.
type caseFile struct {
	Name    string     `json:"name,omitempty"`
	About   string     `json:"about,omitempty"`
	Profile string     `json:"profile"`
	Seed    uint64     `json:"seed"`
	Setup   setup      `json:"setup"`
	Steps   []caseStep `json:"steps"`
}

// A caseStep is a step with the name of its action's type.
type caseStep struct {
	Index  int             `json:"index"`
	Seed   uint64          `json:"seed"`
	Wait   string          `json:"wait"`
	Action string          `json:"action"`
	With   json.RawMessage `json:"with"`
}

// actionTypes maps names to the types of actions that a case may contain.
var actionTypes = typesOf(
	startMember{}, stopMember{}, killMember{}, zombie{}, cutNetwork{}, blackhole{}, slowNetwork{}, lostReplies{}, brokerFault{},
	moveLeaders{}, moveCoordinators{}, silence{}, traffic{}, changeSettings{}, setClock{}, deleteFlows{},
	export{}, restartExporter{}, startReplica{}, stopReplica{}, killReplica{}, zombieReplica{}, replicaNetwork{}, busy{},
	remakeTopic{}, addPartitions{}, heldRestore{}, restartSink{}, zombieSink{}, sinkNetwork{}, nameFault{}, lostTail{},
)

func typesOf(all ...action) map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, a := range all {
		types[reflect.TypeOf(a).Name()] = reflect.TypeOf(a)
	}
	return types
}

// writeCase writes a plan in the form that test/simulation/replay reads.
func writeCase(path string, p plan) error {
	f := caseFile{Profile: p.Profile.name, Seed: p.Seed, Setup: p.Setup, Steps: []caseStep{}}
	for _, s := range p.Steps {
		name := reflect.TypeOf(s.Action).Name()
		if actionTypes[name] == nil {
			return fmt.Errorf("step %d: actionTypes lacks %T", s.Index, s.Action)
		}
		with, err := json.Marshal(s.Action)
		if err != nil {
			return fmt.Errorf("step %d: %w", s.Index, err)
		}
		f.Steps = append(f.Steps, caseStep{s.Index, s.Seed, s.Wait.String(), name, with})
	}
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// readCase reads a plan. A field that its action no longer has is an error: the case would no longer do the
// same.
func readCase(path string) (c namedCase, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	var f caseFile
	if err := strict(text, &f); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	p, is := profileNamed(f.Profile)
	if !is {
		return c, fmt.Errorf("%s: no profile %q: want one of %s", path, f.Profile, profileNames())
	}
	c = namedCase{name: f.Name, about: f.About, plan: plan{Seed: f.Seed, Profile: p, Setup: f.Setup}}
	for _, s := range f.Steps {
		of := actionTypes[s.Action]
		if of == nil {
			return c, fmt.Errorf("%s: step %d: no action %q", path, s.Index, s.Action)
		}
		v := reflect.New(of)
		if err := strict(s.With, v.Interface()); err != nil {
			return c, fmt.Errorf("%s: step %d: %s: %w", path, s.Index, s.Action, err)
		}
		wait, err := time.ParseDuration(s.Wait)
		if err != nil {
			return c, fmt.Errorf("%s: step %d: %w", path, s.Index, err)
		}
		c.Steps = append(c.Steps, step{s.Index, s.Seed, v.Elem().Interface().(action), wait})
	}
	return c, nil
}

func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// A plan that is written and read must equal the drawn plan: otherwise shrinking would search a different
// plan.
func TestAPlanOfEveryProfileIsReadAsItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "case.json")
	for _, p := range profiles {
		want := drawPlan(7, p, 2000)
		if err := writeCase(path, want); err != nil {
			t.Fatal(err)
		}
		got, err := readCase(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Setup, want.Setup) || got.Seed != want.Seed || got.Profile.name != want.Profile.name || len(got.Steps) != len(want.Steps) {
			t.Fatalf("%s: %+v, seed %d, %d steps", p.name, got.Setup, got.Seed, len(got.Steps))
		}
		for i := range want.Steps {
			if !reflect.DeepEqual(got.Steps[i], want.Steps[i]) {
				t.Errorf("%s: step %+v: want %+v", p.name, got.Steps[i], want.Steps[i])
			}
		}
	}
}
