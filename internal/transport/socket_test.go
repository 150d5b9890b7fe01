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

// TestTheKernelsDropsAreCounted: what was sent over loopback is read or was dropped. Nothing comes
// after the flood, so that no later datagram can bring the count.
func TestTheKernelsDropsAreCounted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux tells what it dropped")
	}
	const sent = 500
	all, err := ListenUDP(t.Context(), anyPort, 1, 1) // the kernel makes that its least, some KiB
	if err != nil {
		t.Fatal(err)
	}
	defer CloseSockets(all)
	s := all[0]
	flood(t, s.Address, sent)
	ended, end := context.WithCancel(t.Context())
	end() // what is in the buffer is read after that
	read := 0
	s.Read(ended, time.Second, func([]byte, netip.AddrPort) { read++ }, func(err error) { t.Error(err) })
	if n := s.Drops(); read == 0 || n == 0 || read+int(n) != sent {
		t.Errorf("%d read, %d dropped: want %d together, and some of each", read, n, sent)
	}
	before := s.Drops()
	s.Close()
	if n := s.Drops(); n != before {
		t.Errorf("%d dropped, %d once it is closed: want the same", before, n)
	}
}

// TestTheCountOfDropsOutlivesTheKernelsCounter: the kernel's has 32 bits.
func TestTheCountOfDropsOutlivesTheKernelsCounter(t *testing.T) {
	var d dropCount
	for _, n := range []uint32{1 << 31, 1<<32 - 1, 4} {
		d.set(n)
	}
	if d.total != 1<<32+4 {
		t.Errorf("want 2^32+4, got %d", d.total)
	}
}

// TestAPortIsNotSharedWithAnotherProcess: SO_REUSEPORT would allow it.
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
