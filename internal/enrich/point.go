package enrich

import (
	"fmt"
	"math"
)

// A restorePoint is committed beside an offset: which part of the pairing log
// makes the state that belongs to it.
type restorePoint struct {
	streamTime int64 // ns since the epoch
	from, tip  int64 // offsets of the pairing topic, both included; from = tip+1: nothing is held
}

var noState = restorePoint{streamTime: math.MinInt64, from: 0, tip: -1}

// pointFormat is the version of the metadata's form and of the state that it is of.
const pointFormat = 2

// String is the metadata of a commit.
func (r restorePoint) String() string {
	return fmt.Sprintf("weir/%d %d %d %d", pointFormat, r.streamTime, r.from, r.tip)
}

// parsePoint reads a commit's metadata.
func parsePoint(s string) (r restorePoint, err error) {
	var version int
	n, err := fmt.Sscanf(s, "weir/%d %d %d %d", &version, &r.streamTime, &r.from, &r.tip)
	if err != nil || n != 4 || version != pointFormat || r.String() != s {
		return noState, fmt.Errorf("commit metadata %q is not of form weir/%d: another program or version committed it; choose another GROUP or reset the group's offsets", s, pointFormat)
	}
	return r, nil
}
