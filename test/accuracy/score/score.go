// Package score compares the connections that Weir makes of an export with the
// conversations that the packets of the capture were.
package score

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"weir/test/accuracy/truth"
)

// A Connection is one connection of Weir.
type Connection struct {
	Proto                uint8
	Initiator, Responder netip.AddrPort
	Start, End           int64 // ns since the epoch
	Packets              uint64
	Method               string // direction_method
	State                string // conn_state
}

// An Outcome says what became of a conversation.
type Outcome uint8

const (
	// One says that it is exactly one connection.
	One Outcome = iota
	// Split says that it is several connections.
	Split
	// Merged says that it shares a connection with other conversations of its ports.
	Merged
	// Missing says that no connection has its addresses and ports.
	Missing
)

func (o Outcome) String() string { return [...]string{"one", "split", "merged", "missing"}[o] }

// A Match is a conversation, its outcome, and the connections of its addresses and
// ports that no other conversation has for itself. One of UDP has several connections
// where the conversation pauses for longer than Zeek allows.
type Match struct {
	Conversation *truth.Conversation
	Outcome      Outcome
	Connections  []Connection
}

// A pairKey is what a conversation and its connections have in common.
type pairKey struct {
	proto  uint8
	lo, hi netip.AddrPort
}

func keyOf(proto uint8, a, b netip.AddrPort) pairKey {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return pairKey{proto, a, b}
}

// MatchAll finds the connections of each conversation. extra are connections whose
// addresses and ports no conversation has.
func MatchAll(conversations []*truth.Conversation, connections []Connection) (matches []Match, extra []Connection) {
	unmatched := map[pairKey][]Connection{}
	for _, c := range connections {
		k := keyOf(c.Proto, c.Initiator, c.Responder)
		unmatched[k] = append(unmatched[k], c)
	}
	groups := map[pairKey][]*truth.Conversation{}
	var order []pairKey
	for _, c := range conversations {
		k := keyOf(c.Proto, c.A, c.B)
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], c)
	}
	for _, k := range order {
		matches = append(matches, matchGroup(groups[k], unmatched[k])...)
		delete(unmatched, k)
	}
	for _, c := range connections {
		if _, is := unmatched[keyOf(c.Proto, c.Initiator, c.Responder)]; is {
			extra = append(extra, c)
		}
	}
	return matches, extra
}

// sameStart is how far the start of a conversation and of its connection may be
// apart where several share addresses and ports: some exporters say times in seconds.
const sameStart = 1500 * time.Millisecond

// matchGroup matches conversations and connections of the same addresses and ports.
func matchGroup(conversations []*truth.Conversation, connections []Connection) (matches []Match) {
	if len(connections) == 0 {
		for _, c := range conversations {
			matches = append(matches, Match{Conversation: c, Outcome: Missing})
		}
		return matches
	}
	if len(conversations) == 1 {
		outcome := One
		if len(connections) > 1 && !dividedAtPauses(conversations[0], connections) {
			outcome = Split
		}
		return []Match{{conversations[0], outcome, connections}}
	}
	conversations, connections = slices.Clone(conversations), slices.Clone(connections)
	slices.SortStableFunc(conversations, func(a, b *truth.Conversation) int { return cmp.Compare(a.Start(), b.Start()) })
	slices.SortStableFunc(connections, func(a, b Connection) int { return cmp.Compare(a.Start, b.Start) })
	if len(conversations) == len(connections) {
		for i, c := range conversations {
			matches = append(matches, Match{c, One, connections[i : i+1]})
		}
		return matches
	}
	var rest []*truth.Conversation
	for _, c := range conversations {
		i := slices.IndexFunc(connections, func(w Connection) bool {
			return w.Packets == c.PacketCount() && (time.Duration(w.Start)-time.Duration(c.Start())).Abs() < sameStart
		})
		if i < 0 {
			rest = append(rest, c)
			continue
		}
		matches = append(matches, Match{c, One, connections[i : i+1 : i+1]})
		connections = slices.Concat(connections[:i], connections[i+1:])
	}
	outcome := Split
	if len(rest) > len(connections) {
		outcome = Merged
	}
	for _, c := range rest {
		matches = append(matches, Match{c, outcome, connections})
	}
	return matches
}

// dividedAtPauses reports whether connections are the parts of c between some of its
// pauses.
func dividedAtPauses(c *truth.Conversation, connections []Connection) bool {
	pauses := c.Pauses()
	connections = slices.Clone(connections)
	slices.SortStableFunc(connections, func(a, b Connection) int { return cmp.Compare(a.Start, b.Start) })
	for i := 1; i < len(connections); i++ {
		end, start := connections[i-1].End, connections[i].Start
		if !slices.ContainsFunc(pauses, func(p truth.Pause) bool {
			return end <= p.Begin+int64(sameStart) && start >= p.End-int64(sameStart)
		}) {
			return false
		}
	}
	return true
}

