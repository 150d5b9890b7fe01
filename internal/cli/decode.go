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

const decodeAbout = `Prints what export datagrams hold: flows, options data, templates and errors, one
line each in the order of the input. FILE is a pcap or pcapng capture, also
compressed with gzip, or hex text of one datagram a line; "-" reads hex text or
a capture from standard input. All UDP payloads of a capture are decoded, unless
--port says which.

Data that comes before its template is decoded when the template has come, and
printed then. The last line on standard error counts what there was; undecoded
are data sets whose template was nowhere in the input.

exit code: 0 the input could be read, whatever it held (of a capture that is cut,
what is whole); 1 it could not; 2 wrong usage`

// runDecode is the verb decode.
func runDecode(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("decode", "[--json] [--hex HEX]... [--port N] [--exporters FILE] [--templates FILE] [--uptime-max-age DURATION] [FILE]...", decodeAbout)
	asJSON := f.Bool("json", false, "print JSON Lines; keys of a flow are the names of FlowMessage's fields")
	var hexes []string
	f.Func("hex", "decode `HEX`, one datagram, before any FILE; may be repeated", func(s string) error {
		hexes = append(hexes, s)
		return nil
	})
	port, named, age := offline.PortFlag(f, "port"), offline.ExportersFlag(f), offline.UptimeAgeFlag(f)
	var static []text.Entry
	f.Func("templates", "use the templates of `FILE` where the input has none of that id (TEMPLATES_FILE of ingest; the form is that of this verb's output)", func(path string) error {
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
