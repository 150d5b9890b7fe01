// Command weir-sqlite stores the messages of a topic in an SQLite database. weir sink sqlite executes it. It is a
// separate program because the database engine is larger than all other code of weir.
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
