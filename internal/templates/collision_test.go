package templates

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"

	"weir/internal/decode"
)

// The primes of xxHash64, and their inverses modulo 2^64: the hash has no key, so
// each of its rounds can be undone.
const (
	prime1 uint64 = 11400714785074694791
	prime2 uint64 = 14029467366897019727
)

func inverse(a uint64) uint64 {
	x := a
	for range 6 { // Newton's iteration doubles the number of right bits
		x *= 2 - a*x
	}
	return x
}

func xxRound(acc, in uint64) uint64 { return bits.RotateLeft64(acc+in*prime2, 31) * prime1 }

// xxLanes returns the four accumulators of xxHash64 after so many stripes of 32
// octets.
func xxLanes(b []byte, stripes int) [4]uint64 {
	p1, p2 := prime1, prime2
	v := [4]uint64{p1 + p2, p2, 0, -p1}
	for s := range stripes {
		for lane := range v {
			v[lane] = xxRound(v[lane], binary.LittleEndian.Uint64(b[32*s+8*lane:]))
		}
	}
	return v
}

// honestFields are what an exporter of IPFIX may send; they are at least two
// stripes of the encoding.
func honestFields() []decode.Field {
	return []decode.Field{
		{ID: 8, Length: 4}, {ID: 12, Length: 4}, {ID: 7, Length: 2}, {ID: 11, Length: 2}, {ID: 4, Length: 1},
		{ID: 5, Length: 1}, {ID: 6, Length: 1}, {ID: 10, Length: 4}, {ID: 14, Length: 4}, {ID: 1, Length: 8}, {ID: 2, Length: 8},
	}
}

// secondPreimage makes another layout with the 64-bit hash of t's. It puts fields
// of its own into the first stripe of the encoding, and into the second one what
// brings every accumulator to where t's are after two stripes. The second stripe
// has to be one that an IPFIX template can describe: chance soon gives one.
func secondPreimage(t testing.TB, of *decode.Template) *decode.Template {
	t.Helper()
	encoded := of.AppendLayout(nil)
	want := xxLanes(encoded, 2)
	inverse1, inverse2 := inverse(prime1), inverse(prime2)
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		b := append([]byte(nil), encoded...)
		for i := range 4 { // fields of one octet of some enterprise
			binary.BigEndian.PutUint32(b[3+8*i:], r.Uint32())
			binary.BigEndian.PutUint32(b[3+8*i+4:], 210<<16|1)
		}
		have := xxLanes(b, 1)
		for lane := range want {
			in := (bits.RotateLeft64(want[lane]*inverse1, -31) - have[lane]) * inverse2
			binary.LittleEndian.PutUint64(b[32+8*lane:], in)
		}
		forged := &decode.Template{ID: of.ID}
		for f := b[3:]; len(f) >= 8; f = f[8:] {
			forged.Fields = append(forged.Fields, decode.Field{
				PEN: binary.BigEndian.Uint32(f), ID: binary.BigEndian.Uint16(f[4:]), Length: binary.BigEndian.Uint16(f[6:]),
			})
		}
		if describable(forged) {
			if xxhash.Sum64(encoded) != xxhash.Sum64(forged.AppendLayout(nil)) || forged.SameLayout(of) {
				t.Fatalf("not a second preimage: %v", forged)
			}
			return forged
		}
	}
	t.Fatal("no second preimage found")
	return nil
}

func describable(t *decode.Template) bool {
	for _, f := range t.Fields {
		if f.ID >= 1<<15 {
			return false
		}
	}
	_, err := decode.Compile(10, t)
	return err == nil
}

var ipfix300 = &decode.TemplateKey{Exporter: decode.Map16(exporterA), Domain: 1, ID: 300, Version: 10}

func learnLayout(t testing.TB, s *Store, at int64, port uint16, l *decode.Template) *decode.Plan {
	t.Helper()
	p, err := s.Learn(ipfix300, &decode.Meta{Exporter: exporterA, Port: port, Received: at}, &decode.Header{Version: 10}, l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantPlan requires that the layout in force for a port is l.
func wantPlan(t testing.TB, s *Store, what string, port uint16, l *decode.Template) {
	t.Helper()
	switch p := s.Known(ipfix300, port); {
	case p == nil:
		t.Errorf("%s: no layout is in force for port %d", what, port)
	case !p.Template().SameLayout(l):
		t.Errorf("%s: the layout in force for port %d: want %v, got %v", what, port, l, p.Template())
	}
}

func TestALayoutWithTheHashOfAnotherIsNotTakenForIt(t *testing.T) {
	honest := &decode.Template{ID: 300, Fields: honestFields()}
	forged := secondPreimage(t, honest)
	for _, honestFirst := range []bool{true, false} {
		s, _ := newStore("r1")
		if honestFirst {
			learnLayout(t, s, t0, 2055, honest)
		}
		for i := range int64(3) {
			if p := learnLayout(t, s, t0+2*i+1, 7777, forged); !p.Template().SameLayout(forged) {
				t.Errorf("learnt the forged layout: want its plan, got that of %v", p.Template())
			}
			if p := learnLayout(t, s, t0+2*i+2, 2055, honest); !p.Template().SameLayout(honest) {
				t.Errorf("learnt the honest layout: want its plan, got that of %v", p.Template())
			}
		}
		wantPlan(t, s, "its own port", 2055, honest)
		wantPlan(t, s, "the forger's port", 7777, forged)
		if got := s.Stats().Definitions; got != 2 {
			t.Errorf("definitions: want 2, got %d", got)
		}
	}
}

func TestASessionTellsLayoutsWithOneHashApart(t *testing.T) {
	honest := &decode.Template{ID: 300, Fields: honestFields()}
	forged := secondPreimage(t, honest)
	store, _ := newStore("r1")
	s := store.NewSession(nil)
	for _, l := range []*decode.Template{honest, forged, honest} {
		p, err := s.Learn(ipfix300, &decode.Meta{}, &decode.Header{Version: 10}, l)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Template().SameLayout(l) || s.Plan(ipfix300, nil, nil) != p {
			t.Errorf("learnt %v: want its plan, got that of %v", l, p.Template())
		}
	}
}

func TestASessionKeepsADefinitionThatComesAgain(t *testing.T) {
	store, _ := newStore("r1")
	s := store.NewSession(nil)
	var plans []*decode.Plan
	for range 2 {
		p, err := s.Learn(ipfix300, &decode.Meta{}, &decode.Header{Version: 10}, &decode.Template{ID: 300, Fields: honestFields()})
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
	}
	if plans[0] != plans[1] {
		t.Error("the same definition was compiled twice")
	}
}

func TestExportersWhoseLayoutsHaveOneHashDoNotShareAPlan(t *testing.T) {
	honest := &decode.Template{ID: 300, Fields: honestFields()}
	forged := secondPreimage(t, honest)
	s, _ := newStore("r1")
	other := *ipfix300
	other.Domain = 2
	if _, err := s.Learn(&other, &decode.Meta{Port: 1, Received: t0}, &decode.Header{Version: 10}, forged); err != nil {
		t.Fatal(err)
	}
	if p := learnLayout(t, s, t0, 1, honest); !p.Template().SameLayout(honest) {
		t.Errorf("the plan of the honest layout is that of %v", p.Template())
	}
}
