//go:build linux

package main

import (
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func TestALossTakesTheFirstFramesOfItsKindAndPort(t *testing.T) {
	var list lossList
	for _, text := range []string{"synack:81:1", "syn:82:1:unseen", "udp:53:2"} {
		if err := list.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		name  string
		frame []byte
		want  verdict
	}{
		{"SYN to the port of another rule", tcpFrame(t, layers.TCP{SrcPort: 4000, DstPort: 81, SYN: true}), carried},
		{"first SYN+ACK", tcpFrame(t, layers.TCP{SrcPort: 81, DstPort: 4000, SYN: true, ACK: true}), lost},
		{"second SYN+ACK", tcpFrame(t, layers.TCP{SrcPort: 81, DstPort: 4000, SYN: true, ACK: true}), carried},
		{"first SYN", tcpFrame(t, layers.TCP{SrcPort: 4000, DstPort: 82, SYN: true}), unseen},
		{"second SYN", tcpFrame(t, layers.TCP{SrcPort: 4000, DstPort: 82, SYN: true}), carried},
		{"first UDP", udpFrame(t, 4000, 53), lost},
		{"UDP of another port", udpFrame(t, 4000, 54), carried},
		{"second UDP", udpFrame(t, 53, 4000), lost},
		{"third UDP", udpFrame(t, 4000, 53), carried},
		{"no IP", make([]byte, 60), carried},
	}
	for _, s := range steps {
		if got := list.decide(s.frame); got != s.want {
			t.Errorf("%s: verdict %d, want %d", s.name, got, s.want)
		}
	}
}

func TestAWrongLossIsRefused(t *testing.T) {
	for _, text := range []string{"", "syn", "syn:80", "syn:x:1", "syn:80:x", "syn:70000:1", "ack:80:1", "syn:80:1:later"} {
		var list lossList
		if err := list.Set(text); err == nil {
			t.Errorf("-lose %q was taken", text)
		}
	}
}

func tcpFrame(t *testing.T, tcp layers.TCP) []byte {
	t.Helper()
	return encode(t, layers.IPProtocolTCP, &tcp)
}

func udpFrame(t *testing.T, src, dst layers.UDPPort) []byte {
	t.Helper()
	return encode(t, layers.IPProtocolUDP, &layers.UDP{SrcPort: src, DstPort: dst})
}

func encode(t *testing.T, proto layers.IPProtocol, transport gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: net.IPv4(198, 18, 1, 1), DstIP: net.IPv4(198, 18, 2, 1)}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, eth, ip, transport); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
