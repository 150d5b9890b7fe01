package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// A plan is what the test writes with -plan and runs with -case. Setup and steps are the test's own.
type plan struct {
	Name    string            `json:"name,omitempty"`
	About   string            `json:"about,omitempty"`
	Profile string            `json:"profile,omitempty"`
	Seed    uint64            `json:"seed"`
	Setup   json.RawMessage   `json:"setup,omitempty"`
	Steps   []json.RawMessage `json:"steps"`
}

func readPlan(path string) (p plan, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// write writes a plan, a step a line.
func (p plan) write(path string) error {
	steps := p.Steps
	p.Steps = []json.RawMessage{}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	text = bytes.TrimSuffix(text, []byte("]}")) // of the steps, which are the last field
	for i, s := range steps {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(text, '\n'), s...)
	}
	return os.WriteFile(path, append(text, "\n]}\n"...), 0o640)
}

// shrinkSeed removes steps from the plan of a seed for as long as the same invariant is broken, and writes the rest as a
// case with its whole log.
func shrinkSeed(ctx context.Context, profile string, seed uint64, tries int, name string) error {
	b, err := build(ctx, ".", filepath.Join(cache, "simulation.test"))
	if err != nil {
		return err
	}
	planned := filepath.Join(cache, fmt.Sprintf("plan-%d.json", seed))
	o, err := b.run(ctx, run{seed: seed, profile: profile, plan: planned})
	if err != nil {
		return err
	}
	if len(o.findings) == 0 {
		return fmt.Errorf("seed %d: no finding: nothing to shrink", seed)
	}
	p, err := readPlan(planned)
	if err != nil {
		return err
	}
	want := o.findings[0]
	fmt.Printf("seed %d: %d steps: %v\n", seed, len(p.Steps), want)
	p.Name, p.About = name, want.String()
	if p.Name == "" {
		p.Name = fmt.Sprintf("%s-%d", want.invariant, seed)
	}
	path := filepath.Join(cache, p.Name+".json")
	fails := func(steps []json.RawMessage) (bool, error) {
		tried := p
		tried.Steps = steps
		if err := tried.write(path + ".try"); err != nil {
			return false, err
		}
		o, err := b.run(ctx, run{seed: seed, profile: profile, steps: path + ".try"})
		if err != nil || !o.has(want.invariant) {
			return false, err
		}
		fmt.Printf("%d steps\n", len(steps))
		return true, nil
	}
	if p.Steps, err = shrink(p.Steps, fails, tries); err != nil {
		return err
	}
	_ = os.Remove(path + ".try")
	if err := p.write(path); err != nil {
		return err
	}
	log := filepath.Join(cache, p.Name+".log")
	if o, err = b.run(ctx, run{seed: seed, profile: profile, steps: path, log: log}); err != nil {
		return err
	}
	for _, f := range o.findings {
		fmt.Println(f)
	}
	fmt.Printf("%d steps are left: %s, log %s\nOnce it is mended: mv %s test/simulation/testdata/cases/\n", len(p.Steps), path, log, path)
	return nil
}

// shrink returns a part of steps that still fails and of which no single step can be removed, or what is left after tries
// calls of fails. It removes ranges of steps, halves first, single steps until none can go: the complements of delta debugging
// (Zeller, Hildebrandt: Simplifying and Isolating Failure-Inducing Input, 2002).
func shrink[T any](steps []T, fails func([]T) (bool, error), tries int) ([]T, error) {
	for size := (len(steps) + 1) / 2; size > 0; {
		removed := false
		for from := 0; from < len(steps); {
			if tries == 0 {
				return steps, nil
			}
			tries--
			rest := slices.Concat(steps[:from], steps[min(from+size, len(steps)):])
			still, err := fails(rest)
			switch {
			case err != nil:
				return steps, err
			case still:
				steps, removed = rest, true
			default:
				from += size
			}
		}
		if size == 1 && !removed {
			break
		}
		size = max(size/2, 1)
	}
	return steps, nil
}
