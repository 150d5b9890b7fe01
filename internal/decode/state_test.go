package decode

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// memory is the plainest State: the last definition counts.
type memory struct {
	plans map[TemplateKey]*Plan
	facts map[TemplateKey]*Facts
}

func newMemory() *memory {
	return &memory{map[TemplateKey]*Plan{}, map[TemplateKey]*Facts{}}
}

func (m *memory) Plan(k *TemplateKey, _ *Meta, _ *Header) *Plan { return m.plans[*k] }

func (m *memory) Learn(k *TemplateKey, _ *Meta, _ *Header, t *Template) (*Plan, error) {
	p, err := Compile(k.Version, t)
	if err == nil {
		m.plans[*k] = p
	}
	return p, err
}

func (m *memory) Facts(k *TemplateKey) *Facts {
	if f := m.facts[*k]; f != nil {
		return f
	}
	return &noFacts
}

func (m *memory) LearnFact(k *TemplateKey, _ *Meta, _ *Header, f OptionsFact) {
	if m.facts[*k] == nil {
		m.facts[*k] = &Facts{}
	}
	m.facts[*k].Set(&f)
}

// captured returns the UDP payloads of a pcap file.
func captured(t testing.TB, path string) [][]byte {
	t.Helper()
	var all [][]byte
	for _, p := range packets(t, path) {
		all = append(all, p.payload)
	}
	return all
}

// A udpPacket is a datagram of a pcap file.
type udpPacket struct {
	src     string
	payload []byte
}

func packets(t testing.TB, path string) (all []udpPacket) {
	t.Helper()
	f, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := pcapgo.NewReader(bytes.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, _, err := rd.ReadPacketData()
		if err != nil {
			return all
		}
		p := gopacket.NewPacket(data, rd.LinkType(), gopacket.NoCopy)
		if u, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); ok {
			all = append(all, udpPacket{p.NetworkLayer().NetworkFlow().Src().String(), u.Payload})
		}
	}
}

// captures are the pcap files of a folder; the test is skipped when there is none.
func captures(t testing.TB, dir string) []string {
	t.Helper()
	list, _ := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if len(list) == 0 {
		t.Skipf("SKIPPED: no captures in %s", dir)
	}
	return list
}

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hexFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return fromHex(t, string(b))
}
