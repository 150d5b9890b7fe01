package main

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The honest datagram, to which costs are compared, has the size and flows of the benchmarks'
// datagram: 24 records of 56 octets, 1368 octets.
func TestHonestDatagramsDecode(t *testing.T) {
	packets := honest(24, 2).render()
	if len(packets) != 3 || len(packets[1].octets) != 1368 {
		t.Fatalf("%d datagrams, the second of %d octets: want 3, 1368", len(packets), len(packets[1].octets))
	}
	target := newTarget(&worker{})
	for i, want := range []struct{ flows, templates int }{{0, 1}, {24, 0}, {24, 0}} {
		target.datagram(target.udp, &packets[i])
		r := &target.udp.result
		if len(r.Flows) != want.flows || len(r.Templates) != want.templates || len(r.Errors)+len(r.Unknown) > 0 {
			t.Errorf("datagram %d: %d flows, %d templates, errors %v, %d sets without a template: want %d flows, %d templates",
				i, len(r.Flows), len(r.Templates), r.Errors, len(r.Unknown), want.flows, want.templates)
		}
	}
}

// Every seed must decode without an error.
func TestSeedsDecode(t *testing.T) {
	for i, g := range seeds() {
		target := newTarget(&worker{})
		for j, p := range g.render() {
			w := target.udp
			if p.stream {
				w = target.session(p.from)
			}
			target.datagram(w, &p)
			if r := &w.result; len(r.Errors)+len(r.Unknown) > 0 || len(r.Flows)+len(r.Templates)+r.OptionsRecords == 0 {
				t.Errorf("seed %d, datagram %d: %d flows, %d templates, %d options records, errors %v", i, j, len(r.Flows), len(r.Templates), r.OptionsRecords, r.Errors)
			}
		}
	}
}

// A seed of the random numbers must always give the same mutants. Mutants must be within the size
// bounds, and mutation must not change their parents.
func TestMutantsAreDeterministicAndBounded(t *testing.T) {
	run := func() (all [][]packet) {
		r := rand.New(rand.NewPCG(7, 0))
		parents := seeds()
		for range 2000 {
			a, b := parents[r.IntN(len(parents))], parents[r.IntN(len(parents))]
			before := a.clone()
			m := mutate(r, a, b)
			if !reflect.DeepEqual(a, before) {
				t.Fatal("a parent was changed")
			}
			if len(parents) < 200 {
				parents = append(parents, m)
			} else {
				parents[r.IntN(len(parents))] = m
			}
			all = append(all, m.render())
		}
		return all
	}
	first, again := run(), run()
	if !reflect.DeepEqual(first, again) {
		t.Error("the same seed gave different mutants")
	}
	kinds := map[string]int{}
	for _, packets := range first {
		total := 0
		for _, p := range packets {
			total += len(p.octets)
			if p.stream {
				kinds["tcp"]++
			} else {
				kinds["udp"]++
			}
		}
		if total > maxSequence {
			t.Fatalf("a sequence of %d octets: want at most %d", total, maxSequence)
		}
	}
	if kinds["tcp"] < 100 || kinds["udp"] < 100 {
		t.Errorf("messages by transport: %v", kinds)
	}
}

// load must read the file that save writes.
func TestFindingsAreReplayable(t *testing.T) {
	g := honest(2, 2)
	g.messages[1].stream, g.messages[1].gap = true, 2000
	path := filepath.Join(t.TempDir(), "found", "1.txt")
	if err := save(path, &finding{metric: &metrics[0], genome: g, cost: cost{honest: 1}}); err != nil {
		t.Fatal(err)
	}
	got, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := g.render(); !reflect.DeepEqual(got, want) {
		t.Errorf("read back: %v\nwant: %v", got, want)
	}
	if got[1].from != netip.MustParseAddrPort("192.0.2.1:40000") || got[1].gap != 2000 || !got[1].stream {
		t.Errorf("the second message: %+v", got[1])
	}
}

