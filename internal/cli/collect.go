package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"weir/internal/cli/collect"
	"weir/internal/cli/console"
	"weir/internal/cli/flowfile"
	"weir/internal/cli/offline"
)

const collectAbout = `Receives NetFlow and IPFIX over UDP and writes the flows to a file, without Kafka:
JSON Lines, a flow a line, keys the names of FlowMessage's fields. A file called
.zst or .gz is compressed. What came within a second is written as a block of its
own; after kill -9 the file reads up to the last one. weir connections, flows and
decode read such files.

When the file is full or old enough it is put aside, the time at which it was begun
in its name (flows-20261126T170500Z.jsonl.zst), and another one is begun; what an
earlier run left is put aside too. A disk that takes nothing is told of, and tried
again; up to 64 MiB of flows are kept meanwhile.

Data that comes before its template waits for it, ten minutes at most. SIGINT and
SIGTERM end it; it says then what was received, lost, dropped by the kernel and not
understood.

exit code: 0 ended as told; 1 it could not receive or write; 2 wrong usage`

// runCollect is the verb collect.
func runCollect(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("collect", "--out FILE [flag]...", collectAbout)
	var o collect.Options
	listen := f.String("listen", ":2055,:4739", "comma-separated `LIST` of UDP addresses to receive on (default :2055,:4739)")
	f.StringVar(&o.Path, "out", "", "`FILE` to write: .jsonl, .jsonl.gz or .jsonl.zst")
	o.File = flowfile.Options{Octets: 1e9, Every: 24 * time.Hour}
	f.Func("rotate-size", "begin another file once one has `SIZE` octets (500MB, 2GiB; default 1GB; 0: never)", func(s string) (err error) {
		o.File.Octets, err = console.ParseOctets(s)
		return err
	})
	f.DurationVar(&o.File.Every, "rotate-every", o.File.Every, "begin another file once one is as old as `DURATION` (default 24h; 0: never)")
	o.Exporters, o.MaxUptimeAge = offline.ExportersFlag(f), offline.UptimeAgeFlag(f)
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(rest) > 0:
		return f.UsageError(stderr, fmt.Sprintf("no argument wanted, got %q", rest[0]))
	case o.Path == "":
		return f.UsageError(stderr, "no --out FILE")
	case o.File.Every < 0:
		return f.UsageError(stderr, fmt.Sprintf("--rotate-every %v: want 0 or more", o.File.Every))
	}
	o.Listen = strings.Split(*listen, ",")
	return console.RunUntilSignal("collect", stderr, func(ctx context.Context) error { return collect.Run(ctx, o, stderr) })
}
