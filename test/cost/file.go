package main

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// save writes the datagrams of a finding, a line each: transport, source, milliseconds since the
// previous datagram, octets in hex. Lines with # are comments.
func save(path string, f *finding) error {
	var b strings.Builder
	if f.metric != nil {
		fmt.Fprintf(&b, "# %s\n", describe(f.metric, &f.cost))
	}
	for _, p := range f.genome.render() {
		transport := "udp"
		if p.stream {
			transport = "tcp"
		}
		fmt.Fprintf(&b, "%s %s %d %x\n", transport, p.from, p.gap, p.octets)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o640)
}

// load reads a file that save wrote.
func load(path string) (out []packet, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		var p packet
		var transport, from, octets string
		if _, err := fmt.Sscan(line, &transport, &from, &p.gap, &octets); err != nil {
			return nil, fmt.Errorf("%s:%d: want transport, source, milliseconds, octets: %w", path, n+1, err)
		}
		p.stream = transport == "tcp"
		if p.from, err = netip.ParseAddrPort(from); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		if p.octets, err = hex.DecodeString(octets); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		out = append(out, p)
	}
	return out, nil
}
