package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"weir/internal/cli/console"
	"weir/internal/saturating"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// briefColumns are the columns of Brief.
var briefColumns = []column{
	{name: "start (UTC)", colour: dim}, {name: "service", colour: cyan},
	{name: "size", numeric: true, colour: green}, {name: "duration", numeric: true},
	{name: "packets", numeric: true}, {name: "hosts"}, {name: "", colour: dim},
}

// brief returns the cells of a connection for briefColumns.
func brief(c *flowpb.Connection) []string {
	return []string{
		timeCell(c.GetStartUnixNs()), serviceCell(c), octets(c).formatOctets(), durationCell(c),
		packets(c).format(),
		hostCell(c.GetInitiator()) + " to " + hostCell(c.GetResponder()), remarkCell(c),
	}
}

// wideColumns are the columns of Wide.
var wideColumns = []column{
	{name: "start (UTC)", colour: dim}, {name: "initiator"}, {name: ""}, {name: "responder"},
	{name: "proto/service", colour: cyan},
	{name: "packets", numeric: true}, {name: "octets", numeric: true},
	{name: "packets back", numeric: true}, {name: "octets back", numeric: true},
	{name: "duration", numeric: true}, {name: "state"}, {name: "direction by"}, {name: "", colour: dim},
}

// wide returns the cells of a connection for wideColumns.
func wide(c *flowpb.Connection) []string {
	there, thereOctets := trafficCells(c.GetForward())
	back, backOctets := trafficCells(c.GetReverse())
	return []string{
		timeCell(c.GetStartUnixNs()),
		endCell(c.GetInitiator(), c.GetProtocol()), "→", endCell(c.GetResponder(), c.GetProtocol()),
		protocolCell(c), there, thereOctets, back, backOctets, durationCell(c),
		ShortEnum(c.GetConnState().String(), "CONN_STATE_"),
		ShortEnum(c.GetDirectionMethod().String(), "DIRECTION_METHOD_"),
		reportCell(c),
	}
}

// timeCell formats ns since the epoch in UTC with milliseconds, "-" for 0 (unknown).
func timeCell(ns int64) string {
	if ns == 0 {
		return "-"
	}
	return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05.000")
}

// durationCell formats the duration of c, "-" when its start is unknown.
func durationCell(c *flowpb.Connection) string {
	if c.GetStartUnixNs() == 0 {
		return "-"
	}
	return FormatDuration(duration(c))
}

func duration(c *flowpb.Connection) time.Duration {
	return time.Duration(c.GetEndUnixNs() - c.GetStartUnixNs())
}

// Packets returns the number of reported packets of a connection in both directions.
func Packets(c *flowpb.Connection) uint64 {
	return saturating.Add(c.GetForward().GetPackets(), c.GetReverse().GetPackets())
}

// A quantity is a number of octets or packets. Where the exporter samples, it is an estimate: the reported number
// times the sampling rate.
type quantity struct {
	n         uint64
	estimated bool
}

// quantityOf returns the quantity of a direction. est is 0 in messages without an estimate.
func quantityOf(reported, est uint64) quantity { return quantity{max(reported, est), est > reported} }

// plus adds two quantities. The sum is an estimate when one of them is.
func (q quantity) plus(o quantity) quantity {
	return quantity{saturating.Add(q.n, o.n), q.estimated || o.estimated}
}

// mark returns the mark of an estimate.
func (q quantity) mark() string {
	if q.estimated {
		return "~"
	}
	return ""
}

func (q quantity) format() string { return q.mark() + strconv.FormatUint(q.n, 10) }

func (q quantity) formatOctets() string { return q.mark() + FormatOctets(q.n) }

// octets returns the octets of a connection in both directions.
func octets(c *flowpb.Connection) quantity {
	return trafficOctets(c.GetForward()).plus(trafficOctets(c.GetReverse()))
}

