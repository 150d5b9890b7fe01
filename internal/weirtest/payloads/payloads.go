// Package payloads reads captures for tests.
package payloads

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"weir/internal/cli/capture"
)

// Of returns the UDP payloads of a capture, in its order.
func Of(t testing.TB, path string) (all [][]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	r, err := capture.Open(f, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		var d capture.Datagram
		if err := r.Next(&d); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, bytes.Clone(d.Payload))
	}
}

// Send sends datagrams to a UDP address, slowly enough for a receiver with a small buffer.
func Send(t testing.TB, to net.Addr, datagrams [][]byte) {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i, d := range datagrams {
		if i%20 == 19 {
			time.Sleep(2 * time.Millisecond)
		}
		if _, err := c.Write(d); err != nil {
			t.Fatal(err)
		}
	}
}
