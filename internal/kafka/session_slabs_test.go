package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestRecordsOfATransactionAreDistinct(t *testing.T) {
	var s recordSlabs
	seen := map[*kgo.Record]bool{}
	for range 3 * slabLen {
		r := s.next()
		if seen[r] {
			t.Fatal("a record was handed out twice in a transaction")
		}
		seen[r] = true
	}
	s.reuse()
	if !seen[s.next()] {
		t.Error("a record of the committed transaction is not used again")
	}
	s.drop()
	if seen[s.next()] {
		t.Error("a record of an aborted transaction is used again: the client may still hold it")
	}
}

func TestACommittedTransactionLeavesItsRecordsToTheNext(t *testing.T) {
	var s recordSlabs
	transaction := func() {
		for range 20_000 {
			*s.next() = kgo.Record{Topic: "connections"}
		}
		s.reuse()
	}
	transaction()
	if n := testing.AllocsPerRun(10, transaction); n != 0 {
		t.Errorf("a transaction like the last allocates %.0f times", n)
	}
	for range (maxSlabs + 3) * slabLen {
		s.next()
	}
	s.reuse()
	if len(s.slabs) != maxSlabs {
		t.Errorf("%d slabs are kept, want %d", len(s.slabs), maxSlabs)
	}
}
