package pair

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// fixture reads a file of testdata/format2 that holds items with their lengths.
func fixture(t *testing.T, name string) (items [][]byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/format2/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		n, k := binary.Uvarint(b)
		items = append(items, b[k:k+int(n)])
		b = b[k+int(n):]
	}
	return items
}

// fixtureConfig is the configuration of make_test.go.txt.
func fixtureConfig(format int) Config {
	c := testConfig
	c.MaxOpen, c.StateFormat = 36, format
	return c
}

func fixtureFlows(t *testing.T, c *Config) (flows []Flow) {
	t.Helper()
	for _, b := range fixture(t, "flows") {
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		f, ok := FromMessage(&m, c)
		if !ok {
			t.Fatal("a flow of the fixture is not pairable")
		}
		flows = append(flows, f)
	}
	return flows
}

func TestStateOfTheVersionBeforeIsContinued(t *testing.T) {
	text, err := os.ReadFile("testdata/format2/connections.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	var streamTime, from int64
	if _, err := fmt.Sscanf(want[0], "stream_time %d from %d", &streamTime, &from); err != nil {
		t.Fatal(err)
	}
	for _, format := range []int{2, 3} {
		c := fixtureConfig(format)
		var got []string
		m := New(c, 1, func(e *Emission) {
			got = append(got, fmt.Sprintf("%x v%d %v %d %d/%d", e.ConnectionId[:8], e.Version, e.EmitReason, e.EmittedUnixNs, e.Forward.GetOctets(), e.Reverse.GetOctets()))
		})
		pieces := fixture(t, "pieces")
		for i := from; i < int64(len(pieces)); i++ {
			if err := m.Apply(i, pieces[i]); err != nil {
				t.Fatal(err)
			}
		}
		m.Restored(streamTime)
		for _, f := range fixtureFlows(t, &c)[200:] {
			m.Observe(&f)
		}
		m.Advance(m.StreamTime() + int64(time.Hour))
		if d := cmp.Diff(want[1:], got); d != "" {
			t.Errorf("format %d (-version before +this):\n%s", format, d)
		}
	}
}

// The pieces that this version writes in format 2 are those of the version before,
// octet for octet, so that the version before can read them.
func TestFormat2IsWrittenAsByTheVersionBefore(t *testing.T) {
	c := fixtureConfig(2)
	flows, want := fixtureFlows(t, &c), fixture(t, "pieces")
	m := New(c, 1, func(*Emission) {})
	m.shared.set(1, []byte("key"), []byte("state that format 2 cannot hold"))
	var got [][]byte
	for _, part := range [][]Flow{flows[:80], flows[80:140], flows[140:200]} {
		for i := range part {
			m.Observe(&part[i])
		}
		var offsets []int64
		for _, p := range m.Deltas(5000) {
			offsets = append(offsets, int64(len(got)))
			got = append(got, slices.Clone(p))
		}
		m.Logged(offsets)
	}
	if len(got) != len(want) {
		t.Fatalf("%d pieces, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("piece %d: %d octets differ from the %d of the version before", i, len(got[i]), len(want[i]))
		}
	}
}

// A change of format in either direction, at any restart, changes no report. After
// the first commit in format 2 a restore reads pieces of format 2 alone.
func TestTheFormatCanChangeAtAnyRestart(t *testing.T) {
	small := testConfig
	small.MaxOpen = 8
	for name, c := range map[string]Config{"as usual": testConfig, "with evictions": small} {
		for _, batch := range []int{3, 40, 400} {
			t.Run(fmt.Sprintf("%s, batches of %d", name, batch), func(t *testing.T) {
				for seed := range uint64(4) {
					flows := traffic(seed, 900)
					want := undisturbed(c, flows)
					got, n := disturbed(t, c, flows, batch, 1600, seed, 2, 3)
					if d := cmp.Diff(want, got); d != "" {
						t.Fatalf("seed %d: (-undisturbed +disturbed):\n%.3000s", seed, d)
					}
					if n == 0 {
						t.Error("never killed: nothing was proved")
					}
				}
			})
		}
	}
}

// A journal stores the pieces that a machine commits, and restores machines from them.
type journal struct {
	pieces     [][]byte
	from       int64
	streamTime int64
}

func (j *journal) commit(m *Machine, limit int) {
	var offsets []int64
	for _, p := range m.Deltas(limit) {
		offsets = append(offsets, int64(len(j.pieces)))
		j.pieces = append(j.pieces, slices.Clone(p))
	}
	m.Logged(offsets)
	j.from, j.streamTime = m.RestoreFrom(), m.StreamTime()
}

func (j *journal) restore(t *testing.T, m *Machine) {
	t.Helper()
	if j.from >= 0 {
		for i := j.from; i < int64(len(j.pieces)); i++ {
			if err := m.Apply(i, j.pieces[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.Restored(j.streamTime)
}

func TestSharedValuesSurviveRestoresAndHoldBackNothing(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 9))
		c := testConfig
		c.StateFormat = 3
		m, want, j := New(c, 1, func(*Emission) {}), map[string]string{}, journal{from: -1}
		for i, f := range traffic(seed, 1500) {
			m.Observe(&f)
			for range rng.IntN(2) * rng.IntN(2) {
				k, v := fmt.Sprintf("key %d", rng.IntN(30)), fmt.Sprintf("value %d", i)
				if rng.IntN(3) == 0 {
					v = ""
				}
				if !m.shared.set(1, []byte(k), []byte(v)) {
					t.Fatal("refused far below the bound")
				}
				if want[k] = v; v == "" {
					delete(want, k)
				}
			}
			if i == 700 {
				m.shared.set(1, []byte("unchanged"), []byte("since record 700"))
				want["unchanged"] = "since record 700"
			}
			if i%20 != 19 {
				continue
			}
			j.commit(m, 1600)
			if rng.IntN(3) == 0 {
				m = New(c, 1, func(*Emission) {})
				j.restore(t, m)
			}
			got := map[string]string{}
			m.shared.forEach(1, func(k string, v []byte) { got[k] = string(v) })
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("seed %d, record %d (-set +restored):\n%s", seed, i, d)
			}
			// Nothing held is older than 135 s, and a record comes about every 0.9 s.
			if behind := int64(len(j.pieces)) - j.from; i > 700 && behind > 60 {
				t.Fatalf("seed %d, record %d: a restore reads %d pieces", seed, i, behind)
			}
		}
		for k := range want {
			m.shared.set(1, []byte(k), nil)
		}
		j.commit(m, 1600)
		if n := len(m.shared.at); n != 0 {
			t.Errorf("%d values are left of none", n)
		}
	}
}

func TestSharedValuesHaveABound(t *testing.T) {
	m := New(testConfig, 1, func(*Emission) {})
	for i := range maxShared {
		if !m.shared.set(1, fmt.Append(nil, i), []byte{1}) {
			t.Fatalf("value %d of %d is refused", i, maxShared)
		}
	}
	if m.shared.set(1, []byte("one more"), []byte{1}) {
		t.Error("a value beyond the bound is taken")
	}
	if !m.shared.set(1, []byte("7"), []byte{2}) || !m.shared.set(1, []byte("8"), nil) {
		t.Error("at the bound a value cannot be changed or removed")
	}
}

// section3 is a piece of format 3 of sections; each is a tag and its octets.
func section3(sections ...[]byte) []byte {
	b := []byte{3}
	for _, s := range sections {
		b = append(b, s[0])
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)-1))
		b = append(b, s[1:]...)
	}
	return b
}

