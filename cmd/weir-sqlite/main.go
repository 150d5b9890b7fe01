// Command weir-sqlite keeps the messages of a topic in an SQLite database. It is
// what weir sink sqlite runs, and a program of its own since the database is more
// code than all of weir.
package main

import (
	"context"
	"os"

	"weir/internal/cli"
	"weir/internal/cli/sink"
	"weir/internal/cli/sink/sqlite"
)

func main() {
	os.Exit(cli.SQLite(os.Args[1:], os.Stdout, os.Stderr, func(ctx context.Context, o sink.Options) (sink.Sink, error) {
		return sqlite.Open(ctx, o)
	}))
}
