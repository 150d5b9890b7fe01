package report

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/cli/console"
	"weir/internal/decode"
	"weir/internal/services"
	"weir/internal/templates/text"
	"weir/pkg/flowpb"
)

// A RecordText prints the same records as a RecordJSON for people: a record takes a line, a template a block of
// lines.
type RecordText struct {
	lines
	parts []part
	line  []byte
	of    Templates
}

// NewRecordText returns a printer to w. of resolves the templates of lists (RFC 6313); it may be nil.
func NewRecordText(w io.Writer, of Templates) *RecordText {
	return &RecordText{lines: newLines(w), of: of}
}

// Consume prints the records of r in the order of the datagram. It implements offline.Output.
func (d *RecordText) Consume(from Origin, r *decode.Result) error {
	d.parts = parts(d.parts[:0], r)
	for _, p := range d.parts {
		d.line = d.line[:0]
		switch p.kind {
		case aTemplate:
			d.template(from, &r.Templates[p.index].Template)
		case anOptionsRecord:
			d.options(from, &r.Options[p.index])
		case aFlow:
			d.line = appendFlow(d.line, r.Messages[p.index], d.of)
		case anError:
			d.line = fmt.Appendf(d.line, "error    %s, datagram %d%s",
				r.Errors[p.index].Error(), from.Datagram, exporterSuffix(from))
		}
		if p.kind == aTemplate { // a block of lines
			d.line = []byte(console.EscapeLines(string(d.line)))
		} else {
			d.line = []byte(console.Escape(string(d.line)))
		}
		d.line = append(d.line, '\n')
		if _, err := d.w.Write(d.line); err != nil {
			return err
		}
	}
	return nil
}

// exporterSuffix returns " of ADDRESS" for a known exporter, "" otherwise.
func exporterSuffix(from Origin) string {
	if s := exporterText(from.Meta.Exporter); s != "" {
		return " of " + s
	}
	return ""
}

func (d *RecordText) template(from Origin, t *decode.Template) {
	d.line = text.Append(d.line, &text.Entry{
		Exporter: from.Meta.Exporter, Version: uint8(from.Header.Version), Domain: from.Header.Domain, Template: *t,
	})
}

func (d *RecordText) options(from Origin, rec *decode.OptionsRecord) {
	v9 := from.Header.Version == 9
	d.line = fmt.Appendf(d.line, "options  template %d, version %d, domain %d%s:",
		rec.TemplateID, from.Header.Version, from.Header.Domain, exporterSuffix(from))
	for _, v := range rec.Values {
		x := lookup(v9, v.PEN, v.ID)
		mark := ""
		if v.Scope {
			x, mark = lookupScope(v9, v.PEN, v.ID), "scope:"
		}
		d.line = fmt.Appendf(d.line, " %s%s=%s", mark, x.name, readValue(x.typ, v.Octets))
	}
}

// inHead are the fields that are printed at the head of the line of a flow.
var inHead = map[protoreflect.Name]bool{
	"type": true, "proto": true, "src_addr": true, "dst_addr": true, "src_port": true, "dst_port": true,
	"packets": true, "bytes": true, "time_flow_start_ns": true, "time_flow_end_ns": true,
}

// appendFlow appends a flow as a line: time, protocol, endpoints and counters, then all other fields by name.
func appendFlow(b []byte, m *flowpb.FlowMessage, of Templates) []byte {
	kind, ok := flowTypes[m.GetType()]
	if !ok {
		kind = m.GetType().String()
	}
	b = fmt.Appendf(b, "flow     %-5s  %s  %s  %s → %s  packets=%s octets=%s", kind,
		timeSpan(m.GetTimeFlowStartNs(), m.GetTimeFlowEndNs()), services.Protocol(m.GetProto()),
		endpointText(m.GetSrcAddr(), m.GetSrcPort(), m.GetProto()),
		endpointText(m.GetDstAddr(), m.GetDstPort(), m.GetProto()),
		counterText(m.GetPackets()), counterText(m.GetBytes()))
	return appendFields(b, m.ProtoReflect(), inHead, of)
}

// counterText formats a counter, "-" for a counter that was not exported (0).
func counterText(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

// timeSpan formats start and duration. start and end are in ns since the epoch; start 0 is unknown.
func timeSpan(start, end uint64) string {
	if start == 0 {
		return "at an unknown time"
	}
	return fmt.Sprintf("%s +%s", timeText(time.Unix(0, int64(start))), time.Duration(end-start))
}

// endpointText formats address and port. Protocols without ports have the address alone; a missing address is "?".
func endpointText(addr []byte, port, proto uint32) string {
	a, ok := netip.AddrFromSlice(addr)
	switch {
	case !ok && port == 0:
		return "?"
	case !ok:
		return fmt.Sprintf("?:%d", port)
	case !hasPorts(proto) && port == 0, proto == 1, proto == 58:
		return a.String()
	}
	return netip.AddrPortFrom(a, uint16(port)).String()
}

func hasPorts(proto uint32) bool {
	switch proto {
	case 6, 17, 33, 132, 136: // TCP, UDP, DCCP, SCTP, UDP-Lite
		return true
	}
	return false
}