func TestUnknownTagsAreRefusedWhenEvenAndKeptWhenOdd(t *testing.T) {
	c := testConfig
	c.StateFormat = 3
	m := New(c, 1, func(*Emission) {})
	f := traffic(1, 1)[0]
	m.Observe(&f)
	plain := slices.Clone(m.Deltas(1 << 20)[0]) // format, section, its length (4), the entry's length (4), the entry
	value := plain[10:]
	entries := func(extensions ...byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte{sectionEntries}, uint32(len(value)+len(extensions)))
		return append(append(b, value...), extensions...)
	}
	odd := []byte{0x81, 1, 2, 0xaa, 0xbb} // tag 129, 2 octets
	for _, tt := range []struct {
		name  string
		piece []byte
		ok    bool
	}{
		{"as written", section3(entries()), true},
		{"an odd extension", section3(entries(odd...)), true},
		{"an even extension", section3(entries(0x82, 1, 2, 0xaa, 0xbb)), false},
		{"an extension cut short", section3(entries(0x81, 1, 3, 0xaa, 0xbb)), false},
		{"extensions beyond the bound", section3(entries(append([]byte{0x81, 1, 0x80, 8}, make([]byte, 1024)...)...)), false},
		{"an odd section", section3([]byte{9, 1, 2, 3}, entries()), true},
		{"an even section", section3([]byte{8, 1, 2, 3}, entries()), false},
		{"an odd shared value", section3([]byte{sectionShared, 9, 1, 'k', 1, 'v'}, entries()), true},
		{"an even shared value", section3([]byte{sectionShared, 8, 1, 'k', 1, 'v'}, entries()), false},
		{"a later format", []byte{4}, false},
		{"an earlier format", []byte{1, 0, 0, 0, 0}, false},
		{"nothing", nil, false},
	} {
		r := New(c, 1, func(*Emission) {})
		err := r.Apply(0, tt.piece)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if err != nil {
			if !errors.Is(err, errPiece) {
				t.Errorf("%s: %v is no errPiece", tt.name, err)
			}
			continue
		}
		r.Restored(f.Received)
		if open, _ := r.Held(); open != 1 {
			t.Errorf("%s: %d connections are open, want 1", tt.name, open)
		}
		g := f
		g.Ident++
		r.Observe(&g) // changes the entry: it is written again
		again := slices.Clone(r.Deltas(1 << 20)[0])
		r.Logged([]int64{1})
		g.Ident++
		r.Observe(&g) // the first piece holds no entry any more: its shared value must be written again
		next := r.Deltas(1 << 20)[0]
		switch {
		case tt.name == "an odd extension" && !bytes.HasSuffix(again, odd):
			t.Errorf("%s: it is not written again: %x", tt.name, again)
		case tt.name == "an odd shared value" && !bytes.Contains(next, []byte{sectionShared, 0, 0, 0, 5, 9, 1, 'k', 1, 'v'}):
			t.Errorf("%s: it is not written again: %x", tt.name, next)
		}
		r.Advance(f.Received + int64(time.Hour))
		if len(r.kept) != 0 {
			t.Errorf("%s: extensions of %d entries are kept, which are gone", tt.name, len(r.kept))
		}
	}
}

