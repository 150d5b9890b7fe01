package cli

import (
	"io"
	"testing"

	"weir/internal/cli/capture"
	"weir/pkg/flowpb"
)

// testflows decodes datagrams and files for tests.
var testflows decoder

type decoder struct{}

// OfDatagrams returns the flows of each datagram.
func (decoder) OfDatagrams(t *testing.T, datagrams [][]byte) (all [][]*flowpb.FlowMessage) {
	t.Helper()
	c := &collecting{}
	o := New("test", nil, io.Discard, c)
	for _, d := range datagrams {
		c.all = nil
		if err := o.Datagram(&capture.Datagram{Src: someExporter, Time: 1_790_000_000_000_000_000, Payload: d}); err != nil {
			t.Fatal(err)
		}
		all = append(all, c.all)
	}
	return all
}

// OfFiles returns the flows of captures and files of flows.
func (decoder) OfFiles(paths ...string) []*flowpb.FlowMessage {
	c := &collecting{}
	New("test", nil, io.Discard, c).Run(nil, paths)
	return c.all
}
