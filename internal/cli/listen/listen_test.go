package listen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestWhatCameBeforeTheEndIsReadOrCounted sends datagrams to sockets that are not read yet, whose
// buffers have the kernel's minimum: each datagram must be read or counted as dropped.
func TestWhatCameBeforeTheEndIsReadOrCounted(t *testing.T) {
	const each = 300
	s, err := Open(t.Context(), []string{"127.0.0.1:0", "127.0.0.1:0"}, Options{Sockets: 2, Buffer: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	addrs := s.Addresses()
	if len(addrs) != 2 || s.String() != addrs[0].String()+" and "+addrs[1].String() {
		t.Fatalf("%v, %q: want two addresses", addrs, s)
	}
	for _, a := range addrs {
		c, err := net.Dial("udp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		for range each {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.Close()
	}
	var read, handlers atomic.Int64
	ended, end := context.WithCancel(t.Context())
	end()
	s.Receive(ended, time.Second, func() Handler {
		handlers.Add(1)
		return func(pkt []byte, from netip.AddrPort, at time.Time) {
			if len(pkt) != 1000 || from.Addr() != netip.MustParseAddr("127.0.0.1") || at.IsZero() {
				t.Errorf("%d octets of %v at %v", len(pkt), from, at)
			}
			read.Add(1)
		}
	}, func(err error) { t.Error(err) })
	drops := int64(s.Drops())
	if read.Load() == 0 || drops == 0 || read.Load()+drops != 2*each || handlers.Load() != int64(len(s)) {
		t.Errorf("%d read by %d handlers, %d dropped: want %d together, by one of each of %d sockets", read.Load(), handlers.Load(), drops, 2*each, len(s))
	}
	for _, part := range []string{fmt.Sprintf("the kernel dropped %d datagrams", drops), "raise net.core.rmem_max"} {
		if !strings.Contains(s.DropsText(), part) {
			t.Errorf("want %q in %q", part, s.DropsText())
		}
	}
}

func TestAddressesOfTheFlag(t *testing.T) {
	for a, want := range map[string]string{
		":2055": "[::]:2055", "127.0.0.1:2055": "127.0.0.1:2055", "[::1]:2055": "[::1]:2055", "[::ffff:192.0.2.1]:1": "192.0.2.1:1",
	} {
		if got, err := resolve(a); err != nil || got.String() != want {
			t.Errorf("%s: want %s, got %v, %v", a, want, got, err)
		}
	}
	for _, a := range []string{"nonsense", "127.0.0.1", ":http-is-none"} {
		if _, err := Open(t.Context(), []string{a}, Options{}); err == nil || !strings.Contains(err.Error(), "--listen "+a+": want host:port") {
			t.Errorf("%s: got %v", a, err)
		}
	}
}