// Version b879fb6 considers a TCP connection with two idle directions complete, and puts it before connections that
// end after PAIR_LINGER. A connection that this version holds for PAIR_IDLE must read as open in that version, and
// must be restored unchanged by this version.
func TestIdleConnectionsKeepTheirPlaceInTheVersionBefore(t *testing.T) {
	idle, hard := uint8(1), uint8(reasonEnd)
	for _, tt := range []struct {
		name        string
		format      int
		proto       uint8
		there, back uint8
		held        bool
	}{
		{"two idle directions", 2, 6, idle, idle, true},
		{"one that ended", 2, 6, hard, idle, false},
		{"UDP", 2, 17, idle, idle, false},
		{"format 3", 3, 6, idle, idle, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig
			c.StateFormat = tt.format
			m, _ := collector(c)
			at := 1000 * int64(time.Second)
			there, back := one(1, at, at+1), one(2, at, at+1)
			there.Key.Proto, back.Key.Proto, there.Reason, back.Reason, back.SrcIsLo = tt.proto, tt.proto, tt.there, tt.back, !there.SrcIsLo
			m.Observe(&there)
			m.Observe(&back)
			e := m.table.entries.ref(1)
			if got := m.heldIdle(e); got != tt.held {
				t.Errorf("held %v, want %v", got, tt.held)
			}
			to, _ := collector(c)
			if err := to.Apply(0, m.Deltas(1 << 20)[0]); err != nil {
				t.Fatal(err)
			}
			to.Restored(m.StreamTime())
			got := to.table.entries.ref(1)
			if got.deadline != e.deadline || to.queueOf(got) != m.queueOf(e) {
				t.Errorf("restored into queue %v until %d, want %v, %d", to.queueOf(got), got.deadline, m.queueOf(e), e.deadline)
			}
			var before uint8 // as that version reads the first side's state
			s := *m.sides.ref(e.sides)
			var as coder
			as.endState(&s.state, s.state == endSoft && m.heldIdle(e))
			(&coder{b: as.b, reading: true}).u8(&before)
			want := uint8(s.state)
			if tt.held {
				want = uint8(endOpen)
			}
			if before != want {
				t.Errorf("the version before reads state %d, want %d", before, want)
			}
			plain := coder{base: e.first}
			s.code(&plain, false)
			if tt.held && bytes.Contains(m.log.buf, plain.b) {
				t.Error("a direction is written as idle")
			}
		})
	}
}