// partOpener returns whether A opened the part of a UDP conversation between pauses that
// w is.
func partOpener(c *truth.Conversation, w Connection) (fromA bool) {
	begin := int64(0)
	for _, p := range c.Pauses() {
		if p.End <= w.Start+int64(sameStart) {
			begin = p.End
		}
	}
	part := truth.Conversation{Proto: c.Proto, A: c.A, B: c.B, Packets: slices.DeleteFunc(slices.Clone(c.Packets),
		func(p truth.Packet) bool { return p.Time < begin })}
	fromA, _ = part.Opener()
	return fromA
}

// Judgement is what is right about a match.
type Judgement struct {
	// InitiatorKnown: the packets say who opened the conversation.
	InitiatorKnown bool
	// Initiator: the connection has the initiator that the packets say; of
	// midstream conversations true.
	Initiator bool
	// StateKnown: the conversation is TCP, and the connection has its initiator.
	StateKnown bool
	State      bool   // conn_state is Zeek's
	ZeekState  string // of the conversation, when StateKnown
}

// Judge compares the connections of m with its conversation. Each must have its
// initiator; a part between pauses may also have the initiator of its own first packet,
// as Zeek says. m.Outcome must be One.
func (m *Match) Judge() Judgement {
	c, w := m.Conversation, m.Connections[0]
	fromA, by := c.Opener()
	weirFromA := w.Initiator == c.A
	j := Judgement{InitiatorKnown: by != truth.Midstream, Initiator: true}
	if j.InitiatorKnown {
		j.Initiator = !slices.ContainsFunc(m.Connections, func(w Connection) bool {
			return (w.Initiator == c.A) != fromA && (len(m.Connections) == 1 || (w.Initiator == c.A) != partOpener(c, w))
		})
	}
	if c.Proto == truth.TCP && j.Initiator {
		j.StateKnown = true
		j.ZeekState = truth.ConnState(c.Packets, weirFromA)
		j.State = j.ZeekState == w.State
	}
	return j
}

// Right tells whether the conversation is one connection with the right initiator.
func (m *Match) Right() bool { return m.Outcome == One && m.Judge().Initiator }

// A Tally counts the outcomes of conversations of one protocol.
type Tally struct {
	Conversations                int
	Outcomes                     [Missing + 1]int
	Right                        int // one connection, and its initiator where it is known
	InitiatorKnown, InitiatorHit int // of those that are one connection
	StateKnown, StateHit         int // of those with the right initiator
	// Knowable are those that are not right, though the exported records have what is
	// needed; InitiatorKnowable those of them that are one connection.
	Knowable, InitiatorKnowable int
}

// Add counts m. knowable says whether the exported records have what is needed to get it
// right, and is asked when it is not.
func (t *Tally) Add(m *Match, knowable func(*Match) bool) {
	if m.Outcome != Missing && !m.Right() && knowable(m) {
		t.Knowable++
		if m.Outcome == One {
			t.InitiatorKnowable++
		}
	}
	t.Conversations++
	t.Outcomes[m.Outcome]++
	if m.Outcome != One {
		return
	}
	j := m.Judge()
	count := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	count(&t.Right, j.Initiator)
	count(&t.InitiatorKnown, j.InitiatorKnown)
	count(&t.InitiatorHit, j.InitiatorKnown && j.Initiator)
	count(&t.StateKnown, j.StateKnown)
	count(&t.StateHit, j.StateKnown && j.State)
}

// Sum adds what o counted.
func (t *Tally) Sum(o Tally) {
	t.Conversations += o.Conversations
	for i, n := range o.Outcomes {
		t.Outcomes[i] += n
	}
	t.Right += o.Right
	t.InitiatorKnown += o.InitiatorKnown
	t.InitiatorHit += o.InitiatorHit
	t.StateKnown += o.StateKnown
	t.StateHit += o.StateHit
	t.Knowable += o.Knowable
	t.InitiatorKnowable += o.InitiatorKnowable
}

// Tallies are those of a setting, by protocol.
type Tallies struct {
	TCP, UDP Tally
	Extra    int // connections of addresses and ports that no conversation has
}

// Of returns the tally of a protocol.
func (t *Tallies) Of(proto uint8) *Tally {
	if proto == truth.TCP {
		return &t.TCP
	}
	return &t.UDP
}

// Sum adds what o counted.
func (t *Tallies) Sum(o Tallies) {
	t.TCP.Sum(o.TCP)
	t.UDP.Sum(o.UDP)
	t.Extra += o.Extra
}
