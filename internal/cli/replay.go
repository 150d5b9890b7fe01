package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"weir/internal/cli/console"
	"weir/internal/cli/offline"
	"weir/internal/cli/replay"
)

const replayAbout = `Sends the export datagrams of captures (pcap, pcapng, also compressed with gzip
or zstd) again, at the pace at which they were captured: to this host, where weir up listens,
unless --to names another target. Only NetFlow and IPFIX are sent; all datagrams
come from one source port for each exporter of the capture. A collector on this host
identifies exporters by address, so the second and later exporters send from their
own addresses in 127.0.0.0/8.

--rewrite-time moves the times in the datagrams, headers and records, to now. Faster
than captured, the last datagram gets the time at which the replay starts, so that no
time is in the future. Without it a collector may find the times implausibly old.

exit code: 0 all datagrams were sent, or a signal ended it; 1 some could not be read
or sent; 2 wrong usage`

// runReplay implements the verb replay.
func runReplay(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("replay", "[flag]... FILE...", replayAbout)
	p := replay.Options{Speed: 1}
	to := f.String("to", "127.0.0.1:2055", "`HOST:PORT` to send to (default 127.0.0.1:2055)")
	const speedUsage = "send N times as fast as captured, or as fast as possible: `10x`, 0.5x, max (default 1x)"
	f.Func("speed", speedUsage, func(s string) error {
		n, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
		switch {
		case s == "max":
			p.Speed = 0
		case err != nil || !(n > 0 && n <= 1e6):
			return fmt.Errorf("%q: want 10x, 0.5x or max", s)
		default:
			p.Speed = n
		}
		return nil
	})
	f.BoolVar(&p.Loop, "loop", false, "repeat until interrupted by a signal")
	f.BoolVar(&p.RewriteTimes, "rewrite-time", false, "shift the times in the datagrams to the present")
	port := offline.PortFlag(f, "udp-port")
	files, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(files) == 0:
		return f.UsageError(stderr, "no FILE")
	}
	target, err := net.ResolveUDPAddr("udp", *to)
	if err != nil || target.Port == 0 || target.IP == nil {
		return f.UsageError(stderr, fmt.Sprintf("--to %s: want host:port of a collector", *to))
	}
	p.To, p.Port = target, *port
	return console.RunUntilSignal("replay", stderr, func(ctx context.Context) error {
		return replay.Run(ctx, files, p, stderr)
	})
}
