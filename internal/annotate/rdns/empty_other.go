//go:build !unix

package rdns

import "syscall"

// isEmpty returns false: it is not known whether a datagram waits. Each socket carries a single query then.
func isEmpty(syscall.RawConn) bool { return false }
