package ingest

import (
	"context"
	"slices"
	"time"

	"weir/internal/decode"
)

// schedule requests passes until ctx ends: after the arrival of a definition that sets wait for, after the
// rest of a partition, and every passEvery.
func (u *undecoded) schedule(ctx context.Context) {
	// rested finds partitions whose rest is over; t is for expiry, and for partitions with incomplete lists.
	t, rested := time.NewTicker(passEvery), time.NewTicker(passRestMost/40)
	defer t.Stop()
	defer rested.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rested.C:
			u.requestPasses(func(w *waitingFor) bool { return w.wanted })
		case <-t.C:
			u.requestPasses(func(w *waitingFor) bool { return len(w.templates) > 0 || w.more })
		case <-u.checkNow:
			// A signal may stand for several definitions; takeAll returns them all.
			exporters, all := u.changed.takeAll()
			looked := 0
			u.requestPasses(func(w *waitingFor) bool { return w.more || u.anyKnown(w, exporters, all, &looked) })
			select {
			case <-ctx.Done():
				return
			// The pause grows with the number of look-ups: a flood of definitions costs at most a tenth of a
			// CPU.
			case <-time.After(checkEvery + time.Duration(looked)*checkRest):
			}
		}
	}
}

// requestPasses requests a pass of each owned partition for which is returns true. is is called with mu
// held.
func (u *undecoded) requestPasses(is func(*waitingFor) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p, w := range u.owned {
		if is(w) {
			u.requestPass(p, w)
		}
	}
}

// requestPass requests a pass of a partition or, before w.notBefore, notes that a pass is wanted. It does not block:
// Session.Pass only marks the partition. The caller must hold mu.
func (u *undecoded) requestPass(partition int32, w *waitingFor) {
	if w.wanted = u.now().Before(w.notBefore); !w.wanted {
		u.session.Pass(partition)
	}
}

// anyKnown reports whether the store knows a template that a partition waits for, among the templates of
// the given exporters or of all. It adds the number of look-ups to looked. The caller must hold mu.
func (u *undecoded) anyKnown(w *waitingFor, exporters [][16]byte, all bool, looked *int) bool {
	known := func(keys map[decode.TemplateKey]int64) bool {
		for k := range keys {
			*looked++
			if u.store.Known(&k, 0) != nil {
				return true
			}
		}
		return false
	}
	if all {
		for _, keys := range w.templates {
			if known(keys) {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(exporters, func(e [16]byte) bool { return known(w.templates[e]) })
}

// delayNextPass postpones the next pass by passRest for each set that was appended again. The delays of
// the transactions of a pass add up.
// A pass that copies many sets and decodes none thereby becomes rare, whoever caused it.
func (w *waitingFor) delayNextPass(now time.Time) {
	if w.notBefore.Before(now) {
		w.notBefore = now
	}
	w.notBefore = earlier(w.notBefore.Add(time.Duration(w.again)*passRest), now.Add(passRestMost))
	w.again = 0
}
