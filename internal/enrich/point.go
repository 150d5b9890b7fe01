package enrich

import (
	"fmt"
	"math"
	"strings"

	"weir/internal/pair"
)

// A restorePoint is committed beside an offset: which part of the pairing log
// makes the state that belongs to it.
//
// Its form is "weir/FORMAT STREAMTIME FROM TIP", where FORMAT is also the format of
// the newest piece (pair.FirstFormat). From format 3 on, fields KEY=VALUE may follow.
// A reader ignores a key that it does not know, unless the key begins with a capital:
// then it must refuse the point.
type restorePoint struct {
	format     int
	streamTime int64 // ns since the epoch
	from, tip  int64 // offsets of the pairing topic, both included; from = tip+1: nothing is held
}

var noState = restorePoint{format: pair.FirstFormat, streamTime: math.MinInt64, from: 0, tip: -1}

// String is the metadata of a commit.
func (r restorePoint) String() string {
	return fmt.Sprintf("weir/%d %d %d %d", r.format, r.streamTime, r.from, r.tip)
}

// parsePoint reads a commit's metadata.
func parsePoint(s string) (r restorePoint, err error) {
	fields := strings.Split(s, " ")
	more := fields[min(len(fields), 4):]
	head := strings.TrimSuffix(s, strings.Join(append([]string{""}, more...), " "))
	n, err := fmt.Sscanf(head, "weir/%d %d %d %d", &r.format, &r.streamTime, &r.from, &r.tip)
	if err != nil || n != 4 || r.format < pair.FirstFormat || r.format > pair.LastFormat || r.String() != head ||
		r.format == pair.FirstFormat && len(more) > 0 {
		return noState, fmt.Errorf("commit metadata %q is not of form weir/%d to weir/%d: another program or a later version of Weir committed it; "+
			"run that version, or choose another GROUP", s, pair.FirstFormat, pair.LastFormat)
	}
	for _, f := range more {
		key, _, ok := strings.Cut(f, "=")
		if !ok || key == "" {
			return noState, fmt.Errorf("commit metadata %q: %q is no KEY=VALUE", s, f)
		}
		if key[0] >= 'A' && key[0] <= 'Z' {
			return noState, fmt.Errorf("commit metadata %q: field %s is of a later version of Weir, which must be used to read this state", s, key)
		}
	}
	return r, nil
}