// packets returns the packets of a connection in both directions. Packets returns the reported number.
func packets(c *flowpb.Connection) quantity {
	return trafficPackets(c.GetForward()).plus(trafficPackets(c.GetReverse()))
}

func trafficOctets(t *flowpb.Traffic) quantity { return quantityOf(t.GetOctets(), t.GetOctetsEst()) }

func trafficPackets(t *flowpb.Traffic) quantity { return quantityOf(t.GetPackets(), t.GetPacketsEst()) }

// reportCell marks a report that is not both the first and the last of its connection, and returns "" for any
// other.
func reportCell(c *flowpb.Connection) string {
	switch {
	case IsMerged(c):
		return fmt.Sprintf("part of another from now on, report %d", c.GetVersion())
	case c.GetEmitReason() == flowpb.EmitReason_EMIT_REASON_INTERIM:
		return fmt.Sprintf("goes on, report %d", c.GetVersion())
	case c.GetVersion() > 1:
		return fmt.Sprintf("report %d", c.GetVersion())
	}
	return ""
}

// remarkCell returns the remarks of the brief form: a direction without traffic, an unknown initiator, and the
// mark of reportCell.
func remarkCell(c *flowpb.Connection) string {
	var all []string
	switch {
	case IsMerged(c):
	case c.GetForward() == nil:
		all = append(all, "answers only")
	case c.GetReverse() == nil:
		all = append(all, "no answer seen")
	}
	if c.GetDirectionMethod() == flowpb.DirectionMethod_DIRECTION_METHOD_ARBITRARY {
		all = append(all, "direction unknown")
	}
	if s := reportCell(c); s != "" {
		all = append(all, s)
	}
	return strings.Join(all, ", ")
}

// hostCell returns the address of an endpoint, and its name in parentheses if it has a name.
func hostCell(e *flowpb.Endpoint) string {
	s := endpointText(e.GetAddress(), 0, 0)
	if n := e.GetName(); n != "" {
		s += " (" + console.Quote(n) + ")"
	}
	return s
}

// endCell returns the address and port of an endpoint, and its name if it has a name.
func endCell(e *flowpb.Endpoint, proto uint32) string {
	s := endpointText(e.GetAddress(), e.GetPort(), proto)
	if n := e.GetName(); n != "" {
		s += " " + console.Quote(n)
	}
	return s
}

// serviceCell returns protocolCell, or protocol/port of the responder when the service is unknown.
func serviceCell(c *flowpb.Connection) string {
	if port := c.GetResponder().GetPort(); c.GetService() == "" && c.IcmpType == nil && port != 0 {
		return fmt.Sprintf("%s/%d", services.Protocol(c.GetProtocol()), port)
	}
	return protocolCell(c)
}

// protocolCell returns protocol/service; for ICMP, protocol/type.code.
func protocolCell(c *flowpb.Connection) string {
	s := services.Protocol(c.GetProtocol())
	switch {
	case c.GetService() != "":
		s += "/" + console.Quote(c.GetService())
	case c.IcmpType != nil:
		s += fmt.Sprintf("/%d.%d", c.GetIcmpType(), c.GetIcmpCode())
	}
	return s
}

// trafficCells returns the packets and octets of a direction, "-" for a direction that was not observed.
func trafficCells(t *flowpb.Traffic) (packets, octets string) {
	if t == nil {
		return "-", "-"
	}
	return trafficPackets(t).format(), trafficOctets(t).format()
}

// ShortEnum returns the name of an enum value without the prefix of the enum, "-" for UNSPECIFIED.
func ShortEnum(name, prefix string) string {
	s := strings.TrimPrefix(name, prefix)
	if s == "UNSPECIFIED" {
		return "-"
	}
	return s
}

// IsMerged reports whether c was merged into another connection.
func IsMerged(c *flowpb.Connection) bool {
	return c.GetEmitReason() == flowpb.EmitReason_EMIT_REASON_MERGED
}
