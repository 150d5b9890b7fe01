package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// untilEnd runs a verb until it is done or told to end.
func untilEnd(verb string, stderr io.Writer, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !brokenPipe(err) {
		tell(stderr, "weir %s: %v", verb, err)
		return exitFailed
	}
	return exitDone
}

// brokenPipe tells of a reader that has seen enough.
func brokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
