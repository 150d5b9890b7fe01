package ingest

import (
	"context"
	"time"
)

// reread is the interval at which EXPORTERS_FILE is checked for changes.
const reread = 10 * time.Second

// rereader checks EXPORTERS_FILE for changes until ctx ends.
// Workers read the table of the file through an atomic pointer and see a change with their next datagram.
func (r *Replica) rereader(ctx context.Context) error {
	if r.c.ExportersFile == "" {
		return nil
	}
	return runEvery(ctx, reread, r.reread)
}

// reread loads EXPORTERS_FILE if it has changed. It logs and counts a repeated failure only once.
func (r *Replica) reread() {
	changed, err := r.file.Reload()
	switch {
	case err != nil && r.fileFailures.IsNew(err, time.Time{}):
		r.metrics.reloads.WithLabelValues("failed").Inc()
		r.log.Error("the exporters file is wrong: its last valid content stays in force", "err", err)
	case changed:
		r.metrics.reloads.WithLabelValues("ok").Inc()
		r.log.Info("the exporters file has changed", "entries", r.file.Table().Len())
	}
	if err == nil {
		r.fileFailures.Recovered()
	}
}

// runEvery calls f at the interval d until ctx ends.
// The first call is after d. While f runs ticks are dropped, not queued. f must return soon after ctx ends.
func runEvery(ctx context.Context, d time.Duration, f func()) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f()
		}
	}
}
