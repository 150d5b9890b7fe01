package ingest

import (
	"cmp"
	"fmt"
	"strings"
)

// What a part needs beside what it is told in, as measured: see docs/receiving.md.
const (
	perBufferedOctet = 6       // of a flow that waits for Kafka: its datagram's buffer, the client's records
	perParkedOctet   = 2       // of a set: what describes it
	perDefinition    = 1 << 10 // octets of a definition or fact
	perConnection    = 160 << 10
	always           = 128 << 20 // the program, clients, socket buffers, accounting
)

// A share is the memory that a part may take, octets.
type share struct {
	variables string // what says so
	octets    int
}

// shares are the parts' shares, and what they come to, octets.
func (c *Config) shares() (s []share, sum int) {
	s = []share{
		{"PRODUCE_MAX_OCTETS", perBufferedOctet * cmp.Or(c.MaxOctets, 64<<20)},
		{"PARK_MAX_OCTETS", perParkedOctet * cmp.Or(c.ParkMax, 64<<20)},
		{"UNDECODED_BURST", perParkedOctet * c.Undecoded.Burst},
		{"TEMPLATES_MAX", perDefinition * cmp.Or(c.Templates.Max, 1_000_000)},
	}
	if len(c.Streams.TCP)+len(c.Streams.TLS) > 0 {
		s = append(s, share{"TCP_MAX_CONNECTIONS", perConnection * cmp.Or(c.Streams.Max, 1024)})
	}
	s = append(s, share{"everything else", always})
	for _, part := range s {
		sum += part.octets
	}
	return s, sum
}

// memory is what the process may take, octets: MEMORY_MAX, or what the parts come to.
func (c *Config) memory() int {
	if c.MemoryMax > 0 {
		return c.MemoryMax
	}
	_, sum := c.shares()
	return sum
}

// validateMemory wants the parts to fit into the whole.
func (c *Config) validateMemory() error {
	if c.MemoryMax < 0 {
		return fmt.Errorf("MEMORY_MAX=%d: want 0 (what the parts come to) or more octets", c.MemoryMax)
	}
	shares, sum := c.shares()
	if c.MemoryMax == 0 || sum <= c.MemoryMax {
		return nil
	}
	var parts []string
	for _, s := range shares {
		parts = append(parts, fmt.Sprintf("%s %d MiB", s.variables, s.octets>>20))
	}
	return fmt.Errorf("MEMORY_MAX=%d (%d MiB): its parts may need %d MiB: lower them or raise it (%s)", c.MemoryMax, c.MemoryMax>>20, sum>>20, strings.Join(parts, ", "))
}
