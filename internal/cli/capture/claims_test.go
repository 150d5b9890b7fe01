package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
)

// A file of a few octets may claim a packet or a block of 768 MiB. Memory must grow with the octets read, not with
// the claimed length.
func TestClaimedLengthsTakeNoMemory(t *testing.T) {
	const claim = 0x30000000
	le := binary.LittleEndian
	pcap := func(snap uint32) []byte { // draft-ietf-opsawg-pcap section 4 and 5
		b := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		for _, n := range []uint32{snap, 1, 0, 0, claim, claim} {
			b = le.AppendUint32(b, n)
		}
		return append(b, 1, 2, 3)
	}
	pcapng := func(block uint32) []byte { // draft-ietf-opsawg-pcapng section 4
		b := []byte{
			0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0,
			1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0,
		}
		for _, n := range []uint32{block, claim + 32, 0, 0, 0, claim, claim} {
			b = le.AppendUint32(b, n)
		}
		return append(b, 1, 2, 3, 4)
	}
	for name, b := range map[string][]byte{
		"pcap without a snap length": pcap(0), "pcap of the longest snap length": pcap(1<<32 - 1), "pcap": pcap(65535),
		"enhanced packet": pcapng(6), "simple packet": pcapng(3), "old packet": pcapng(2), "names": pcapng(4), "secrets": pcapng(10), "a block unknown": pcapng(99),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := Open(bytes.NewReader(b), Options{})
		if err == nil {
			var d Datagram
			err = r.Next(&d)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; err == nil || n > 1<<20 {
			t.Errorf("%s: %d octets of a file take %d KiB of memory, %v", name, len(b), n>>10, err)
		}
	}
}

// An interface takes memory for 20 octets of a file, which compress to almost nothing. The number of interfaces
// must be bounded, between two packets and in total.
func TestInterfacesOfAFileAreBounded(t *testing.T) {
	head := []byte{0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 28, 0, 0, 0}
	one := []byte{1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0}
	packet := []byte{6, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4, 36, 0, 0, 0}
	for n, want := range map[int]error{1: io.EOF, maxInterfaces: io.EOF, maxInterfaces + 1: ErrUnsupported, maxGap/20 + 1: ErrUnsupported} {
		r, err := Open(bytes.NewReader(slices.Concat(head, bytes.Repeat(one, n), packet)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		var d Datagram
		if err := r.Next(&d); !errors.Is(err, want) {
			t.Errorf("%d interfaces: want %v, got %v", n, want, err)
		}
	}
}
