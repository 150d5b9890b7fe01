//go:build unix

package rdns

import (
	"errors"
	"syscall"
)

// isEmpty reports whether neither a datagram nor an error waits in a UDP socket. The sockets of package net do not
// block.
func isEmpty(raw syscall.RawConn) (empty bool) {
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		empty = errors.Is(err, syscall.EAGAIN)
	})
	return empty && err == nil
}
