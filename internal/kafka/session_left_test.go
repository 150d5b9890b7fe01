package kafka

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A sipper takes at most three records in a call, and on its first call for the last record none.
type sipper struct {
	*owner

	mu    sync.Mutex
	taken []string // in the open transaction
	all   []string // committed
	tries map[string]int
}

func (s *sipper) Records(tx *Tx, n int32, records []Record) int {
	s.owner.Records(tx, n, records)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range records {
		if i == 3 {
			return i
		}
		v := string(r.Value)
		if s.tries[v]++; v == "19" && s.tries[v] < 3 {
			return i
		}
		s.taken = append(s.taken, v)
	}
	return len(records)
}

func (s *sipper) Committed(partitions []int32) {
	s.owner.Committed(partitions)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.taken = append(s.all, s.taken...), nil
}

func (s *sipper) committedAll() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Records that a Handler leaves are read again in the next transaction, each once and in order. The committed
// position is that of the first record left.
func TestRecordsThatAreLeftComeInTheNextTransaction(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows)
	tc := topicConfig()
	var want []string
	for i := range 20 {
		want = append(want, strconv.Itoa(i))
	}
	put := putter(ctx, t, b.Addr(), tc.Name(Undecoded))
	put(want...)
	s := &sipper{owner: newOwner(tc.Name(Flows)), tries: map[string]int{}}
	runSession(t, ownerSession(b.Addr(), "a", time.Now), s)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(s.committedAll()) < len(want) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("taken: %v", s.committedAll())
		}
	}
	put("20")
	want = append(want, "20")
	for len(s.committedAll()) < len(want) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("taken: %v", s.committedAll())
		}
	}
	if got := s.committedAll(); !slices.Equal(got, want) {
		t.Errorf("taken: %v, want each once and in order", got)
	}
	offsets, err := admin(t, b.Addr()).FetchOffsets(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	if at := offsets[tc.Name(Undecoded)][0]; at.At < int64(len(want)) {
		t.Errorf("committed up to %d of %d records", at.At, len(want))
	}
}
