package cli

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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

const connectionsAbout = `Without a file, follows the topic PREFIXconnections (only what is committed) and
prints connections as they are reported; a correction by a late record is printed
again. With --once it reads what is there and prints the newest report of each.
Kafka is reached as by the services: KAFKA_BROKERS, KAFKA_TLS…, TOPIC_PREFIX.

With files, decodes captures and pairs their flows into connections, offline. At
the end of the input all that is open is emitted. Of a connection that was
reported several times the last report is printed. Records are taken in the order
of their capture times, whatever the order of the files. JSON Lines are in the
order in which connections end, the table in that of their starts. The pairing's
times are those of the environment variables PAIR_* (enrich -h).

exit code: 0 the input could be read, whatever it held (of a capture that is cut,
what is whole); 1 it could not; 2 wrong usage`

// runConnections is the verb connections.
func runConnections(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := newFlags("connections", "[flag]... [--pcap] [FILE]...", connectionsAbout)
	var files []string
	f.Func("pcap", "read the capture `FILE`; may be repeated, further arguments are files too", func(s string) error {
		files = append(files, s)
		return nil
	})
	asJSON := f.Bool("json", false, "print JSON Lines; keys are the names of Connection's fields")
	filter := filterFlags(f)
	topic := connectionsTopicFlags(f)
	port := udpPortFlag(f, "udp-port")
	rest, code, ok := f.parse(args, stdout, stderr)
	if !ok {
		return code
	}
	files = append(files, rest...)
	if (*asJSON || len(files) == 0) && !f.given("p") {
		filter.least = 0
	}
	if len(files) == 0 {
		switch {
		case *port != 0:
			return f.wrong(stderr, "--udp-port is for files; --port is a connection's")
		case topic.start && topic.since != 0:
			return f.wrong(stderr, "--from-start and --since: want one of them")
		case topic.since < 0:
			return f.wrong(stderr, fmt.Sprintf("--since %v: want more than 0", topic.since))
		}
		return followConnections(*topic, filter, *asJSON, stdout, stderr)
	}
	for _, name := range []string{"once", "from-start", "since", "interim"} {
		if f.given(name) {
			return f.wrong(stderr, "--"+name+" is for the topic, not for files")
		}
	}
	config, err := pairConfig(os.Environ())
	if err != nil {
		return f.wrong(stderr, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	c := &pairing{config: config}
	o := newOffline("connections", stdin, stderr, c)
	o.port = *port
	code = o.run(nil, files)

	all := slices.DeleteFunc(c.connections(), func(c *flowpb.Connection) bool { return !filter.is(c) })
	shown := slices.DeleteFunc(slices.Clone(all), func(c *flowpb.Connection) bool { return packets(c) < filter.least })
	write := writeConnectionsJSON
	if !*asJSON {
		write = writeTable
		slices.SortStableFunc(shown, func(a, b *flowpb.Connection) int { return cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()) })
	}
	if err := write(stdout, shown); err != nil && !brokenPipe(err) {
		o.say("standard output: %v", err)
		code = exitFailed
	}
	tell(stderr, "%s", o.summary())
	tell(stderr, "%d connections shown, %d of fewer than %d packets left out (-p), %d flows not pairable",
		len(shown), len(all)-len(shown), filter.least, c.notPairable)
	return code
}

// brokenPipe tells of a reader that has seen enough.
func brokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

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
