package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mutantDir contains a patch for each mend, which undoes it. The text before the first "diff" line describes
// the fault; a line "profile: NAME" names the profile of the simulation that must find it.
const mutantDir = "test/simulation/testdata/mutants"

// A mutant is a patch that undoes a mend.
type mutant struct{ name, about, profile, path string }

type mutantOptions struct {
	seeds, processes int
	only, doc        string
}

// A hunt is the result of the search for a mutant.
type hunt struct {
	mutant
	seed  uint64 // the first with a finding; 0: none
	first finding
	took  time.Duration
}

// mutants applies each patch to a copy of the tree and runs seeds until one has a finding that the tree itself does not have.
func mutants(ctx context.Context, o mutantOptions) error {
	all, err := readMutants(mutantDir, o.only)
	if err != nil {
		return err
	}
	sound, err := build(ctx, ".", filepath.Join(cache, "simulation.test"))
	if err != nil {
		return err
	}
	var errs []error
	var hunts []hunt
	for _, m := range all {
		h, err := m.hunt(ctx, sound, o)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("mutant %s: %w", m.name, err))
			continue
		case h.seed == 0:
			errs = append(errs, fmt.Errorf("mutant %s: not found with %d seeds: does the search still draw what it needs? %s", m.name, o.seeds, m.about))
		default:
			fmt.Printf("mutant %s: seed %d in %v: %v\n", m.name, h.seed, h.took.Round(time.Second), h.first)
		}
		hunts = append(hunts, h)
	}
	if o.doc != "" && len(errs) == 0 {
		errs = append(errs, writeTable(o.doc, hunts))
	}
	return errors.Join(errs...)
}

// readMutants reads the patches of dir, or those that only names.
func readMutants(dir, only string) ([]mutant, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var names []string
	if only != "" {
		names = strings.Split(only, ",")
	}
	var all []mutant
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".patch")
		if names != nil && !slices.Contains(names, name) {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m := mutant{name: name, path: path}
		if m.about, m.profile, err = header(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, m)
	}
	if len(all) == 0 || names != nil && len(all) != len(names) {
		return nil, fmt.Errorf("%s has %d patches of those named %q", dir, len(all), only)
	}
	return all, nil
}

// header parses the text before a patch.
func header(text string) (about, profile string, err error) {
	head, _, is := strings.Cut(text, "diff --git ")
	if !is {
		return "", "", errors.New("no line begins with diff --git")
	}
	var lines []string
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		if p, is := strings.CutPrefix(line, "profile:"); is {
			profile = strings.TrimSpace(p)
		} else if line != "" {
			lines = append(lines, line)
		}
	}
	if about = strings.Join(lines, " "); about == "" {
		return "", "", errors.New("the first lines do not say what the patch breaks")
	}
	return about, profile, nil
}

// hunt builds the mutant and runs seeds 1, 2, 3 and so on.
func (m mutant) hunt(ctx context.Context, sound binary, o mutantOptions) (hunt, error) {
	began := time.Now()
	h := hunt{mutant: m}
	root := filepath.Join(cache, "mutant")
	if err := copyTree(ctx, root); err != nil {
		return h, err
	}
	defer func() { _ = os.RemoveAll(root) }()
	if err := m.apply(ctx, root); err != nil {
		return h, err
	}
	b, err := build(ctx, root, filepath.Join(cache, "mutant.test"))
	if err != nil {
		return h, err
	}
	h.seed, h.first, err = firstFinding(o.seeds, o.processes, func(seed uint64) (finding, error) {
		r := run{seed: seed, profile: m.profile}
		got, err := b.run(ctx, r)
		if err != nil || len(got.findings) == 0 {
			return finding{}, err
		}
		without, err := sound.run(ctx, r)
		if err != nil || len(without.findings) > 0 {
			return finding{}, err // the mutant was not tested
		}
		return got.findings[0], nil
	})
	h.took = time.Since(began)
	return h, err
}

// firstFinding tries seeds 1 to n, several at a time. It returns the smallest with a finding, or 0 if there
// is none.
func firstFinding(n, processes int, try func(uint64) (finding, error)) (uint64, finding, error) {
	var (
		next  atomic.Uint64
		group sync.WaitGroup
		mu    sync.Mutex // guards the fields below
		best  uint64
		found finding
		first error
	)
	for range max(processes, 1) {
		group.Go(func() {
			for {
				seed := next.Add(1)
				mu.Lock()
				over := seed > uint64(n) || best != 0 && seed > best || first != nil
				mu.Unlock()
				if over {
					return
				}
				f, err := try(seed)
				mu.Lock()
				if err != nil && first == nil {
					first = err
				}
				if f.invariant != "" && (best == 0 || seed < best) {
					best, found = seed, f
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return best, found, first
}

// apply applies the patch to the tree at root.
func (m mutant) apply(ctx context.Context, root string) error {
	path, err := filepath.Abs(m.path)
	if err != nil {
		return err
	}
	above, err := filepath.Abs(filepath.Dir(root))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "git", "apply", "--whitespace=nowarn", path)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GIT_CEILING_DIRECTORIES="+above) // root is no part of the repository
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the patch does not apply: the mended code has changed: make %s anew so that it undoes the mend: %w\n%s", m.path, err, text)
	}
	return nil
}

// copyTree copies the files of the working tree to root.
func copyTree(ctx context.Context, root string) error {
	list, err := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		from, to := string(name), filepath.Join(root, string(name))
		text, err := os.ReadFile(from)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, not committed yet
		} else if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o640); err != nil {
			return err
		}
	}
	return nil
}

const (
	tableBegin = "<!-- mutants: written by make simulation-mutants -->"
	tableEnd   = "<!-- mutants: end -->"
)

// writeTable writes the results into a document, between the two marks.
func writeTable(path string, hunts []hunt) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, is := strings.Cut(string(text), tableBegin)
	_, after, ends := strings.Cut(rest, tableEnd)
	if !is || !ends {
		return fmt.Errorf("%s: no lines %s and %s", path, tableBegin, tableEnd)
	}
	var table strings.Builder
	table.WriteString("\n\n| mutant | what it breaks | invariant that fails | first seed |\n|---|---|---|---|\n")
	for _, h := range hunts {
		fmt.Fprintf(&table, "| `%s` | %s | %s | %d |\n", h.name, h.about, h.first.invariant, h.seed)
	}
	return os.WriteFile(path, []byte(before+tableBegin+table.String()+"\n"+tableEnd+after), 0o640)
}
