package templates

import (
	"errors"
	"testing"
	"time"
)

const day = 24 * 60 * minute

func TestWhatNobodyReceivedForADayIsTombstonedByOneAndForgottenByAll(t *testing.T) {
	a, ac := newStore("a")
	b, bc := newStore("b")
	learn(t, a, t0, 1, 4)
	learnFact(a, t0, sampler(0, 100))
	merge(t, b, publish(t, a)...)

	ac.ns = t0 + day - minute
	if got := a.Due(); len(got) != 0 {
		t.Fatalf("due before a day: want 0, got %d", len(got))
	}
	ac.ns = t0 + day + int64(expirySpread) + minute
	rs := a.Due()
	if len(rs) != 2 || rs[0].Value != nil || rs[1].Value != nil {
		t.Fatalf("due after a day: want 2 tombstones, got %v", rs)
	}
	wantLayout(t, a, 1, 4) // until they are published
	ac.ns += minute
	if got := a.Due(); len(got) != 0 {
		t.Errorf("due while under way: want 0, got %d", len(got))
	}
	a.Published(rs[0], errors.New("kafka is away"))
	a.Published(rs[1], nil)
	ac.ns += minute
	again := a.Due()
	if len(again) != 1 || string(again[0].Key) != string(rs[0].Key) || again[0].Value != nil {
		t.Fatalf("due after a failure: want the tombstone again, got %v", again)
	}
	a.Published(again[0], nil)
	bc.ns = ac.ns
	merge(t, b, rs...)
	for name, s := range map[string]*Store{"a": a, "b": b} {
		if got := s.Stats(); got != (Stats{}) {
			t.Errorf("%s: want nothing left, got %+v", name, got)
		}
	}
	if got := b.Due(); len(got) != 0 {
		t.Errorf("due in the other: want 0, got %d", len(got))
	}
}

func TestWhatWasNeverPublishedExpiresWithoutATombstone(t *testing.T) {
	s, c := newStore("r1")
	learn(t, s, t0, 1, 4)
	r := s.Due()[0]
	s.Published(r, errors.New("kafka is away"))
	c.ns = t0 + day + int64(expirySpread) + minute
	if got := s.Due(); len(got) != 0 {
		t.Errorf("due: want 0, got %d", len(got))
	}
	if got := s.Stats(); got != (Stats{}) {
		t.Errorf("want nothing left, got %+v", got)
	}
}

func TestWhatIsStillReceivedDoesNotExpire(t *testing.T) {
	s, c := newStore("r1")
	for at := t0; at < t0+2*day; at += 30 * minute {
		c.ns = at
		learn(t, s, at, 1, 4)
		for _, r := range publish(t, s) {
			if r.Value == nil {
				t.Fatalf("a tombstone after %v", time.Duration(at-t0))
			}
		}
	}
	wantLayout(t, s, 1, 4)
}
