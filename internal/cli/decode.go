package cli

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"time"

	"weir/internal/decode"
	"weir/internal/exporters"
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
	f := newFlags("decode", "[--json] [--hex HEX]... [--port N] [--exporters FILE] [--templates FILE] [--uptime-max-age DURATION] [FILE]...", decodeAbout)
	asJSON := f.Bool("json", false, "print JSON Lines; keys of a flow are the names of FlowMessage's fields")
	var hexes []string
	f.Func("hex", "decode `HEX`, one datagram, before any FILE; may be repeated", func(s string) error {
		hexes = append(hexes, s)
		return nil
	})
	port, named, age := udpPortFlag(f, "port"), exportersFlag(f), uptimeAgeFlag(f)
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
	files, code, ok := f.parse(args, stdout, stderr)
	if !ok {
		return code
	}
	if len(files) == 0 && len(hexes) == 0 {
		return f.wrong(stderr, "no FILE and no --hex")
	}
	o := newOffline("decode", stdin, stderr, nil)
	o.out = &decodeText{lines: newLines(stdout), of: o.template}
	if *asJSON {
		o.out = &decodeJSON{lines: newLines(stdout), of: o.template}
	}
	o.port, o.decoder.MaxUptimeAge = *port, *age
	for i := range static {
		e := &static[i]
		if err := o.store.AddStatic(e.Exporter, e.Version, e.Domain, &e.Template); err != nil {
			return f.wrong(stderr, fmt.Sprintf("--templates: template %d: %v", e.Template.ID, err))
		}
	}
	if named.table != nil {
		o.decoder.Exporter = named.of
	}
	code = o.run(hexes, files)
	tell(stderr, "%s", o.summary())
	return code
}

// A namedExporters is what --exporters says.
type namedExporters struct{ table *exporters.Table }

// exportersFlag adds --exporters. Who is allowed does not matter by hand.
func exportersFlag(f *verbFlags) *namedExporters {
	n := &namedExporters{}
	f.Func("exporters", "take names, sites, sampling rates and interfaces of exporters from the YAML `FILE` (EXPORTERS_FILE of ingest)", func(path string) error {
		file, err := exporters.Open(path)
		if err == nil {
			n.table = file.Table()
		}
		return err
	})
	return n
}

func (n *namedExporters) of(a netip.Addr) *decode.Exporter {
	if e := n.table.Lookup(a); e != nil {
		return &e.Exporter
	}
	return nil
}

// udpPortFlag adds a flag for the port that datagrams are sent to.
func udpPortFlag(f *verbFlags, name string) *uint16 {
	return portFlag(f, name, "decode UDP datagrams to port `N` only")
}

// uptimeAgeFlag adds --uptime-max-age, 0 when it is not given.
func uptimeAgeFlag(f *verbFlags) *time.Duration {
	age := new(time.Duration)
	f.Func("uptime-max-age", "take a flow time that is an uptime after the header's, of before a wrap of the clock, for wrong when it is older than `DURATION` (UPTIME_MAX_AGE of ingest; default: no limit): the flow has its export time", func(s string) (err error) {
		if *age, err = time.ParseDuration(s); err != nil || *age < decode.MinUptimeAge || *age > decode.MaxUptimeAge {
			return fmt.Errorf("%q: want %v to %v", s, decode.MinUptimeAge, decode.MaxUptimeAge)
		}
		return nil
	})
	return age
}

// portFlag adds a flag for a port, 0 when it is not given.
func portFlag(f *verbFlags, name, usage string) *uint16 {
	port := new(uint16)
	f.Func(name, usage, func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no port, want 1 to 65535", s)
		}
		*port = uint16(n)
		return nil
	})
	return port
}
