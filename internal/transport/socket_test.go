package transport

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// flood sends n datagrams to a socket that nobody reads.
func flood(t *testing.T, to netip.AddrPort, n int) {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range n {
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheKernelsDropsAreCounted checks that each datagram sent over loopback is either read or counted
// as dropped. No datagram follows the flood, so that none can carry the counter (SO_RXQ_OVFL).
func TestTheKernelsDropsAreCounted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux reports its drops")
	}
	const sent = 500
	all, err := ListenUDP(t.Context(), anyPort, 1, 1) // the kernel raises 1 octet to its minimum, a few KiB
	if err != nil {
		t.Fatal(err)
	}
	defer CloseSockets(all)
	s := all[0]
	flood(t, s.Address, sent)
	ended, end := context.WithCancel(t.Context())
	end() // Read drains the buffer after that
	read := 0
	s.Read(ended, time.Second, func([]byte, netip.AddrPort) { read++ }, func(err error) { t.Error(err) })
	if n := s.Drops(); read == 0 || n == 0 || read+int(n) != sent {
		t.Errorf("%d read, %d dropped: want a sum of %d, and neither 0", read, n, sent)
	}
	before := s.Drops()
	s.Close()
	if n := s.Drops(); n != before {
		t.Errorf("%d dropped, %d after Close: want the same", before, n)
	}
}

// TestTheCountOfDropsOutlivesTheKernelsCounter checks the wrap of the kernel's 32-bit counter.
func TestTheCountOfDropsOutlivesTheKernelsCounter(t *testing.T) {
	var d dropCount
	for _, n := range []uint32{1 << 31, 1<<32 - 1, 4} {
		d.set(n)
	}
	if d.total != 1<<32+4 {
		t.Errorf("want 2^32+4, got %d", d.total)
	}
}

// TestAPortIsNotSharedWithAnotherProcess checks that a port in use is refused although SO_REUSEPORT
// would allow it.
func TestAPortIsNotSharedWithAnotherProcess(t *testing.T) {
	all, err := ListenUDP(t.Context(), anyPort, 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseSockets(all)
	if len(all) == 2 && all[0].Address != all[1].Address {
		t.Errorf("%v and %v: want one address", all[0].Address, all[1].Address)
	}
	if more, err := ListenUDP(t.Context(), all[0].Address, 2, 0); err == nil {
		CloseSockets(more)
		t.Error("a second collector listens on the same port")
	}
}
