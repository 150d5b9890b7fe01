package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"weir/test/accuracy/score"
)

// A floor is the least percentage that a figure of a setting may have.
type floor struct {
	setting, figure string
	percent         float64
}

// figures are the figures with floors: the number of right conversations and of all.
var figures = map[string]func(t *score.Tallies) (part, whole int){
	"tcp-right":     func(t *score.Tallies) (int, int) { return t.TCP.Right, t.TCP.Conversations },
	"udp-right":     func(t *score.Tallies) (int, int) { return t.UDP.Right, t.UDP.Conversations },
	"conn-state":    func(t *score.Tallies) (int, int) { return t.TCP.StateHit, t.TCP.StateKnown },
	"tcp-initiator": func(t *score.Tallies) (int, int) { return t.TCP.InitiatorHit, t.TCP.InitiatorKnown },
	"udp-initiator": func(t *score.Tallies) (int, int) { return t.UDP.InitiatorHit, t.UDP.InitiatorKnown },
}

// leastConversations is the least number of conversations of a meaningful figure.
const leastConversations = 50

func readFloors(path string) ([]floor, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	floors, err := parseFloors(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return floors, nil
}

// parseFloors reads lines of setting, figure and percentage, tabs between them.
func parseFloors(text string) (floors []floor, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		columns := strings.Split(line, "\t")
		if len(columns) != 3 || figures[columns[1]] == nil {
			return nil, fmt.Errorf("line %d: want setting, figure and percentage: %q", n, line)
		}
		percent, err := strconv.ParseFloat(columns[2], 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		floors = append(floors, floor{columns[0], columns[1], percent})
	}
	if len(floors) == 0 {
		return nil, errors.New("no floors")
	}
	return floors, nil
}

// floorSettings returns the names of the settings that have floors.
func floorSettings(floors []floor) (names []string) {
	for _, f := range floors {
		if !slices.Contains(names, f.setting) {
			names = append(names, f.setting)
		}
	}
	return names
}

// measured returns the figure of a floor over all results of its setting, as a
// percentage rounded down to a tenth.
func (f floor) measured(results []result) (percent float64, conversations int) {
	var sum score.Tallies
	for _, r := range results {
		if r.setting.name == f.setting {
			sum.Sum(r.tallies)
		}
	}
	part, whole := figures[f.figure](&sum)
	if whole == 0 {
		return 0, 0
	}
	return math.Floor(1000*float64(part)/float64(whole)) / 10, whole
}

// checkFloors returns an error that names every figure below its floor.
func checkFloors(floors []floor, results []result) error {
	var errs []error
	for _, f := range floors {
		percent, n := f.measured(results)
		switch {
		case n < leastConversations:
			errs = append(errs, fmt.Errorf("%s %s: of %d conversations, want at least %d",
				f.setting, f.figure, n, leastConversations))
		case percent < f.percent:
			errs = append(errs, fmt.Errorf("%s %s: %.1f %%, the floor is %.1f %%; -v -only %s names the errors",
				f.setting, f.figure, percent, f.percent, f.setting))
		}
	}
	return errors.Join(errs...)
}

// floorsAbout heads the file of floors.
const floorsAbout = `# The least percentages of the connections of testdata/traffic that may be right (make accuracy-quick).
# -write-floors writes the figures of the moment. A floor is lowered only with a reason in the commit.
# setting	figure	percent
`

// writeFloors makes the measured figures the floors.
func writeFloors(path string, floors []floor, results []result) error {
	var b bytes.Buffer
	b.WriteString(floorsAbout)
	for _, f := range floors {
		percent, _ := f.measured(results)
		fmt.Fprintf(&b, "%s\t%s\t%.1f\n", f.setting, f.figure, percent)
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
