package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"weir/internal/cli/console"
	"weir/internal/decode"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// ErrEnough is the error of a printer that has printed the requested number of records. It is not a failure. The
// caller must stop reading the input.
var ErrEnough = errors.New("enough")

// flowColumns are the columns of Brief.
var flowColumns = []column{
	{name: "start (UTC)", colour: dim, least: 23}, {name: "exporter", least: 15},
	{name: "protocol", colour: cyan}, {name: "source", least: 21}, {name: ""}, {name: "destination", least: 21},
	{name: "packets", numeric: true, least: 8}, {name: "octets", numeric: true, colour: green, least: 10},
	{name: "duration", numeric: true, least: 9}, {name: "sampling"},
}

// flowRow returns the cells of a flow for flowColumns.
func flowRow(m *flowpb.FlowMessage) []string {
	exporter := endpointText(m.GetSamplerAddress(), 0, 0)
	if n := m.GetExporterName(); n != "" {
		exporter = console.Quote(n)
	}
	duration := "-"
	if s, e := m.GetTimeFlowStartNs(), m.GetTimeFlowEndNs(); s != 0 && e != 0 {
		duration = FormatDuration(time.Duration(e - s))
	}
	sampling := "-"
	if n := m.GetSamplingRate(); n > 0 {
		sampling = fmt.Sprintf("1:%d", n)
	}
	return []string{
		timeCell(int64(m.GetTimeFlowStartNs())), exporter, services.Protocol(m.GetProto()),
		endpointText(m.GetSrcAddr(), m.GetSrcPort(), m.GetProto()), "→",
		endpointText(m.GetDstAddr(), m.GetDstPort(), m.GetProto()),
		counterText(m.GetPackets()), counterText(m.GetBytes()), duration, sampling,
	}
}

// A FlowPrinter prints flows and counts them. It must not be used concurrently.
type FlowPrinter struct {
	form   Form
	filter *Filter
	limit  int // 0: all
	of     Templates
	buf    *bufio.Writer
	grid   *grid
	headed bool
	line   []byte
	shown  int
	others int // flows that the filter rejected
	octets uint64
	count  uint64 // packets
}

// NewFlowPrinter returns a printer to w of the flows that match filter. It prints the first limit flows, all flows
// if limit is 0. form must not be CSV. of resolves the templates of lists (RFC 6313); it may be nil.
func NewFlowPrinter(w io.Writer, form Form, filter *Filter, limit int, of Templates) *FlowPrinter {
	p := &FlowPrinter{form: form, filter: filter, limit: limit, of: of, buf: bufio.NewWriterSize(w, 1<<16)}
	if form == Brief {
		p.grid = newGrid(p.buf, flowColumns, console.LookOf(w))
	}
	return p
}

// Consume prints the flows of r. It implements offline.Output.
func (p *FlowPrinter) Consume(_ Origin, r *decode.Result) error { return p.Print(r.Messages) }

// Flush writes buffered lines.
func (p *FlowPrinter) Flush() error { return p.buf.Flush() }

// Print prints the flows of list that match the filter. It returns ErrEnough once the limit is reached.
func (p *FlowPrinter) Print(list []*flowpb.FlowMessage) error {
	var asked []*flowpb.FlowMessage
	for _, m := range list {
		if p.filter.MatchesFlow(m) && (p.limit == 0 || p.shown+len(asked) < p.limit) {
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
		if err := p.printFlow(m); err != nil {
			return err
		}
		p.shown++
		if !pair.IsUpdate(m) { // the teardown repeats the counters of an update
			p.octets, p.count = p.octets+m.GetBytes()+m.GetReverseBytes(), p.count+m.GetPackets()+m.GetReversePackets()
		}
	}
	if p.limit > 0 && p.shown >= p.limit {
		return errors.Join(p.buf.Flush(), ErrEnough)
	}
	return nil
}

func (p *FlowPrinter) printFlow(m *flowpb.FlowMessage) error {
	switch p.form {
	case JSONLines:
		p.line = AppendFlowJSON(p.line[:0], m, p.of)
	case Wide:
		p.line = append(p.line[:0], console.Escape(string(appendFlow(nil, m, p.of)))...)
	default:
		return p.grid.row(flowRow(m))
	}
	_, err := p.buf.Write(append(p.line, '\n'))
	return err
}

// AppendFlowJSON appends m to b as a JSON object without a line feed. of resolves the templates of lists (RFC
// 6313); it may be nil.
func AppendFlowJSON(b []byte, m *flowpb.FlowMessage, of Templates) []byte {
	line := jsonLine(b)
	line.open('{')
	line.key("record")
	line.text("flow")
	line.fields(m.ProtoReflect(), of)
	line.close('}')
	return line
}

// Summary returns a line with the totals of the printed flows and the number of flows left out.
func (p *FlowPrinter) Summary() string {
	return fmt.Sprintf("%d flows shown, %s in %d packets; %d left out",
		p.shown, FormatOctets(p.octets), p.count, p.others)
}
