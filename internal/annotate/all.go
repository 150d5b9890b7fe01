package annotate

import (
	"context"
	"net/netip"
	"time"

	"weir/pkg/flowpb"
)

// pollEvery is the interval at which All polls for answers.
const pollEvery = 20 * time.Millisecond

// All annotates a finite list of connections. It asks for the names of all their ends and waits until each is
// answered or ctx ends. It returns the number of addresses, and the number of addresses without an answer by
// then: their status is PENDING, or UNSPECIFIED where ctx ended before they were asked for. All must not be
// called while Run is running. progress is called while All waits, with the numbers of addresses answered and
// asked for so far.
func (a *Annotator) All(
	ctx context.Context, list []*flowpb.Connection, progress func(answered, asked int),
) (addresses, unanswered int) {
	if !a.dns {
		for _, c := range list {
			a.Annotate(c)
		}
		return 0, 0
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Names.Run(run) // returns nil once run ends
	}()
	defer func() {
		stop()
		<-ended
	}()
	for len(list) > 0 { // in batches whose addresses fit into the queue
		n := min(len(list), max(1, a.batch))
		asked, left := a.wait(ctx, list[:n], func(left, asked int) {
			progress(addresses-unanswered+asked-left, addresses+asked)
		})
		addresses += asked
		unanswered += left
		for _, c := range list[:n] {
			a.Annotate(c)
		}
		list = list[n:]
	}
	return addresses, unanswered
}

// wait asks for the names of the ends in list. It returns the number of their addresses, and the number of these
// that had no answer when ctx ended.
func (a *Annotator) wait(
	ctx context.Context, list []*flowpb.Connection, progress func(left, asked int),
) (asked, left int) {
	open := map[netip.Addr]struct{}{}
	for _, c := range list {
		for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
			if address, ok := netip.AddrFromSlice(e.GetAddress()); ok {
				open[address] = struct{}{}
			}
		}
	}
	asked = len(open)
	if ctx.Err() != nil {
		return asked, asked
	}
	for address := range open {
		a.Want(address)
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		for address := range open {
			if a.Names.Peek(address).Status != flowpb.NameStatus_NAME_STATUS_PENDING {
				delete(open, address)
			}
		}
		if len(open) == 0 {
			return asked, 0
		}
		progress(len(open), asked)
		select {
		case <-ctx.Done():
			return asked, len(open)
		case <-tick.C:
		}
	}
}
