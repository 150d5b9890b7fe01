package report

import (
	"encoding/csv"
	"encoding/hex"
	"io"
	"strconv"
	"strings"
	"time"

	"weir/internal/cli/console"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// A csvColumn is a column of the CSV form of connections.
type csvColumn struct {
	name string
	cell func(c *flowpb.Connection) string
}

// csvColumns returns the columns of the CSV form. The cell of an unknown value is empty. The order of the columns
// must not change, since scripts select columns by number; new columns must be appended.
func csvColumns() []csvColumn {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	end := func(name string, e func(*flowpb.Connection) *flowpb.Endpoint) []csvColumn {
		return []csvColumn{
			{name + "_address", func(c *flowpb.Connection) string { return addressText(e(c).GetAddress()) }},
			{name + "_port", func(c *flowpb.Connection) string {
				if c.IcmpType != nil || !hasPorts(c.GetProtocol()) {
					return ""
				}
				return number(uint64(e(c).GetPort()))
			}},
			{name + "_name", func(c *flowpb.Connection) string { return harmless(e(c).GetName()) }},
		}
	}
	traffic := func(name string, t func(*flowpb.Connection) *flowpb.Traffic) []csvColumn {
		of := func(get func(*flowpb.Traffic) uint64) func(*flowpb.Connection) string {
			return func(c *flowpb.Connection) string {
				if t(c) == nil {
					return ""
				}
				return number(get(t(c)))
			}
		}
		return []csvColumn{
			{name + "_octets", of((*flowpb.Traffic).GetOctets)},
			{name + "_packets", of((*flowpb.Traffic).GetPackets)},
		}
	}
	list := []csvColumn{
		{"start", func(c *flowpb.Connection) string { return csvTime(c.GetStartUnixNs()) }},
		{"end", func(c *flowpb.Connection) string { return csvTime(c.GetEndUnixNs()) }},
		{"duration_s", func(c *flowpb.Connection) string {
			return strconv.FormatFloat(duration(c).Seconds(), 'f', -1, 64)
		}},
		{"protocol", func(c *flowpb.Connection) string { return services.Protocol(c.GetProtocol()) }},
		{"service", func(c *flowpb.Connection) string { return harmless(c.GetService()) }},
	}
	list = append(list, end("initiator", (*flowpb.Connection).GetInitiator)...)
	list = append(list, end("responder", (*flowpb.Connection).GetResponder)...)
	list = append(list, traffic("forward", (*flowpb.Connection).GetForward)...)
	list = append(list, traffic("reverse", (*flowpb.Connection).GetReverse)...)
	return append(list,
		csvColumn{"icmp_type", func(c *flowpb.Connection) string { return optional(c.IcmpType) }},
		csvColumn{"icmp_code", func(c *flowpb.Connection) string { return optional(c.IcmpCode) }},
		csvColumn{"conn_state", func(c *flowpb.Connection) string {
			return csvEnum(c.GetConnState().String(), "CONN_STATE_")
		}},
		csvColumn{"direction_method", func(c *flowpb.Connection) string {
			return csvEnum(c.GetDirectionMethod().String(), "DIRECTION_METHOD_")
		}},
		csvColumn{"emit_reason", func(c *flowpb.Connection) string {
			return csvEnum(c.GetEmitReason().String(), "EMIT_REASON_")
		}},
		csvColumn{"version", func(c *flowpb.Connection) string { return number(uint64(c.GetVersion())) }},
		csvColumn{"community_id", func(c *flowpb.Connection) string { return unformula(c.GetCommunityId()) }},
		csvColumn{"connection_id", func(c *flowpb.Connection) string { return hex.EncodeToString(c.GetConnectionId()) }},
	)
}

func csvHead() []string {
	var cells []string
	for _, c := range csvColumns() {
		cells = append(cells, c.name)
	}
	return cells
}

func csvRow(c *flowpb.Connection) []string {
	var cells []string
	for _, col := range csvColumns() {
		cells = append(cells, col.cell(c))
	}
	return cells
}

// writeCSV writes a record of CSV (RFC 4180) that ends with LF.
func writeCSV(w io.Writer, cells []string) error {
	for i, s := range cells {
		cells[i] = console.Escape(s)
	}
	c := csv.NewWriter(w)
	if err := c.Write(cells); err != nil {
		return err
	}
	c.Flush()
	return c.Error()
}

func csvTime(ns int64) string {
	if ns == 0 {
		return ""
	}
	return timeText(time.Unix(0, ns))
}

func csvEnum(name, prefix string) string {
	if s := ShortEnum(name, prefix); s != "-" {
		return s
	}
	return ""
}

func optional(n *uint32) string {
	if n == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*n), 10)
}

// harmless returns a text from the network in a form that a spreadsheet does not evaluate: a text other than a
// plain word is quoted, so that it does not begin like a formula and holds no control characters.
func harmless(s string) string {
	if s == "" {
		return ""
	}
	if u := unformula(s); u != s {
		return u
	}
	return console.Quote(s)
}

// unformula returns s, quoted when a spreadsheet would evaluate it as a formula.
func unformula(s string) string {
	if s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
