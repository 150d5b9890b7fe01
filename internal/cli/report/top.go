package report

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"time"

	"weir/internal/cli/console"
	"weir/internal/query"
	"weir/internal/services"
)

// A Ranking prints the groups of an Aggregation.
type Ranking struct {
	Form        Form // Brief, JSONLines or CSV
	Keys        []query.Key
	Connections bool // of connections; else of flows
	Order       query.Order
	Limit       int // 0: all
}

// Print prints the groups to w. In a table the last line is the sum of the groups that were left out, so that all lines
// together are the total.
func (o *Ranking) Print(w io.Writer, a *query.Aggregation) error {
	top, others := a.Top(o.Order, o.Limit)
	buf := bufio.NewWriterSize(w, 1<<16)
	switch o.Form {
	case JSONLines:
		var line []byte
		for _, g := range top {
			line = append(o.appendJSON(line[:0], a.Values(g), &g.Sum), '\n')
			if _, err := buf.Write(line); err != nil {
				return err
			}
		}
	case CSV:
		if err := writeCSV(buf, append(o.keyNames(), o.measures()...)); err != nil {
			return err
		}
		for _, g := range top {
			if err := writeCSV(buf, o.csvCells(o.keyCells(a.Values(g), false), &g.Sum)); err != nil {
				return err
			}
		}
		if others.Flows > 0 {
			if err := writeCSV(buf, o.csvCells(o.otherCells(), &others)); err != nil {
				return err
			}
		}
	default:
		if err := o.table(buf, console.LookOf(w), a, top, &others); err != nil {
			return err
		}
	}
	return buf.Flush()
}

func (o *Ranking) keyNames() (names []string) {
	for _, k := range o.Keys {
		names = append(names, k.Name)
	}
	return names
}

// measures returns the names of the columns after the keys.
func (o *Ranking) measures() []string {
	if o.Connections {
		return []string{"connections", "flows", "packets", "octets", "estimated", "bps", "first", "last"}
	}
	return []string{"flows", "packets", "octets", "estimated", "bps", "first", "last"}
}

// keyCells returns the values of the keys as text. In a table, networks have their length.
func (o *Ranking) keyCells(values []query.KeyValue, table bool) []string {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = v.String()
		if k := o.Keys[i]; table && k.Bits > 0 && cells[i] != "" {
			cells[i] += "/" + strconv.Itoa(min(k.Bits, 8*len(v.Octets)))
		}
		switch {
		case !table:
		case o.Keys[i].IsProtocol():
			cells[i] = services.Protocol(uint32(v.Number))
		case cells[i] == "":
			cells[i] = "-"
		case v.Kind == query.Text:
			cells[i] = console.Quote(cells[i])
		}
	}
	return cells
}

func (o *Ranking) otherCells() []string {
	cells := make([]string, len(o.Keys))
	cells[0] = "other"
	return cells
}

func (o *Ranking) csvCells(cells []string, s *query.Sum) []string {
	if o.Connections {
		cells = append(cells, strconv.FormatUint(s.Connections, 10))
	}
	for _, n := range []uint64{s.Flows, s.Packets, s.Octets} {
		cells = append(cells, strconv.FormatUint(n, 10))
	}
	return append(cells, strconv.FormatBool(s.Estimated), strconv.FormatUint(s.BitRate(), 10),
		csvTime(int64(s.First)), csvTime(int64(s.Last)))
}

