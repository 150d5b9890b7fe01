package cli

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"weir/internal/services"
	"weir/pkg/flowpb"
)

// A table prints connections for people, one a line. Columns are as wide as
// their widest cell so far.
type table struct {
	w      io.Writer
	widths [columns]int
}

const columns = 12

var tableHead = [columns]string{
	"start (UTC)", "initiator", "", "responder", "proto/service", "packets", "octets", "packets back", "octets back", "state", "direction by", "",
}

// numeric columns are aligned to the right.
var numeric = [columns]bool{5: true, 6: true, 7: true, 8: true}

// newTable returns a table whose columns fit what it is made for.
func newTable(w io.Writer, list []*flowpb.Connection) *table {
	t := &table{w: w}
	t.widen(&tableHead)
	for _, c := range list {
		cells := row(c)
		t.widen(&cells)
	}
	return t
}

func (t *table) widen(cells *[columns]string) {
	for i, s := range cells {
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(s))
	}
}

// head prints the columns' names.
func (t *table) head() error { return t.line(tableHead) }

// row prints one connection.
func (t *table) row(c *flowpb.Connection) error { return t.line(row(c)) }

func (t *table) line(cells [columns]string) error {
	t.widen(&cells)
	var b strings.Builder
	for i, s := range cells {
		pad := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(s))
		if i > 0 {
			b.WriteString("  ")
		}
		if numeric[i] {
			b.WriteString(pad + s)
		} else {
			b.WriteString(s + pad)
		}
	}
	_, err := fmt.Fprintln(t.w, strings.TrimRight(b.String(), " "))
	return err
}

// writeTable writes all of list with its head.
func writeTable(w io.Writer, list []*flowpb.Connection) error {
	b := bufio.NewWriterSize(w, 1<<16)
	t := newTable(b, list)
	if err := t.head(); err != nil {
		return err
	}
	for _, c := range list {
		if err := t.row(c); err != nil {
			return err
		}
	}
	return b.Flush()
}

// row is a connection as cells.
func row(c *flowpb.Connection) [columns]string {
	start := "-"
	if ns := c.GetStartUnixNs(); ns != 0 {
		start = time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05.000")
	}
	there, thereOctets := trafficCells(c.GetForward())
	back, backOctets := trafficCells(c.GetReverse())
	return [columns]string{
		start,
		endCell(c.GetInitiator(), c.GetProtocol()), "→", endCell(c.GetResponder(), c.GetProtocol()),
		serviceCell(c), there, thereOctets, back, backOctets,
		short(c.GetConnState().String(), "CONN_STATE_"), short(c.GetDirectionMethod().String(), "DIRECTION_METHOD_"),
		reportCell(c),
	}
}

// reportCell says when a report is not the first and last of its connection.
func reportCell(c *flowpb.Connection) string {
	switch {
	case c.GetEmitReason() == flowpb.EmitReason_EMIT_REASON_INTERIM:
		return fmt.Sprintf("goes on, report %d", c.GetVersion())
	case c.GetVersion() > 1:
		return fmt.Sprintf("report %d", c.GetVersion())
	}
	return ""
}

// endCell is an endpoint and, where there is one, its name.
func endCell(e *flowpb.Endpoint, proto uint32) string {
	s := endpointText(e.GetAddress(), e.GetPort(), proto)
	if n := e.GetName(); n != "" {
		s += " " + quoted(n)
	}
	return s
}

// serviceCell is the protocol and the service; ICMP's is its type and code.
func serviceCell(c *flowpb.Connection) string {
	s := services.Protocol(c.GetProtocol())
	switch {
	case c.GetService() != "":
		s += "/" + quoted(c.GetService())
	case c.IcmpType != nil:
		s += fmt.Sprintf("/%d.%d", c.GetIcmpType(), c.GetIcmpCode())
	}
	return s
}

// trafficCells are packets and octets of a direction, "-" when it was not seen.
func trafficCells(t *flowpb.Traffic) (packets, octets string) {
	if t == nil {
		return "-", "-"
	}
	return strconv.FormatUint(t.GetPackets(), 10), strconv.FormatUint(t.GetOctets(), 10)
}

// short is an enum's name without its prefix, "-" for the unspecified one.
func short(name, prefix string) string {
	s := strings.TrimPrefix(name, prefix)
	if s == "UNSPECIFIED" {
		return "-"
	}
	return s
}
