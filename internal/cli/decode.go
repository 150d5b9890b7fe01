package cli

import (
	"fmt"
	"io"
	"os"

	"weir/internal/cli/console"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/templates/text"
)

const decodeAbout = `Prints the content of export datagrams: flows, options data, templates and errors,
one line each in the order of the input. FILE is a pcap or pcapng capture, also
compressed with gzip or zstd, or hex text with one datagram a line; "-" reads hex text or
a capture from standard input. All UDP payloads of a capture are decoded, unless
--port selects a port.

Data that arrives before its template is decoded and printed after the template.
The last line on standard error has the totals; undecoded are data sets whose
template is missing in the input.

exit code: 0 the input was read, whatever its content (a truncated capture up to
its last complete packet); 1 it could not be read; 2 wrong usage`

// runDecode implements the verb decode.
func runDecode(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("decode", "[--json] [--hex HEX]... [--port N] [--exporters FILE] [--templates FILE] "+
		"[--uptime-max-age DURATION] [FILE]...", decodeAbout)
	asJSON := f.Bool("json", false, "print JSON Lines; keys of a flow are the names of FlowMessage's fields")
	var hexes []string
	f.Func("hex", "decode `HEX`, one datagram, before any FILE; may be repeated", func(s string) error {
		hexes = append(hexes, s)
		return nil
	})
	port, named, age := offline.PortFlag(f, "port"), offline.ExportersFlag(f), offline.UptimeAgeFlag(f)
	var static []text.Entry
	const templatesUsage = "use the templates of `FILE` for ids without a template in the input " +
		"(TEMPLATES_FILE of ingest; in the form of this verb's output)"
	f.Func("templates", templatesUsage, func(path string) error {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }() // read only
		all, err := text.Parse(in)
		static = append(static, all...)
		return err
	})
	files, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	if len(files) == 0 && len(hexes) == 0 {
		return f.UsageError(stderr, "no FILE and no --hex")
	}
	o := offline.New("decode", stdin, stderr, nil)
	o.Out = report.NewRecordText(stdout, o.Template)
	if *asJSON {
		o.Out = report.NewRecordJSON(stdout, o.Template)
	}
	o.Port, o.Decoder.MaxUptimeAge = *port, *age
	for i := range static {
		e := &static[i]
		if err := o.Store.AddStatic(e.Exporter, e.Version, e.Domain, &e.Template); err != nil {
			return f.UsageError(stderr, fmt.Sprintf("--templates: template %d: %v", e.Template.ID, err))
		}
	}
	named.Apply(&o.Decoder)
	code = o.Run(hexes, files)
	console.Linef(stderr, "%s", o.Summary())
	return code
}
