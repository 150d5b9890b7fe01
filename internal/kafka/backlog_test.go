package kafka

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"weir/internal/templates"
)

// A topic of many records must not take more memory than Backlog allows, and no record of it may be lost.
func TestTheBacklogOfALogIsBounded(t *testing.T) {
	l, err := NewTemplateLog(config("127.0.0.1:1"), "t.templates", "r")
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	l.Backlog = 1 << 20
	applied := 0
	apply := func(_, _ []byte) { applied++ }
	ended := -1
	l.ReadToEnd = func() { ended = applied }
	value := make([]byte, 1000)
	for i := range uint64(n) {
		l.take(binary.BigEndian.AppendUint64([]byte("key"), i), value, apply)
		if l.backlog.octets > l.Backlog {
			t.Fatalf("after %d records: %d octets wait, want at most %d", i+1, l.backlog.octets, l.Backlog)
		}
	}
	early, waiting := applied, len(l.backlog.records)
	if early == 0 || waiting == 0 || early+waiting != n {
		t.Errorf("of %d records %d are applied and %d wait: want all, and some of both", n, early, waiting)
	}
	l.take(nil, value, apply) // without a key: applied at once
	if applied != early+1 || l.Ready() == nil {
		t.Errorf("a record without a key: want %d applied and the log not ready, got %d", early+1, applied)
	}
	l.take(l.barrier.Key, l.barrier.Value, apply)
	if applied != n+1 || ended != n+1 || l.backlog.octets != 0 || len(l.backlog.at) != 0 {
		t.Errorf("after the barrier: want %d applied before ReadToEnd and none waiting, got %d, %d and %d octets",
			n+1, applied, ended, l.backlog.octets)
	}
}

// A definition that a later record replaced must not be applied: data would be decoded with it.
func TestALogAppliesTheLastRecordOfEachKeyAtTheBarrierAndCallsBackOnce(t *testing.T) {
	l, err := NewTemplateLog(config("127.0.0.1:1"), "t.templates", "r")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	apply := func(k, v []byte) { got = append(got, fmt.Sprintf("%s=%s", k, v)) }
	l.ReadToEnd = func() {
		if l.Ready() != nil {
			t.Error("ReadToEnd is called before the log is ready")
		}
		got = append(got, "end")
	}
	key, value := []byte("a"), []byte("1")
	l.take(key, value, apply)
	key[0], value[0] = 'x', 'x' // take must have copied them
	l.take([]byte("b"), []byte("2"), apply)
	l.take([]byte("a"), []byte("3"), apply)
	if len(got) > 0 {
		t.Errorf("before the barrier: want nothing applied, got %q", got)
	}
	for range 2 { // the barrier may be written twice
		l.take(l.barrier.Key, l.barrier.Value, apply)
	}
	l.take([]byte("b"), []byte("4"), apply)
	if want := []string{"b=2", "a=3", "end", "b=4"}; !slices.Equal(got, want) {
		t.Errorf("applied: want %q, got %q", want, got)
	}
}

func TestABacklogKeepsTheLastRecordOfEachKey(t *testing.T) {
	var b backlog
	var want, got []string
	for i := range 10_000 {
		for _, k := range []string{"a", "b", "c"} {
			b.add(templates.Record{Key: []byte(k), Value: binary.BigEndian.AppendUint32(nil, uint32(i))})
		}
		if len(b.records) > 2*3+1024+1 {
			t.Fatalf("%d places for 3 keys", len(b.records))
		}
	}
	b.add(templates.Record{Key: []byte("a")}) // a removal
	if octets := 3*192 + 3*2 + 2*4; b.octets != octets {
		t.Errorf("want %d octets, got %d", octets, b.octets)
	}
	last := string(binary.BigEndian.AppendUint32(nil, 9999))
	want = []string{"b=" + last, "c=" + last, "a="}
	b.removeOldest(-1, func(k, v []byte) { got = append(got, string(k)+"="+string(v)) })
	if !slices.Equal(got, want) || b.octets != 0 || len(b.records) != 0 {
		t.Errorf("want %q in this order, got %q, %d octets", want, got, b.octets)
	}
}
