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
JSON Lines, a flow a line, with the names of FlowMessage's fields as keys. A file
name ending in .zst or .gz selects compression. A block is written every second;
after kill -9 the file can be read up to its last block. weir connections, flows
and decode read such files.

When the file reaches its size or age it is renamed, with the time of its start in
its name (flows-20261126T170500Z.jsonl.zst), and a new file is begun. A file of an
earlier run is renamed too. When the disk is full, collect reports it and retries;
meanwhile it holds up to 64 MiB of flows in memory.

Data that arrives before its template waits for it, ten minutes at most. SIGINT and
SIGTERM end collect; it then prints the numbers of received and lost records, of
datagrams dropped by the kernel and of undecoded data sets.

exit code: 0 ended by a signal; 1 receiving or writing failed; 2 wrong usage`

// runCollect implements the verb collect.
func runCollect(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("collect", "--out FILE [flag]...", collectAbout)
	var o collect.Options
	listen := f.String("listen", ":2055,:4739",
		"comma-separated `LIST` of UDP addresses to receive on (default :2055,:4739)")
	f.StringVar(&o.Path, "out", "", "`FILE` to write: .jsonl, .jsonl.gz or .jsonl.zst")
	o.File = flowfile.Options{Octets: 1e9, Every: 24 * time.Hour}
	const sizeUsage = "begin a new file at `SIZE` octets (500MB, 2GiB; default 1GB; 0: never)"
	f.Func("rotate-size", sizeUsage, func(s string) (err error) {
		o.File.Octets, err = console.ParseOctets(s)
		return err
	})
	f.DurationVar(&o.File.Every, "rotate-every", o.File.Every,
		"begin a new file at the age `DURATION` (default 24h; 0: never)")
	o.Exporters, o.MaxUptimeAge = offline.ExportersFlag(f), offline.UptimeAgeFlag(f)
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(rest) > 0:
		return f.UsageError(stderr, fmt.Sprintf("unexpected argument %q", rest[0]))
	case o.Path == "":
		return f.UsageError(stderr, "no --out FILE")
	case o.File.Every < 0:
		return f.UsageError(stderr, fmt.Sprintf("--rotate-every %v: want 0 or more", o.File.Every))
	}
	o.Listen = strings.Split(*listen, ",")
	return console.RunUntilSignal("collect", stderr, func(ctx context.Context) error {
		return collect.Run(ctx, o, stderr)
	})
}
