package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

const flowsAbout = `Without a file, follows the topic PREFIXflows and prints flows as exporters report
them, one a line, each direction of a conversation for itself. With --once it reads
what is there. Kafka is reached as by the services: KAFKA_BROKERS, KAFKA_TLS…,
TOPIC_PREFIX.

With files, prints the flows that they hold: captures, flows as JSON Lines (weir
collect), files of the Python package netflow; "-" is standard input.

The table has when a flow began, its exporter, protocol, ends, packets and octets
(as counted: see sampling), and how long it took. -v prints every field instead.

exit code: 0 the input could be read, whatever it held (of a file that is cut,
what is whole); 1 it could not; 2 wrong usage`

// runFlows is the verb flows.
func runFlows(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := newFlags("flows", "[flag]... [FILE]...", flowsAbout)
	p := &flowPrinter{stderr: stderr}
	f.BoolVar(&p.json, "json", false, "print JSON Lines; keys are the names of FlowMessage's fields")
	f.BoolVar(&p.wide, "v", false, "print every field, as weir decode does")
	f.Func("limit", "end after `N` flows", func(s string) (err error) {
		if p.limit, err = strconv.Atoi(s); err != nil || p.limit < 1 {
			return fmt.Errorf("%q: want a number, 1 or more", s)
		}
		return nil
	})
	p.filter = filterFlags(f, "flows", 0, "default 0")
	topic := topicFlagsOf(f, "print it")
	port, age := udpPortFlag(f, "udp-port"), uptimeAgeFlag(f)
	files, code, ok := f.parse(args, stdout, stderr)
	if !ok {
		return code
	}
	err := topic.check(f, len(files) > 0, "once", "from-start", "since")
	switch {
	case err != nil:
		return f.wrong(stderr, err.Error())
	case p.json && p.wide:
		return f.wrong(stderr, "--json and -v: want one of them")
	case len(files) == 0 && *port != 0:
		return f.wrong(stderr, "--udp-port is for files; --port is a flow's")
	case len(files) == 0 && *age != 0:
		return f.wrong(stderr, "--uptime-max-age is for files; ingest has UPTIME_MAX_AGE")
	}
	p.to(stdout)
	if len(files) == 0 {
		return followFlows(*topic, p, stderr)
	}
	o := newOffline("flows", stdin, stderr, p)
	o.port, o.decoder.MaxUptimeAge, p.of = *port, *age, o.template
	code = o.run(nil, files)
	tell(stderr, "%s", o.summary())
	tell(stderr, "%s", p.summary())
	return code
}

// flowColumns are what most people ask of a flow.
var flowColumns = []column{
	{name: "start (UTC)", colour: dim, least: 23}, {name: "exporter", least: 15}, {name: "protocol", colour: cyan}, {name: "source", least: 21}, {name: ""},
	{name: "destination", least: 21}, {name: "packets", numeric: true, least: 8}, {name: "octets", numeric: true, colour: green, least: 10},
	{name: "duration", numeric: true, least: 9}, {name: "sampling"},
}

// flowRow is a flow as cells of flowColumns.
func flowRow(m *flowpb.FlowMessage) []string {
	exporter := endpointText(m.GetSamplerAddress(), 0, 0)
	if n := m.GetExporterName(); n != "" {
		exporter = quoted(n)
	}
	duration := "-"
	if s, e := m.GetTimeFlowStartNs(), m.GetTimeFlowEndNs(); s != 0 && e != 0 {
		duration = durationText(time.Duration(e - s))
	}
	sampling := "-"
	if n := m.GetSamplingRate(); n > 0 {
		sampling = fmt.Sprintf("1:%d", n)
	}
	return []string{
		timeCell(int64(m.GetTimeFlowStartNs())), exporter, services.Protocol(m.GetProto()),
		endpointText(m.GetSrcAddr(), m.GetSrcPort(), m.GetProto()), "→", endpointText(m.GetDstAddr(), m.GetDstPort(), m.GetProto()),
		known(m.GetPackets()), known(m.GetBytes()), duration, sampling,
	}
}

// A flowPrinter prints the flows that are asked for as they come. Each batch is
// written out at once. It is for one goroutine.
type flowPrinter struct {
	stderr     io.Writer
	json, wide bool
	limit      int // 0: all
	filter     *trafficFilter
	of         templatesOf

	buf    *bufio.Writer
	grid   *grid
	headed bool
	line   []byte
	shown  int
	others int // not asked for
	octets uint64
	count  uint64 // packets
}

