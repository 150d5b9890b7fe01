package cli

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/caarlos0/env/v11"

	"weir/internal/annotate/rdns"
	"weir/internal/cli/console"
	"weir/internal/settings"
	"weir/pkg/flowpb"
)

// namingAtMost bounds how long names are waited for.
const namingAtMost = 10 * time.Second

// nameThem asks for the names of all ends in list, as DNS_* of environ says, and
// waits until every one is answered or given up.
func nameThem(list []*flowpb.Connection, environ []string, stderr io.Writer) error {
	c, err := settings.Parse[struct {
		DNS rdns.Config `envPrefix:"DNS_"`
	}](env.ToMap(environ))
	if err != nil || !c.DNS.Enabled {
		return err
	}
	ends := map[netip.Addr][]*flowpb.Endpoint{}
	for _, c := range list {
		for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
			if a, ok := netip.AddrFromSlice(e.GetAddress()); ok {
				ends[a] = append(ends[a], e)
			}
		}
	}
	c.DNS.Queue, c.DNS.CacheSize = max(c.DNS.Queue, len(ends)), max(c.DNS.CacheSize, len(ends))
	r, err := rdns.New(c.DNS)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), namingAtMost)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.Run(ctx) // ends with ctx, without an error
	}()
	for a := range ends {
		r.Want(a)
	}
	show := console.NewProgress(stderr)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for left := len(ends); left > 0 && ctx.Err() == nil; {
		left = 0
		for a := range ends {
			if r.Peek(a).Status == flowpb.NameStatus_NAME_STATUS_PENDING {
				left++
			}
		}
		if left > 0 {
			show.Count("asking for names: %d of %d addresses", len(ends)-left, len(ends))
			select {
			case <-ctx.Done():
				console.Linef(stderr, "weir connections: %d of %d names were not answered within %v: left out (-n asks for none)", left, len(ends), namingAtMost)
			case <-tick.C:
			}
		}
	}
	show.Clear()
	for a, list := range ends {
		n := r.Peek(a)
		for _, e := range list {
			e.Name, e.NameStatus, e.NameVerified, e.NameSource = n.Name, n.Status, n.Verified, n.Source
		}
	}
	cancel()
	<-ended
	return nil
}
