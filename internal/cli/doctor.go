package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/offline"
)

const doctorAbout = `Examines export datagrams and reports, for each exporter, version and observation
domain, configuration errors that make figures wrong or lose flows, and the change to
make on the device: a missing sampling rate or interface, a wrong clock, templates
that are sent too rarely, flows without times, elements without a name, counters of
zero, flows metered twice, conversations observed in one direction only, gaps in the
sequence numbers, octets that cannot be decoded.

FILE is a pcap or pcapng capture of export datagrams, also compressed with gzip or
zstd, or a file that weir collect wrote; "-" reads a capture from standard input. Without FILE,
--listen receives on UDP for --for, or until Ctrl-C.

exit code: 0 the input was read, whatever the findings; 1 it could not be read; 2 wrong usage`

// runDoctor implements the verb doctor.
func runDoctor(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("doctor",
		"[--json] [--port N] [--exporters FILE] FILE... | --listen LIST [--for DURATION]", doctorAbout)
	o := doctorOptions{}
	f.BoolVar(&o.json, "json", false, "print JSON Lines, a finding per line")
	listen := f.String("listen", "",
		"receive on the comma-separated `LIST` of UDP addresses (:2055,:4739) instead of reading a FILE")
	f.DurationVar(&o.period, "for", time.Minute, "with --listen, receive for `DURATION` (default 1m)")
	port, named := offline.PortFlag(f, "port"), offline.ExportersFlag(f)
	files, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case *listen == "" && len(files) == 0:
		return f.UsageError(stderr, "no FILE and no --listen")
	case *listen != "" && len(files) > 0:
		return f.UsageError(stderr, fmt.Sprintf("--listen and FILE %q: want only one of these", files[0]))
	case *listen != "" && *port != 0:
		return f.UsageError(stderr, "--port is for captures; --listen names its ports itself")
	case *listen == "" && f.IsSet("for"):
		return f.UsageError(stderr, "--for is for --listen")
	case o.period <= 0:
		return f.UsageError(stderr, fmt.Sprintf("--for %v: want more than 0s", o.period))
	}
	c := newExamination("doctor", stdin, stderr, time.Now())
	c.in.Port = *port
	named.Apply(&c.in.Decoder)
	if *listen != "" {
		o.listen = strings.Split(*listen, ",")
		code = console.RunUntilSignal("doctor", stderr, func(ctx context.Context) error {
			return c.receiveFor(ctx, o, stderr)
		})
		_ = c.in.Finish() // Consume and Flush never fail
	} else {
		code = c.in.Run(nil, files)
	}
	if err := c.print(stdout, o.json); err != nil && !console.IsBrokenPipe(err) {
		console.Linef(stderr, "weir doctor: standard output: %v", err)
		return console.ExitFailed
	}
	console.Linef(stderr, "%s", c.in.Summary())
	return code
}