func (p *flowPrinter) to(w io.Writer) {
	p.buf = bufio.NewWriterSize(w, 1<<16)
	if !p.json && !p.wide {
		p.grid = newGrid(p.buf, flowColumns, lookOf(w))
	}
}

// take implements output.
func (p *flowPrinter) take(_ origin, r *decode.Result) error { return p.print(r.Messages) }

func (p *flowPrinter) flush() error { return p.buf.Flush() }

// print prints what of list is asked for. The error is errEnough once the limit is
// reached.
func (p *flowPrinter) print(list []*flowpb.FlowMessage) error {
	var asked []*flowpb.FlowMessage
	for _, m := range list {
		if p.filter.flow(m) && (p.limit == 0 || p.shown+len(asked) < p.limit) {
			asked = append(asked, m)
		} else {
			p.others++
		}
	}
	if p.grid != nil && len(asked) > 0 {
		for _, m := range asked {
			p.grid.widen(flowRow(m))
		}
		if !p.headed {
			p.headed = true
			if err := p.grid.head(); err != nil {
				return err
			}
		}
	}
	for _, m := range asked {
		if err := p.one(m); err != nil {
			return err
		}
		p.shown++
		if !pair.IsUpdate(m) { // the teardown counts it again
			p.octets, p.count = p.octets+m.GetBytes()+m.GetReverseBytes(), p.count+m.GetPackets()+m.GetReversePackets()
		}
	}
	if p.limit > 0 && p.shown >= p.limit {
		return errors.Join(p.buf.Flush(), errEnough)
	}
	return nil
}

func (p *flowPrinter) one(m *flowpb.FlowMessage) error {
	switch {
	case p.json:
		p.line = appendFlowJSON(p.line[:0], m, p.of)
	case p.wide:
		p.line = append(p.line[:0], plain(string(appendFlow(nil, m, p.of)))...)
	default:
		return p.grid.row(flowRow(m))
	}
	_, err := p.buf.Write(append(p.line, '\n'))
	return err
}

// appendFlowJSON appends a flow as one line of JSON, without its end.
func appendFlowJSON(b []byte, m *flowpb.FlowMessage, of templatesOf) []byte {
	line := jsonLine(b)
	line.open('{')
	line.key("record")
	line.text("flow")
	line.fields(m.ProtoReflect(), of)
	line.close('}')
	return line
}

func (p *flowPrinter) summary() string {
	return fmt.Sprintf("%d flows shown, %s in %d packets; %d left out", p.shown, octetsText(p.octets), p.count, p.others)
}

// followFlows is the verb flows without files.
func followFlows(flags topicFlags, p *flowPrinter, stderr io.Writer) int {
	settings, err := kafkaFromEnvironment()
	if err != nil {
		tell(stderr, "weir flows: no file, and for the topic the settings are wrong:\n%v", err)
		return exitUsage
	}
	return untilEnd("flows", stderr, func(ctx context.Context) error { return readFlows(ctx, settings, flags, p) })
}

// readFlows prints the flows of the topic until ctx ends, or it is read.
func readFlows(ctx context.Context, settings kafkaSettings, flags topicFlags, p *flowPrinter) error {
	topic := settings.Topics.Name(kafka.Flows)
	if !flags.once {
		tell(p.stderr, "following %s at %s; end with Ctrl-C", topic, strings.Join(settings.Kafka.Brokers, ","))
	}
	poison := 0
	err := flags.tail().Read(ctx, settings.Kafka, topic, func(records []kafka.Record) error {
		var list []*flowpb.FlowMessage
		for _, r := range records {
			_, err := framing.Flows.Each(r.Value, func(value []byte) {
				m := &flowpb.FlowMessage{}
				if proto.Unmarshal(value, m) != nil || m.GetType() == flowpb.FlowMessage_FLOWUNKNOWN {
					poison++
					return
				}
				list = append(list, m)
			})
			if err != nil {
				poison++
			}
		}
		return errors.Join(p.print(list), p.flush())
	}, func(err error) {
		tell(p.stderr, "weir flows: %v", err)
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if poison > 0 {
		tell(p.stderr, "%d records of %s are no flows", poison, topic)
	}
	tell(p.stderr, "%s", p.summary())
	return err
}
