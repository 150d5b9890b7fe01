package truth

import (
	"strings"
	"testing"
)

// packetsOf makes packets of text, one word each: > or < for the sender, the
// flags S, A, F, R, and d for payload.
func packetsOf(t *testing.T, text string) (out []Packet) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		p := Packet{FromA: word[0] == '>'}
		for _, c := range word[1:] {
			switch c {
			case 'S':
				p.Flags |= FlagSYN
			case 'A':
				p.Flags |= FlagACK
			case 'F':
				p.Flags |= FlagFIN
			case 'R':
				p.Flags |= FlagRST
			case 'd':
				p.Payload = 100
			default:
				t.Fatalf("%q: unknown flag %c", word, c)
			}
		}
		out = append(out, p)
	}
	return out
}

// The states and their meanings are the table conn_state of Zeek's documentation
// of conn.log; the packets were written by hand for each row.
func TestConnState(t *testing.T) {
	for _, c := range []struct{ state, meaning, packets string }{
		{"S0", "connection attempt seen, no reply", ">S"},
		{"S0", "an attempt that is repeated", ">S >S >S"},
		{"S0", "a bare ACK is no reply", ">S <A"},
		{"S1", "established, not terminated", ">S <SA >A"},
		{"S1", "established, with data", ">S <SA >A >Ad <Ad >A"},
		{"SF", "normal establishment and termination", ">S <SA >A >Ad <Ad >FA <FA >A"},
		{"SF", "the responder ends first", ">S <SA >A <FAd >A >FA <A"},
		{"SF", "RST after both FINs", ">S <SA >A >FA <FA >RA"},
		{"SF", "midstream, both FINs", ">Ad <A >FA <FA >A"},
		{"REJ", "attempt rejected", ">S <RA"},
		{"S2", "established, originator closes, no reply", ">S <SA >A >FA <A"},
		{"S3", "established, responder closes, no reply", ">S <SA >A <FA >A"},
		{"RSTO", "established, originator aborts", ">S <SA >A >Ad >R"},
		{"RSTO", "aborted after the responder's FIN", ">S <SA >A <FA >RA"},
		{"RSTR", "responder aborts", ">S <SA >A >Ad <RA"},
		{"RSTOS0", "SYN followed by RST, no SYN-ACK", ">S >R"},
		{"RSTRH", "SYN-ACK followed by RST, no SYN", "<SA <R"},
		{"SH", "SYN followed by FIN, no SYN-ACK", ">S >F"},
		{"SHR", "SYN-ACK followed by FIN, no SYN", "<SA <FA"},
		{"OTH", "midstream traffic", ">Ad <Ad"},
		{"OTH", "midstream, an RST of the first sender", ">Ad >R"},
	} {
		if got := ConnState(packetsOf(t, c.packets), true); got != c.state {
			t.Errorf("%s (%s) = %s, want %s", c.packets, c.meaning, got, c.state)
		}
	}
}

// With the other endpoint as originator, the roles are exchanged.
func TestConnStateOfTheOtherOriginator(t *testing.T) {
	if got := ConnState(packetsOf(t, "<S >SA <A <Ad >RA"), false); got != "RSTR" {
		t.Errorf("got %s, want RSTR", got)
	}
}

func TestOpener(t *testing.T) {
	for _, c := range []struct {
		packets string
		fromA   bool
		by      Evidence
	}{
		{">S <SA >A", true, SYN},
		{">Ad <S >SA", false, SYN},
		{">SA <A", false, SYNACK},
		{"<SA >A", true, SYNACK},
		{">Ad <A", true, Midstream},
	} {
		conversation := Conversation{Proto: TCP, Packets: packetsOf(t, c.packets)}
		if fromA, by := conversation.Opener(); fromA != c.fromA || by != c.by {
			t.Errorf("%s: opened by A: %v by %d, want %v by %d", c.packets, fromA, by, c.fromA, c.by)
		}
	}
	answer := Conversation{Proto: UDP, Packets: []Packet{{FromA: true, Answer: true}}}
	if fromA, _ := answer.Opener(); fromA {
		t.Error("the sender of a DNS answer opened the conversation")
	}
}
