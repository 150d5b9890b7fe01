// Package console is the interface between weir and the user of the terminal: messages, progress, flags and usage,
// exit codes, and the escaping of text from outside.
package console

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of every verb.
const (
	ExitDone   = 0 // the verb did its work, or was interrupted
	ExitFailed = 1 // an input, an output or Kafka failed
	ExitUsage  = 2 // wrong arguments or settings
)

// RunUntilSignal calls run with a context that SIGINT and SIGTERM cancel, prints its error to stderr and returns
// the exit code. A broken pipe is not a failure.
func RunUntilSignal(verb string, stderr io.Writer, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !IsBrokenPipe(err) {
		Linef(stderr, "weir %s: %v", verb, err)
		return ExitFailed
	}
	return ExitDone
}

// IsBrokenPipe reports whether err means that the reader of an output has closed it, as head(1) does.
func IsBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
