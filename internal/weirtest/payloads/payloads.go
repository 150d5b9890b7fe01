// Package payloads reads captures for tests.
package payloads

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

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