// appendJSON appends a group as an object: the keys by their names, and the sums.
func (o *Ranking) appendJSON(b []byte, values []query.KeyValue, s *query.Sum) []byte {
	j := jsonLine(b)
	j.open('{')
	for i, v := range values {
		j.key(o.Keys[i].Name)
		switch {
		case !v.IsNumber():
			j.text(v.String())
		case v.Kind == query.Signed:
			j.int(int64(v.Number))
		default:
			j.uint(v.Number)
		}
	}
	if o.Connections {
		j.key("connections")
		j.uint(s.Connections)
	}
	for _, n := range []struct {
		name  string
		value uint64
	}{{"flows", s.Flows}, {"packets", s.Packets}, {"octets", s.Octets}, {"bps", s.BitRate()}} {
		j.key(n.name)
		j.uint(n.value)
	}
	if s.Estimated {
		j.key("estimated")
		j.bool(true)
	}
	for _, t := range []struct {
		name string
		ns   uint64
	}{{"first", s.First}, {"last", s.Last}} {
		if t.ns != 0 {
			j.key(t.name)
			j.text(timeText(time.Unix(0, int64(t.ns))))
		}
	}
	j.close('}')
	return j
}

// table prints the groups in columns, with their share of the octets.
func (o *Ranking) table(
	w io.Writer, look console.Look, a *query.Aggregation, top []*query.Group, others *query.Sum,
) error {
	var columns []column
	for i, k := range o.Keys {
		c := column{name: k.Name}
		if i == 0 {
			c.colour = cyan
		}
		columns = append(columns, c)
	}
	if o.Connections {
		columns = append(columns, column{name: "connections", numeric: true})
	}
	columns = append(columns, column{name: "flows", numeric: true}, column{name: "packets", numeric: true},
		column{name: "octets", numeric: true, colour: green}, column{name: "share", numeric: true},
		column{name: "rate", numeric: true})
	g := newGrid(w, columns, look)
	rows := make([][]string, 0, len(top)+1)
	for _, t := range top {
		rows = append(rows, o.measureCells(o.keyCells(a.Values(t), true), &t.Sum, &a.Total))
	}
	if others.Flows > 0 {
		rows = append(rows, o.measureCells(o.otherCells(), others, &a.Total))
	}
	for _, r := range rows {
		g.widen(r)
	}
	if err := g.head(); err != nil {
		return err
	}
	for _, r := range rows {
		if err := g.row(r); err != nil {
			return err
		}
	}
	return nil
}

func (o *Ranking) measureCells(cells []string, s, total *query.Sum) []string {
	packets, octets := quantity{s.Packets, s.Estimated}, quantity{s.Octets, s.Estimated}
	if o.Connections {
		cells = append(cells, counterText(s.Connections))
	}
	share, rate := "-", "-"
	if total.Octets > 0 {
		share = fmt.Sprintf("%.1f %%", 100*float64(s.Octets)/float64(total.Octets))
	}
	if s.Duration() > 0 {
		rate = octets.mark() + formatBitRate(s.BitRate())
	}
	return append(cells, counterText(s.Flows), packets.mark()+counterText(s.Packets), octets.formatOctets(), share, rate)
}

// formatBitRate returns a rate with a unit.
func formatBitRate(n uint64) string {
	v := float64(n)
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s", "Gbit/s"} {
		if v < 999.5 {
			if unit == "bit/s" {
				return fmt.Sprintf("%.0f %s", v, unit)
			}
			return fmt.Sprintf("%.3g %s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.3g Tbit/s", v)
}

// Summary describes the groups and the total in a line.
func (o *Ranking) Summary(a *query.Aggregation) string {
	t := &a.Total
	packets, octets := quantity{t.Packets, t.Estimated}, quantity{t.Octets, t.Estimated}
	what := fmt.Sprintf("%d flows", t.Flows)
	if o.Connections {
		what = fmt.Sprintf("%d connections", t.Connections)
	}
	text := fmt.Sprintf("%d groups; total: %s, %s packets, %s", a.Groups(), what, packets.format(), octets.formatOctets())
	if a.Beyond.Flows > 0 {
		text += fmt.Sprintf("; %d flows belong to groups beyond the limit of %d, and are among other",
			a.Beyond.Flows, a.Groups())
	}
	if a.Refused > 0 {
		text += fmt.Sprintf("; %d records could not be read", a.Refused)
	}
	return text
}
