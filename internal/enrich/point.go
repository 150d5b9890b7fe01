package enrich

import (
	"fmt"
	"math"
	"strings"

	"weir/internal/pair"
)

// A restorePoint is committed as metadata of an offset. It gives the range of the pairing topic from which the state
// at that offset is restored.
//
// Its text is "weir/FORMAT STREAMTIME FROM TIP", where FORMAT is also the format of the newest piece
// (pair.FirstFormat), for instance "weir/2 1700000000000000000 17 42". From format 3 on, fields KEY=VALUE may follow.
// A reader must ignore an unknown key, unless the key begins with a capital letter: then it must refuse the point.
//
// Example: "weir/2 1700000000000000000 17 42" means: read the offsets 17 to 42 of the partition's pairing topic, and
// continue at the stream time 2023-11-14 22:13:20 UTC. An older piece at 16 or before holds no newest value; a piece at
// 43 or later belongs to a transaction that did not commit this offset.
type restorePoint struct {
	format     int
	streamTime int64 // ns since the epoch
	from, tip  int64 // first and last offset on the pairing topic, inclusive; from = tip+1: empty state
}

// noState is the restore point of a partition that starts with empty state.
var noState = restorePoint{format: pair.FirstFormat, streamTime: math.MinInt64, from: 0, tip: -1}

// String returns the metadata of a commit. parsePoint accepts exactly this text: changes must keep it readable for
// older versions, or raise the format.
func (r restorePoint) String() string {
	return fmt.Sprintf("weir/%d %d %d %d", r.format, r.streamTime, r.from, r.tip)
}

// parsePoint parses the metadata of a commit. It refuses text that String would not have written, since another program
// may use the same consumer group. An empty text is no restore point: the caller handles a position without metadata
// (stateless).
func parsePoint(s string) (r restorePoint, err error) {
	fields := strings.Split(s, " ")
	more := fields[min(len(fields), 4):]
	head := strings.TrimSuffix(s, strings.Join(append([]string{""}, more...), " "))
	n, err := fmt.Sscanf(head, "weir/%d %d %d %d", &r.format, &r.streamTime, &r.from, &r.tip)
	if err != nil || n != 4 || r.format < pair.FirstFormat || r.format > pair.LastFormat || r.String() != head ||
		r.format == pair.FirstFormat && len(more) > 0 {
		return noState, fmt.Errorf("commit metadata %q is not of form weir/%d to weir/%d: "+
			"another program or a later version of Weir committed it; run that version, or choose another GROUP",
			s, pair.FirstFormat, pair.LastFormat)
	}
	for _, f := range more {
		key, _, ok := strings.Cut(f, "=")
		if !ok || key == "" {
			return noState, fmt.Errorf("commit metadata %q: %q is not KEY=VALUE", s, f)
		}
		if key[0] >= 'A' && key[0] <= 'Z' {
			return noState, fmt.Errorf("commit metadata %q: field %s is of a later version of Weir, "+
				"which must be used to read this state", s, key)
		}
	}
	return r, nil
}
