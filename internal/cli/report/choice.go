package report

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weir/internal/cli/console"
	"weir/pkg/flowpb"
)

// A FormFlag holds the flags that select a Form.
type FormFlag struct{ json, csv, wide bool }

// FormFlags adds the flags --json, --csv and -v.
func FormFlags(f *console.Flags) *FormFlag {
	o := &FormFlag{}
	f.BoolVar(&o.json, "json", false, "print JSON Lines; keys are the names of Connection's fields")
	f.BoolVar(&o.csv, "csv", false, "print CSV with a line of column names")
	f.BoolVar(&o.wide, "v", false, "print both directions, the state, and the method that found the initiator")
	return o
}

// Form returns the selected form, or an error when several forms are selected.
func (o *FormFlag) Form() (Form, error) {
	switch {
	case o.json && o.csv || o.json && o.wide || o.csv && o.wide:
		return 0, errors.New("--json, --csv and -v: want only one of these")
	case o.json:
		return JSONLines, nil
	case o.csv:
		return CSV, nil
	case o.wide:
		return Wide, nil
	}
	return Brief, nil
}

// A Choice sets the order of printed connections and their number.
type Choice struct {
	by    string
	Limit int // 0: all
	top   int // --top; 0: not given
}

// The keys of --sort.
const (
	byStart    = "start"
	byOctets   = "octets"
	byPackets  = "packets"
	byDuration = "duration"
)

// ChoiceFlags adds the flags --sort, --limit and --top.
func ChoiceFlags(f *console.Flags) *Choice {
	o := &Choice{by: byStart}
	const sortUsage = "print in the order of `KEY`: start (default), octets, packets, duration; the largest first, " +
		"by estimates where an exporter samples"
	f.Func("sort", sortUsage, func(s string) error {
		switch s {
		case byStart, byOctets, byPackets, byDuration:
			o.by = s
			return nil
		}
		return fmt.Errorf("%q: want start, octets, packets or duration", s)
	})
	count := func(to *int) func(string) error {
		return func(s string) (err error) {
			if *to, err = strconv.Atoi(s); err != nil || *to < 1 {
				return fmt.Errorf("%q: want a number, 1 or more", s)
			}
			return nil
		}
	}
	f.Func("limit", "print the first `N` only", count(&o.Limit))
	f.Func("top", "print the `N` with the most octets (--sort octets --limit N)", count(&o.top))
	return o
}

// Check resolves --top and returns an error when the flags contradict each other. It must be called after f was
// parsed and before Select. whole is false when connections are printed as they arrive, which excludes sorting.
func (o *Choice) Check(f *console.Flags, whole bool) error {
	if o.top > 0 {
		if f.IsSet("sort") || f.IsSet("limit") {
			return errors.New("--top N is --sort octets --limit N: want only one of these")
		}
		o.by, o.Limit = byOctets, o.top
	}
	if !whole && (o.top > 0 || f.IsSet("sort")) {
		return errors.New("--sort and --top need input that ends: files, or --once")
	}
	return nil
}

// Select returns the connections of list that are printed, in order of the sort key, then of start time. It does
// not modify list.
func (o *Choice) Select(list []*flowpb.Connection) []*flowpb.Connection {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *flowpb.Connection) int {
		var n int
		switch o.by {
		case byOctets:
			n = cmp.Compare(octets(b).n, octets(a).n)
		case byPackets:
			n = cmp.Compare(packets(b).n, packets(a).n)
		case byDuration:
			n = cmp.Compare(duration(b), duration(a))
		}
		return cmp.Or(n, cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()))
	})
	if o.Limit > 0 && len(list) > o.Limit {
		list = list[:o.Limit]
	}
	return list
}

// Totals returns a line with the octets, packets and time span of the printed connections. of is the number of
// connections before Select.
func Totals(list []*flowpb.Connection, of int) string {
	var size, count quantity
	var first, last int64
	for _, c := range list {
		size = size.plus(octets(c))
		count = count.plus(packets(c))
		if s := c.GetStartUnixNs(); s != 0 && (first == 0 || s < first) {
			first = s
		}
		last = max(last, c.GetEndUnixNs())
	}
	parts := []string{fmt.Sprintf("total: %s in %s packets", size.formatOctets(), count.format())}
	if first != 0 && last >= first {
		parts = append(parts, fmt.Sprintf("%s to %s (UTC)", timeCell(first), timeCell(last)))
	}
	if of > len(list) {
		parts = append(parts, fmt.Sprintf("%d of %d connections", len(list), of))
	}
	return strings.Join(parts, ", ")
}
