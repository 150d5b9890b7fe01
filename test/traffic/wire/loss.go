//go:build linux

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// A verdict says what becomes of a frame in the middle of the wire.
type verdict int

const (
	carried verdict = iota // recorded and delivered
	lost                   // recorded, not delivered
	unseen                 // neither
)

// A loss takes the first frames of one kind off the wire.
type loss struct {
	kind    string
	port    uint16
	left    int
	verdict verdict
}

// A lossList is the value of the flag -lose.
type lossList []*loss

func (l *lossList) String() string { return fmt.Sprint(len(*l), " rules") }

// Set adds the rule of one flag.
func (l *lossList) Set(text string) error {
	part := strings.Split(text, ":")
	if len(part) < 3 || len(part) > 4 || len(part) == 4 && part[3] != "unseen" {
		return fmt.Errorf("%q: want KIND:PORT:COUNT[:unseen]", text)
	}
	if !slices.Contains([]string{"syn", "synack", "fin", "rst", "data", "udp"}, part[0]) {
		return fmt.Errorf("%q: unknown kind %q", text, part[0])
	}
	port, err := strconv.ParseUint(part[1], 10, 16)
	if err != nil {
		return fmt.Errorf("%q: port: %w", text, err)
	}
	count, err := strconv.Atoi(part[2])
	if err != nil {
		return fmt.Errorf("%q: count: %w", text, err)
	}
	rule := &loss{kind: part[0], port: uint16(port), left: count, verdict: lost}
	if len(part) == 4 {
		rule.verdict = unseen
	}
	*l = append(*l, rule)
	return nil
}

// decide returns the verdict on an Ethernet frame and counts it against its rule.
func (l lossList) decide(data []byte) verdict {
	if len(l) == 0 {
		return carried
	}
	kind, src, dst := classify(data)
	for _, rule := range l {
		if rule.kind == kind && rule.left > 0 && (rule.port == src || rule.port == dst) {
			rule.left--
			return rule.verdict
		}
	}
	return carried
}

// classify returns the kind of a TCP or UDP frame and its ports, and an empty kind for others.
func classify(data []byte) (kind string, src, dst uint16) {
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.NoCopy)
	switch t := p.TransportLayer().(type) {
	case *layers.TCP:
		src, dst = uint16(t.SrcPort), uint16(t.DstPort)
		switch {
		case t.RST:
			kind = "rst"
		case t.SYN && t.ACK:
			kind = "synack"
		case t.SYN:
			kind = "syn"
		case t.FIN:
			kind = "fin"
		case len(t.Payload) > 0:
			kind = "data"
		}
	case *layers.UDP:
		kind, src, dst = "udp", uint16(t.SrcPort), uint16(t.DstPort)
	}
	return kind, src, dst
}
