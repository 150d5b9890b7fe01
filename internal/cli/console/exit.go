package console

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
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// RunUntilSignal runs a verb until it is done or told to end.
func RunUntilSignal(verb string, stderr io.Writer, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !IsBrokenPipe(err) {
		Linef(stderr, "weir %s: %v", verb, err)
		return ExitFailed
	}
	return ExitDone
}

// IsBrokenPipe tells of a reader that has seen enough.
func IsBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