// Counter data of two functions, written by hand according to internal/coverage/defs.go: the
// statements of a block count once per execution of the block.
func TestCountersAreReadByTheirFormat(t *testing.T) {
	c := &counter{functions: [][]function{
		{{name: "decode.a", statements: []uint32{2, 1}}},
		{{name: "wire.b", statements: []uint32{5}}, {name: "wire.c", statements: []uint32{1, 1, 3}}},
	}}
	data := make([]byte, 32) // file header
	copy(data, "\x00cwm\x01")
	data[24] = 2 // ULEB128
	data = append(data, 2, 0, 0, 0, 0, 0, 0, 0 /* functions */, 3, 0, 0, 0 /* string table */, 1, 0, 0, 0 /* arguments */)
	data = append(data, 1, 2, 3, 4)
	data = append(data, 2, 0, 0, 10, 0)         // decode.a: 2 blocks, the first ran 10 times
	data = append(data, 3, 1, 1, 1, 0x80, 1, 0) // wire.c: once, 128 times, never
	data = append(data, make([]byte, 16)...)    // footer
	p, err := c.parse(data)
	if err != nil {
		t.Fatal(err)
	}
	// 10 × 2 statements, and 1 × 1 + 128 × 1.
	if p.total != 149 || p.hottest() != "wire.c" || p.of[&c.functions[0][0]] != 20 {
		t.Errorf("%d statements, most in %s, %v", p.total, p.hottest(), p.of)
	}
	p.exclude("wire")
	if p.total != 20 || len(p.of) != 1 {
		t.Errorf("without wire: %d statements of %d functions, want 20 of 1", p.total, len(p.of))
	}
	data[24] = 1
	if _, err := c.parse(data); err == nil {
		t.Error("an unknown encoding is accepted")
	}
}

// FuzzCoverageData checks that coverage data of any content is refused or read without a panic.
func FuzzCoverageData(f *testing.F) {
	f.Add(append([]byte("\x00cvm"), make([]byte, 60)...), append(make([]byte, 24), 2, 0, 0, 0))
	f.Fuzz(func(t *testing.T, meta, counters []byte) {
		functions, err := parseMeta(meta)
		if err != nil {
			functions = [][]function{{{name: "a.b", statements: []uint32{1, 1}}}}
		}
		c := &counter{functions: functions}
		_, _ = c.parse(counters)
	})
}

// The templates of a session must be known in that session only, and its octets must count as
// received.
func TestSessionsAreTargetsOfTheirOwn(t *testing.T) {
	g := honest(1, 1)
	g.messages[0].version, g.messages[0].stream = 10, true
	g.messages[1].version, g.messages[1].stream, g.messages[1].port = 10, true, 1
	target := newTarget(&worker{})
	packets := g.render()
	target.take(packets)
	if len(target.sessions) != 2 || target.flows != 0 || target.now.Sub(start) != 10*time.Second {
		t.Errorf("%d sessions, %d octets of flows, clock %v", len(target.sessions), target.flows, target.now.Sub(start))
	}
	if want := uint64(len(packets[0].octets) + len(packets[1].octets)); target.received != want {
		t.Errorf("%d octets received, want %d", target.received, want)
	}
	w := target.sessions[packets[1].from]
	if len(w.result.Unknown) != 1 || !bytes.Equal(w.result.Unknown[0].Data, honestRecord) {
		t.Errorf("sets without a template: %v", w.result.Unknown)
	}
}

func TestOnlyUnknownFindingsFail(t *testing.T) {
	found := map[place]*finding{{metric: "kept", function: "decode.compile"}: {}}
	for known, want := range map[string]int{"": 1, "work,kafka": 1, "work,kept": 0} {
		if got := status(found, strings.Split(known, ",")); got != want {
			t.Errorf("known %q: status %d, want %d", known, got, want)
		}
	}
}
