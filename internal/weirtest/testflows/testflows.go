// Package testflows decodes datagrams and files for tests, as weir does offline.
package testflows

import (
	"io"
	"net/netip"
	"testing"

	"weir/internal/cli/capture"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// source is the exporter of datagrams without a capture.
var source = netip.MustParseAddrPort("127.0.0.1:40000")

// A messages keeps flows.
type messages struct{ all []*flowpb.FlowMessage }

func (c *messages) Consume(_ report.Origin, r *decode.Result) error {
	c.all = append(c.all, r.Messages...)
	return nil
}

func (c *messages) Flush() error { return nil }

// OfDatagrams returns the flows of each datagram. All are of one exporter, received at one time.
func OfDatagrams(t testing.TB, datagrams [][]byte) (all [][]*flowpb.FlowMessage) {
	t.Helper()
	c := &messages{}
	o := offline.New("test", nil, io.Discard, c)
	for _, d := range datagrams {
		c.all = nil
		if err := o.Datagram(&capture.Datagram{Src: source, Time: 1_790_000_000_000_000_000, Payload: d}); err != nil {
			t.Fatal(err)
		}
		all = append(all, c.all)
	}
	return all
}

// OfFiles returns the flows of captures and of files of flows. What cannot be read is left out.
func OfFiles(paths ...string) []*flowpb.FlowMessage {
	c := &messages{}
	offline.New("test", nil, io.Discard, c).Run(nil, paths)
	return c.all
}
