package cli

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/caarlos0/env/v11"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/internal/settings"
	"weir/pkg/flowpb"
)

const connectionsAbout = `Decodes captures and pairs their flows into connections, offline. At the end of
the input all that is open is emitted. Of a connection that was reported several
times the last report is printed. Records are taken in the order of their capture
times, whatever the order of the files. JSON Lines are in the order in which
connections end, the table in that of their starts.

The pairing's times are those of the environment variables PAIR_* (enrich -h).

exit code: 0 the input could be read, whatever it held (of a capture that is cut,
what is whole); 1 it could not; 2 wrong usage`

// runConnections is the verb connections.
func runConnections(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := newFlags("connections", "[--json] [-p N] [--port N] --pcap FILE...", connectionsAbout)
	var files []string
	f.Func("pcap", "read the capture `FILE`; may be repeated, further arguments are files too", func(s string) error {
		files = append(files, s)
		return nil
	})
	asJSON := f.Bool("json", false, "print JSON Lines; keys are the names of Connection's fields")
	least := uint64(10)
	f.Func("p", "leave out connections of fewer than `N` packets; default 0 with --json, else 10", func(s string) (err error) {
		least, err = strconv.ParseUint(s, 10, 64)
		return err
	})
	port := portFlag(f)
	rest, code, ok := f.parse(args, stdout, stderr)
	if !ok {
		return code
	}
	files = append(files, rest...)
	if len(files) == 0 {
		return f.wrong(stderr, "no --pcap FILE")
	}
	if *asJSON && !f.given("p") {
		least = 0
	}
	config, err := pairConfig(os.Environ())
	if err != nil {
		return f.wrong(stderr, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	c := &pairing{config: config}
	o := newOffline("connections", stdin, stderr, c)
	o.port = *port
	code = o.run(nil, files)

	all := c.connections()
	shown := slices.DeleteFunc(slices.Clone(all), func(c *flowpb.Connection) bool { return packets(c) < least })
	write := writeConnectionsJSON
	if !*asJSON {
		write = writeTable
		slices.SortStableFunc(shown, func(a, b *flowpb.Connection) int { return cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()) })
	}
	if err := write(stdout, shown); err != nil && !errors.Is(err, syscall.EPIPE) {
		o.say("standard output: %v", err)
		code = exitFailed
	}
	tell(stderr, "%s", o.summary())
	tell(stderr, "%d connections shown, %d of fewer than %d packets left out (-p), %d flows not pairable",
		len(shown), len(all)-len(shown), least, c.notPairable)
	return code
}

// pairConfig is the pairing's configuration by the environment.
func pairConfig(environ []string) (pair.Config, error) {
	c, err := settings.Parse[struct {
		Pair pair.Config `envPrefix:"PAIR_"`
	}](env.ToMap(environ))
	c.Pair.Service = func(proto uint8, port uint16) bool { return services.Name(proto, port) != "" }
	return c.Pair, err
}

// packets is how many packets a connection has in both directions.
func packets(c *flowpb.Connection) uint64 {
	return c.GetForward().GetPackets() + c.GetReverse().GetPackets()
}

// A pairing collects flows and pairs them when all are there: inputs may
// overlap in time, data may come before its template, and the machine's clock
// never goes back.
type pairing struct {
	config      pair.Config
	flows       []received
	notPairable int
}

// received is a flow and when it was received, ns since the epoch.
type received struct {
	at   uint64
	flow pair.Flow
}

func (p *pairing) take(_ origin, r *decode.Result) error {
	for _, m := range r.Messages {
		if f, ok := pair.FromMessage(m, &p.config); ok {
			p.flows = append(p.flows, received{m.GetTimeReceivedNs(), f})
		} else {
			p.notPairable++
		}
	}
	return nil
}

func (p *pairing) flush() error { return nil }

// connections pairs the flows. Each connection has its last report, at the
// place of its first.
func (p *pairing) connections() []*flowpb.Connection {
	var out []*flowpb.Connection
	place := map[string]int{}
	m := pair.New(p.config, 1, func(e *pair.Emission) {
		c := proto.CloneOf(e.Connection)
		c.CommunityId = pair.CommunityID(c)
		c.Service = services.Name(uint8(c.GetProtocol()), uint16(c.GetResponder().GetPort()))
		id := string(c.GetConnectionId())
		if i, again := place[id]; again {
			out[i] = c
			return
		}
		place[id] = len(out)
		out = append(out, c)
	})
	slices.SortStableFunc(p.flows, func(a, b received) int { return cmp.Compare(a.at, b.at) })
	for i := range p.flows {
		m.Observe(&p.flows[i].flow)
	}
	m.Close()
	return out
}

// writeConnectionsJSON writes JSON Lines.
func writeConnectionsJSON(w io.Writer, list []*flowpb.Connection) error {
	b := bufio.NewWriterSize(w, 1<<16)
	var line jsonLine
	for _, c := range list {
		line = line[:0]
		line.open('{')
		line.fields(c.ProtoReflect(), nil)
		line.close('}')
		if _, err := b.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return b.Flush()
}
