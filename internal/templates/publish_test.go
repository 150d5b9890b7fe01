package templates

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

func TestWhatIsDueIsNewChangedOrToBeRefreshed(t *testing.T) {
	s, _ := newStore("r1")
	due := func(why string, want int) {
		t.Helper()
		if got := len(publish(t, s)); got != want {
			t.Errorf("%s: want %d records due, got %d", why, want, got)
		}
	}
	learn(t, s, t0, 1, 4)
	due("new", 1)
	due("published", 0)
	learn(t, s, t0+minute, 1, 4)
	due("received again after a minute", 0)
	learn(t, s, t0+minute+1, 2, 4)
	due("the same layout from another port", 0)
	learn(t, s, t0+2*minute, 1, 8)
	due("another layout", 1)
	learn(t, s, t0+3*minute, 1, 4)
	due("back to the first layout", 1)
	learn(t, s, t0+3*minute+8*minute-1, 1, 4)
	due("received again before 10 min less 20 %", 0)
	learn(t, s, t0+3*minute+12*minute, 1, 4)
	due("received again after 10 min and 20 %", 1)
	learn(t, s, t0+16*minute, 1, 4)
	due("received again a minute later", 0)
}

func TestARefreshByOneReplicaSavesTheOthersTheirs(t *testing.T) {
	a, _ := newStore("a")
	b, bc := newStore("b")
	learn(t, a, t0, 1, 4)
	merge(t, b, publish(t, a)...)
	later := t0 + 13*minute
	bc.ns = later + minute
	learn(t, b, later, 1, 4) // is due in b
	learn(t, a, later, 1, 4)
	merge(t, b, publish(t, a)...) // but a was first
	if got := len(b.Due()); got != 0 {
		t.Errorf("due: want 0, got %d", got)
	}
}

func TestTheRefreshesOfReplicasAreSpread(t *testing.T) {
	least, most := int64(1<<62), int64(0)
	for i := range 200 {
		var p published
		p.key = []byte("some key")
		p.seen(t0, fmt.Sprintf("replica-%d", i))
		least, most = min(least, p.refreshAt-t0), max(most, p.refreshAt-t0)
	}
	if least < 8*minute || most > 12*minute {
		t.Errorf("refreshes after %v to %v: want within 8m to 12m", time.Duration(least), time.Duration(most))
	}
	if least > 8*minute+minute/2 || most < 12*minute-minute/2 {
		t.Errorf("200 refreshes lie within %v to %v: want them spread over 8m to 12m", time.Duration(least), time.Duration(most))
	}
}

func TestWhatCouldNotBePublishedIsDueAgain(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	first := s.Due()
	if len(first) != 1 {
		t.Fatalf("due: want 1, got %d", len(first))
	}
	if got := s.Stats().Pending; got != 1 {
		t.Errorf("pending while under way: want 1, got %d", got)
	}
	if got := s.Due(); len(got) != 0 {
		t.Errorf("due while under way: want 0, got %d", len(got))
	}
	s.Published(first[0], errors.New("kafka is away"))
	again := s.Due()
	if d := cmp.Diff(first, again); d != "" {
		t.Errorf("due after a failure (-first +again):\n%s", d)
	}
	s.Published(again[0], nil)
	if got := len(s.Due()) + s.Stats().Pending; got != 0 {
		t.Errorf("due or pending after success: want 0, got %d", got)
	}
}

func TestAChangeWhilePublishingIsPublishedAfterwards(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	first := s.Due()
	learn(t, s, t0+1000, 1, 8)
	second := s.Due()
	learn(t, s, t0+2000, 1, 4) // the first is still under way, and out of date
	if got := s.Due(); len(got) != 0 {
		t.Fatalf("due while under way: want 0, got %d", len(got))
	}
	s.Published(second[0], nil)
	s.Published(first[0], nil)
	if got := s.Due(); len(got) != 1 || string(got[0].Key) != string(first[0].Key) {
		t.Errorf("due afterwards: want the first layout once more, got %d records", len(got))
	}
}

func TestADelayedOlderRecordIsRepaired(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	learn(t, a, t0, 1, 4)
	stale := publish(t, a)
	learn(t, a, t0+1000, 1, 8)
	other := publish(t, a)
	learn(t, a, t0+2000, 1, 4)
	fresh := publish(t, a)
	merge(t, b, append(append(append([]Record(nil), stale...), other...), fresh...)...)
	wantLayout(t, b, 1, 4)
	merge(t, a, stale...) // written late: compaction keeps it as the last of its key
	repair := a.Due()
	if len(repair) != 1 {
		t.Fatalf("due after a stale record: want 1, got %d", len(repair))
	}
	bootstrap, _ := newStore("c")
	merge(t, bootstrap, other...)
	merge(t, bootstrap, repair...)
	wantLayout(t, bootstrap, 1, 4)
}

func TestALostTopicGetsAgainWhatThisReplicaReceived(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	learn(t, a, t0, 1, 4)
	a.LearnFact(key300, &decode.Meta{Received: t0}, &decode.Header{}, decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, Number: 5})
	merge(t, b, publish(t, a)...)
	a.Republish()
	b.Republish()
	if n, m := len(a.Due()), len(b.Due()); n != 2 || m != 0 {
		t.Errorf("due after the topic was lost: want 2 where it was received, 0 elsewhere; got %d, %d", n, m)
	}
}
