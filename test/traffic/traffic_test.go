// Package traffic holds the captures of testdata/traffic to their description and keeps private data out of them.
package traffic

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

var update = flag.Bool("update", false, "write the table of README.md")

const (
	folder = "../../testdata/traffic"
	// All captures together stay below this size.
	maxOctets = 3 << 20
)

// capture is what one file holds.
type capture struct {
	frames   [][]byte
	seconds  int
	octets   int64
	tcp, udp map[string]bool // pairs of endpoints
}

func TestTheReadmeSaysWhatTheCapturesHold(t *testing.T) {
	var table bytes.Buffer
	table.WriteString("| capture | packets | seconds | TCP pairs of endpoints | UDP pairs of endpoints |\n|---|--:|--:|--:|--:|\n")
	var total int64
	for _, path := range paths(t) {
		c := read(t, path)
		total += c.octets
		fmt.Fprintf(&table, "| %s | %d | %d | %d | %d |\n", filepath.Base(path), len(c.frames), c.seconds, len(c.tcp), len(c.udp))
	}
	if total > maxOctets {
		t.Errorf("the captures have %d octets, more than %d", total, maxOctets)
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?s)(<!-- captures: [^\n]*-->\n).*?(<!-- end -->)`)
	if !block.Match(text) {
		t.Fatal("README.md has no place for the table of captures")
	}
	want := block.ReplaceAll(text, []byte("${1}\n"+table.String()+"\n${2}"))
	if *update {
		if err := os.WriteFile("README.md", want, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, want) {
		t.Errorf("README.md is not up to date: go test ./test/traffic -update\n%s", table.String())
	}
}

// The hosts of the captures have addresses of RFC 2544 and RFC 3849 only, and local MAC addresses.
func TestCapturesHoldNoForeignAddresses(t *testing.T) {
	own := []netip.Prefix{
		netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::/128"),
		netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"),
	}
	for _, path := range paths(t) {
		for i, frame := range read(t, path).frames {
			p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
			if mac := p.LinkLayer().LinkFlow().Src().Raw(); !bytes.Equal(mac[:5], []byte{2, 0, 0, 0, 0}) {
				t.Errorf("%s: frame %d is from MAC address %x", path, i+1, mac)
			}
			if p.NetworkLayer() == nil {
				continue // ARP
			}
			flow := p.NetworkLayer().NetworkFlow()
			for _, end := range []gopacket.Endpoint{flow.Src(), flow.Dst()} {
				a, _ := netip.AddrFromSlice(end.Raw())
				if !within(own, a) {
					t.Errorf("%s: frame %d has address %v", path, i+1, a)
				}
			}
		}
	}
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// What can be a password is of anonymous FTP only, and no text names the machine that made the captures.
func TestCapturesHoldNoPasswords(t *testing.T) {
	secret := regexp.MustCompile(`(?i)(?:\bPASS |\bAUTH (?:LOGIN|PLAIN)|\bAuthorization:|\bCookie:)[^\r\n]*`)
	// Of curl, lftp, and the text of an error of the server.
	anonymous := regexp.MustCompile(`^PASS (?:ftp@example\.com|lftp@|first\.)$`)
	for _, path := range paths(t) {
		for i, frame := range read(t, path).frames {
			for _, found := range secret.FindAll(frame, -1) {
				if !anonymous.Match(found) {
					t.Errorf("%s: frame %d holds %q", path, i+1, found)
				}
			}
		}
	}
}

func paths(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(folder + "/*.pcap")
	if err != nil || len(list) == 0 {
		t.Fatalf("no captures in %s: %v", folder, err)
	}
	return list
}

func read(t *testing.T, path string) (c capture) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	c = capture{octets: int64(len(b)), tcp: map[string]bool{}, udp: map[string]bool{}}
	var first, last gopacket.CaptureInfo
	for {
		frame, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(c.frames) == 0 {
			first = info
		}
		if info.Timestamp.Before(last.Timestamp) {
			t.Errorf("%s: frame %d is out of order", path, len(c.frames)+1)
		}
		last = info
		c.frames = append(c.frames, frame)
		c.count(frame)
	}
	c.seconds = int(last.Timestamp.Sub(first.Timestamp).Seconds())
	return c
}

func (c *capture) count(frame []byte) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if p.TransportLayer() == nil {
		return
	}
	net, ports := p.NetworkLayer().NetworkFlow(), p.TransportLayer().TransportFlow()
	ends := []string{net.Src().String() + " " + ports.Src().String(), net.Dst().String() + " " + ports.Dst().String()}
	if ends[0] > ends[1] {
		ends[0], ends[1] = ends[1], ends[0]
	}
	switch p.TransportLayer().LayerType() {
	case layers.LayerTypeTCP:
		c.tcp[strings.Join(ends, " ")] = true
	case layers.LayerTypeUDP:
		c.udp[strings.Join(ends, " ")] = true
	}
}
