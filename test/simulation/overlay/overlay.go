// Package overlay makes a run of a Go program repeatable, bit for bit: it writes changed copies of eleven files of the
// runtime for go build -overlay. The program that is built with them, run with the variables of Environment, does the
// same in every run with one seed: scheduling, select, the order of maps, timers and random numbers are functions of the
// seed. Nothing of it is part of a product's binary.
package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// An edit replaces a text of a file of GOROOT/src.
type edit struct {
	file  string // below GOROOT/src
	about string
	old   string
	new   string
	times int // how often old must occur; 0: once
}

// ErrDoesNotFit is in the chain of an error of Write when this Go version's runtime differs from the one that the edits
// were written for.
var ErrDoesNotFit = errors.New("the edits do not fit this Go version")

// Environment returns the variables that a program built with the overlay must run with, and no others: the length of
// the environment moves the heap. WEIR_SIM_SEED starts the runtime's random numbers whenever a testing/synctest bubble
// begins.
func Environment(seed uint64) []string {
	return []string{
		"WEIR_SIM_SEED=" + strconv.FormatUint(seed, 10),
		"GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1,profstackdepth=0", "TZ=UTC",
	}
}

// Write writes the changed copies of files of goroot, and overlay.json, into dir, and returns the path of overlay.json
// for go build -overlay. Every edit must find its text as often as it expects it: the error names each one that does not,
// and wraps ErrDoesNotFit.
func Write(goroot, version, dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	changed, err := apply(version, func(file string) (string, error) {
		b, err := os.ReadFile(filepath.Join(goroot, "src", file))
		return string(b), err
	})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range changed {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o640); err != nil {
			return "", err
		}
		replace[filepath.Join(goroot, "src", file)] = to
	}
	list, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "\t")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o640)
}

// apply returns the changed texts by file.
func apply(version string, read func(file string) (string, error)) (map[string]string, error) {
	changed := map[string]string{}
	var errs []error
	for _, e := range edits {
		text, is := changed[e.file]
		if !is {
			var err error
			if text, err = read(e.file); err != nil {
				errs = append(errs, misfit(version, e, err.Error()))
				continue
			}
		}
		want := max(e.times, 1)
		if n := strings.Count(text, e.old); n != want {
			errs = append(errs, misfit(version, e, fmt.Sprintf("%q is there %d times, want %d", e.old, n, want)))
			continue
		}
		changed[e.file] = strings.ReplaceAll(text, e.old, e.new)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return changed, nil
}

// misfit returns the error of one edit.
func misfit(version string, e edit, why string) error {
	return fmt.Errorf("%w: %s, src/%s (%s): %s: change this edit in test/simulation/overlay/edits.go to the new text and keep its effect, or remove it when the runtime no longer needs it; make simulation-replay shows whether runs are equal",
		ErrDoesNotFit, version, e.file, e.about, why)
}
