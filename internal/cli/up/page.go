package up

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listenPage opens the listener of the page.
func listenPage(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--page %s: the port is in use, perhaps by another weir up: "+
			"choose another address, or '' for none", addr)
	case err != nil:
		return nil, fmt.Errorf("--page %s: want host:port, or '' for none: %w", addr, err)
	}
	return l, nil
}
