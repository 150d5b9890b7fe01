// Package truth reads what the packets of a capture say about its TCP and UDP
// conversations: who opened each, and the connection state that Zeek gives it.
package truth

import (
	"net/netip"
	"slices"
	"time"
)

// Protocol numbers of the conversations that are read.
const (
	TCP = 6
	UDP = 17
)

// TCP flags, RFC 9293 section 3.1.
const (
	FlagFIN = 0x01
	FlagSYN = 0x02
	FlagRST = 0x04
	FlagACK = 0x10
)

// A Packet is one packet of a conversation.
type Packet struct {
	Time    int64 // ns since the epoch
	FromA   bool  // sent by Conversation.A
	Octets  int   // of the IP packet, header included
	Flags   uint8 // TCP
	Payload int   // octets of TCP payload
	Answer  bool  // UDP: its protocol marks it as an answer
}

// Evidence is what the packets say about who opened a conversation.
type Evidence uint8

const (
	// FirstPacket is of UDP: the sender of the first packet opened the conversation,
	// or its receiver if that packet is an answer.
	FirstPacket Evidence = iota
	// SYN says that the sender of the first SYN without ACK opened it.
	SYN
	// SYNACK says that no SYN was captured: the receiver of the SYN-ACK opened it.
	SYNACK
	// Midstream says that the capture began after the handshake: nobody knows.
	Midstream
)

// A Conversation is one TCP stream of tshark, which ends where a new SYN reuses the
// ports, or all UDP packets of an address and port pair.
type Conversation struct {
	Proto   uint8
	A, B    netip.AddrPort // A sent the first packet
	Packets []Packet       // in the order of the capture
}

// Opener returns whether A opened c, and by which evidence. Of midstream
// conversations it returns that A did, which means nothing.
func (c *Conversation) Opener() (fromA bool, by Evidence) {
	if c.Proto != TCP {
		return c.Packets[0].FromA != c.Packets[0].Answer, FirstPacket
	}
	first := func(flags uint8) int {
		return slices.IndexFunc(c.Packets, func(p Packet) bool { return p.Flags&(FlagSYN|FlagACK) == flags })
	}
	if i := first(FlagSYN); i >= 0 {
		return c.Packets[i].FromA, SYN
	}
	if i := first(FlagSYN | FlagACK); i >= 0 {
		return !c.Packets[i].FromA, SYNACK
	}
	return true, Midstream
}

// Start returns the time of the earliest packet, ns since the epoch.
func (c *Conversation) Start() int64 {
	start := c.Packets[0].Time
	for _, p := range c.Packets {
		start = min(start, p.Time)
	}
	return start
}

// PacketCount returns the number of packets of c.
func (c *Conversation) PacketCount() uint64 { return uint64(len(c.Packets)) }

// udpTimeout is the pause after which Zeek begins another UDP connection
// (udp_inactivity_timeout of its scripts/base/init-bare.zeek).
const udpTimeout = time.Minute

// A Pause is the time between two packets of a conversation, ns since the epoch.
type Pause struct{ Begin, End int64 }

// Pauses returns the pauses of a UDP conversation at which Zeek ends it and tshark does
// not. Nobody can say which of the two is right.
func (c *Conversation) Pauses() (pauses []Pause) {
	if c.Proto != UDP {
		return nil
	}
	times := make([]int64, len(c.Packets))
	for i, p := range c.Packets {
		times[i] = p.Time
	}
	slices.Sort(times)
	for i := 1; i < len(times); i++ {
		if times[i]-times[i-1] > int64(udpTimeout) {
			pauses = append(pauses, Pause{times[i-1], times[i]})
		}
	}
	return pauses
}
