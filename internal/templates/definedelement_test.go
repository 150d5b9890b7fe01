package templates

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

func defines(typ uint64, name string) decode.OptionsFact {
	return decode.OptionsFact{What: flowpb.Fact_WHAT_ELEMENT_DEFINITION, ID: 4242<<16 | 17, Number: typ, Text: name}
}

// Replicas agree on the newest definition of an element in whichever order they read
// the topic; a port reads what it said itself.
func TestReplicasAgreeOnDefinitionsOfElements(t *testing.T) {
	a, _ := newStore("a")
	say(a, t0, 1000, defines(3, "queueDepth"))
	first := publish(t, a)
	say(a, t0+1000, 1000, defines(13, "queueName"))
	second := publish(t, a)
	say(a, t0+2000, 2000, defines(4, "octets"))
	third := publish(t, a)
	if len(first) != 1 || len(second) != 1 || len(third) != 1 {
		t.Fatalf("want one record each time, got %d, %d, %d", len(first), len(second), len(third))
	}
	all := [][]Record{first, second, third}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1, 0}} {
		b, _ := newStore("b")
		for _, i := range order {
			merge(t, b, all[i]...)
		}
		for _, s := range []*Store{a, b} {
			f := s.Facts(key300)
			if got, want := f.Definition(1000, 4242, 17), (decode.ElementDefinition{Name: "queueName", Type: 13}); got != want {
				t.Errorf("order %v, port 1000: want %v, got %v", order, want, got)
			}
			for _, port := range []uint16{2000, 3000} {
				if got, want := f.Definition(port, 4242, 17), (decode.ElementDefinition{Name: "octets", Type: 4}); got != want {
					t.Errorf("order %v, port %d: want %v, got %v", order, port, want, got)
				}
			}
			if got := f.Definition(1000, 4242, 18); got != (decode.ElementDefinition{}) {
				t.Errorf("order %v: 4242/18 was never defined, got %v", order, got)
			}
		}
	}
	// A tombstone takes it back.
	b, _ := newStore("b")
	merge(t, b, third...)
	if err := b.Merge(third[0].Key, nil); err != nil {
		t.Fatal(err)
	}
	if got := b.Facts(key300).Definition(2000, 4242, 17); got != (decode.ElementDefinition{}) {
		t.Errorf("after the tombstone: got %v", got)
	}
}

// A replica of a version that does not know a kind of fact passes over its records: they
// are counted as unreadable and change nothing. So do those before this one with
// definitions of elements, whose key and value have the same form.
func TestFactsOfALaterVersionChangeNothing(t *testing.T) {
	a, _ := newStore("a")
	learnFact(a, t0, defines(3, "queueDepth"))
	rec := publish(t, a)[0]
	const later = 77
	var st flowpb.ExporterState
	if err := proto.Unmarshal(rec.Value, &st); err != nil {
		t.Fatal(err)
	}
	st.GetFact().What = later
	value, err := proto.Marshal(&st)
	if err != nil {
		t.Fatal(err)
	}
	key := append([]byte{}, rec.Key...)
	key[1+scopeLen] = later
	b, _ := newStore("b")
	learnFact(b, t0, sampler(0, 100))
	publish(t, b)
	if err := b.Merge(key, value); err == nil {
		t.Error("want an error for a kind of fact that is not known")
	}
	if err := b.Merge(key, nil); err != nil {
		t.Errorf("tombstone: %v", err)
	}
	wantFacts(t, b, 0, map[uint64]uint64{0: 100})
	if got := b.Due(); len(got) != 0 {
		t.Errorf("want nothing to publish, got %d records", len(got))
	}
}

// The data type is one octet (IE 339); no other is taken, from datagrams or the topic.
func TestDataTypesAreOneOctet(t *testing.T) {
	s, _ := newStore("a")
	learnFact(s, t0, defines(256, "queueDepth"))
	if got := s.Facts(key300).Definition(0, 4242, 17); got.Name != "" {
		t.Errorf("learnt %v", got)
	}
	learnFact(s, t0, defines(255, "queueDepth"))
	rec := publish(t, s)[0]
	var st flowpb.ExporterState
	if err := proto.Unmarshal(rec.Value, &st); err != nil {
		t.Fatal(err)
	}
	st.GetFact().Number = 256
	value, err := proto.Marshal(&st)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := newStore("b")
	if err := b.Merge(rec.Key, value); err == nil {
		t.Error("want an error for a data type of 256")
	}
}
