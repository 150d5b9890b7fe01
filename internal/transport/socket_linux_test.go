package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// An error that concerns one datagram must not end draining: datagrams that the kernel received after it would be lost.
// The error is a real one: with IP_RECVERR (ip(7)) a socket returns ECONNREFUSED after an ICMP "port unreachable".
func TestAnErrorWhileASocketIsDrainedDoesNotEndDraining(t *testing.T) {
	all, err := ListenUDP(t.Context(), anyPort, 1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseSockets(all)
	s := all[0]
	raw, err := s.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1)
	}); err != nil || set != nil {
		t.Fatal(err, set)
	}
	closed, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	unreachable := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	send := func(payload string) {
		t.Helper()
		c, err := net.Dial("udp", s.Address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	handled, failed, ended := make(chan string, 10), make(chan error, 10), make(chan struct{})
	go func() {
		defer close(ended)
		s.Read(ctx, 20*time.Second, func(pkt []byte, _ netip.AddrPort) { handled <- string(pkt) }, func(err error) { failed <- err })
	}()
	receive := func(want string) {
		t.Helper()
		select {
		case got := <-handled:
			if got != want {
				t.Fatalf("want %q, got %q", want, got)
			}
		case <-ended:
			t.Fatalf("draining ended before %q was read", want)
		}
	}
	send("running")
	receive("running")
	end()
	if _, err := s.conn.WriteToUDPAddrPort([]byte("x"), unreachable); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("want %v, got %v", syscall.ECONNREFUSED, err)
		}
	case <-ended:
		t.Fatal("draining ended before the error")
	}
	send("draining")
	receive("draining")
	s.Close()
	<-ended
}
