package score

import (
	"net/netip"
	"testing"
	"time"

	"weir/test/accuracy/truth"
)

var (
	a = netip.MustParseAddrPort("192.0.2.1:40000")
	b = netip.MustParseAddrPort("192.0.2.2:80")
	c = netip.MustParseAddrPort("192.0.2.3:80")
)

// conversation has a handshake that starts at s seconds, from a, and packets in all.
func conversation(s int64, packets int) *truth.Conversation {
	flags := []uint8{truth.FlagSYN, truth.FlagSYN | truth.FlagACK, truth.FlagACK}
	out := &truth.Conversation{Proto: truth.TCP, A: a, B: b}
	for i := range packets {
		out.Packets = append(out.Packets, truth.Packet{
			Time: s * int64(time.Second), FromA: i != 1, Flags: flags[min(i, 2)],
		})
	}
	return out
}

func connection(s int64, packets uint64) Connection {
	return Connection{Proto: truth.TCP, Initiator: a, Responder: b, Start: s * int64(time.Second), Packets: packets, State: "S1"}
}

func TestMatchAll(t *testing.T) {
	turned := connection(0, 3)
	turned.Initiator, turned.Responder = b, a
	for _, test := range []struct {
		name          string
		conversations []*truth.Conversation
		connections   []Connection
		want          []Outcome
	}{
		{"one", []*truth.Conversation{conversation(0, 3)}, []Connection{connection(0, 3)}, []Outcome{One}},
		{"one, whoever opened it", []*truth.Conversation{conversation(0, 3)}, []Connection{turned}, []Outcome{One}},
		{"split", []*truth.Conversation{conversation(0, 3)}, []Connection{connection(0, 2), connection(9, 1)}, []Outcome{Split}},
		{"missing", []*truth.Conversation{conversation(0, 3)}, nil, []Outcome{Missing}},
		{
			"ports used again", []*truth.Conversation{conversation(0, 3), conversation(9, 3)},
			[]Connection{connection(9, 3), connection(0, 3)}, []Outcome{One, One},
		},
		{
			"merged", []*truth.Conversation{conversation(0, 3), conversation(9, 3)},
			[]Connection{connection(0, 6)}, []Outcome{Merged, Merged},
		},
		{
			"two of three merged", []*truth.Conversation{conversation(0, 3), conversation(9, 3), conversation(20, 3)},
			[]Connection{connection(0, 6), connection(20, 3)}, []Outcome{One, Merged, Merged},
		},
		{
			"one of two split", []*truth.Conversation{conversation(0, 3), conversation(9, 4)},
			[]Connection{connection(0, 3), connection(9, 2), connection(11, 2)}, []Outcome{One, Split},
		},
	} {
		matches, extra := MatchAll(test.conversations, test.connections)
		if len(matches) != len(test.want) || len(extra) != 0 {
			t.Errorf("%s: %d matches, %d extra", test.name, len(matches), len(extra))
			continue
		}
		for i, m := range matches {
			if m.Outcome != test.want[i] {
				t.Errorf("%s: %d is %v, want %v", test.name, i, m.Outcome, test.want[i])
			}
		}
	}
}

// Zeek ends a UDP connection after a minute without packets (udp_inactivity_timeout),
// tshark never: both are right. A part with the wrong initiator is wrong.
func TestUDPDividedAtPauses(t *testing.T) {
	at := func(s int64) truth.Packet { return truth.Packet{Time: s * int64(time.Second), FromA: true} }
	conversation := &truth.Conversation{Proto: truth.UDP, A: a, B: b, Packets: []truth.Packet{at(0), at(50), at(111), at(120)}}
	conversation.Packets[2].FromA = false
	part := func(initiator, responder netip.AddrPort, start, end int64) Connection {
		return Connection{
			Proto: truth.UDP, Initiator: initiator, Responder: responder,
			Start: start * int64(time.Second), End: end * int64(time.Second),
		}
	}
	for _, test := range []struct {
		name        string
		connections []Connection
		want        Outcome
		right       bool
	}{
		{"whole", []Connection{part(a, b, 0, 120)}, One, true},
		{"at the pause of 61 s", []Connection{part(a, b, 111, 120), part(a, b, 0, 50)}, One, true},
		{"at the pause of 50 s", []Connection{part(a, b, 0, 0), part(a, b, 50, 120)}, Split, false},
		{"overlapping", []Connection{part(a, b, 0, 120), part(a, b, 111, 120)}, Split, false},
		{"a part with the initiator of its own", []Connection{part(a, b, 0, 50), part(b, a, 111, 120)}, One, true},
		{"a part turned round", []Connection{part(b, a, 0, 50), part(b, a, 111, 120)}, One, false},
	} {
		matches, _ := MatchAll([]*truth.Conversation{conversation}, test.connections)
		if m := matches[0]; m.Outcome != test.want || m.Right() != test.right {
			t.Errorf("%s: %v, right %v; want %v, %v", test.name, m.Outcome, m.Right(), test.want, test.right)
		}
	}
}

func TestExtra(t *testing.T) {
	other := connection(0, 3)
	other.Responder = c
	if _, extra := MatchAll([]*truth.Conversation{conversation(0, 3)}, []Connection{other}); len(extra) != 1 {
		t.Errorf("%d extra, want 1", len(extra))
	}
}

func TestTally(t *testing.T) {
	turned := connection(0, 3)
	turned.Initiator, turned.Responder = b, a
	other := connection(0, 3)
	other.State = "SF"
	midstream := &truth.Conversation{Proto: truth.TCP, A: a, B: b, Packets: conversation(0, 3).Packets[2:]}
	var got Tally
	for _, m := range []Match{
		{conversation(0, 3), One, []Connection{connection(0, 3)}},                     // right, S1
		{conversation(0, 3), One, []Connection{turned}},                               // wrong initiator
		{conversation(0, 3), One, []Connection{other}},                                // right, wrong state
		{midstream, One, []Connection{turned}},                                        // nobody knows who opened it; OTH
		{conversation(0, 3), Split, []Connection{connection(0, 2), connection(9, 1)}}, // no initiator to judge
		{conversation(0, 3), Missing, nil},
	} {
		got.Add(&m, func(m *Match) bool { return m.Outcome == Split })
	}
	want := Tally{
		Conversations: 6, Outcomes: [4]int{4, 1, 0, 1}, Right: 3,
		InitiatorKnown: 3, InitiatorHit: 2, StateKnown: 3, StateHit: 1, Knowable: 1,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
