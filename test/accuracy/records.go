package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"weir/internal/services"
	"weir/pkg/flowpb"
	"weir/pkg/netflow"
	"weir/test/accuracy/export"
	"weir/test/accuracy/score"
	"weir/test/accuracy/truth"
)

// exportOf decodes the TCP and UDP records of the datagrams.
func exportOf(datagrams []export.Datagram, sampled bool) (*score.Export, error) {
	parser := netflow.NewParser(nil)
	exporter := netip.MustParseAddrPort("127.0.0.1:40000")
	var records []score.Record
	for i, d := range datagrams {
		p, err := parser.Parse(d.Payload, exporter, time.Unix(0, d.Time))
		if err != nil {
			return nil, fmt.Errorf("datagram %d: %w", i+1, err)
		}
		for _, m := range p.Flows {
			if m.Proto == truth.TCP || m.Proto == truth.UDP {
				records = appendRecords(records, m, uint64(i))
			}
		}
	}
	named := func(proto uint8, port uint16) bool { return services.Name(proto, port) != "" }
	return score.NewExport(records, sampled, named), nil
}

// appendRecords appends the directions of m, which came in the datagram of that number.
func appendRecords(records []score.Record, m *flowpb.FlowMessage, datagram uint64) []score.Record {
	endpoint := func(addr []byte, port uint32) netip.AddrPort {
		a, _ := netip.AddrFromSlice(addr)
		return netip.AddrPortFrom(a, uint16(port))
	}
	src, dst := endpoint(m.SrcAddr, m.SrcPort), endpoint(m.DstAddr, m.DstPort)
	there := score.Record{
		Proto: uint8(m.Proto), Src: src, Dst: dst, Start: int64(m.TimeFlowStartNs), End: int64(m.TimeFlowEndNs),
		Resolution: int64(m.TimeResolutionUs) * 1000, Datagram: datagram, Packets: m.Packets, Flags: uint8(m.TcpFlags),
	}
	if m.Packets > 0 {
		records = append(records, there)
	}
	if m.Biflow && m.ReversePackets > 0 {
		back := there
		back.Src, back.Dst, back.Packets, back.Flags = dst, src, m.ReversePackets, uint8(m.ReverseTcpFlags)
		back.Start = int64(cmp.Or(m.ReverseTimeFlowStartNs, m.TimeFlowStartNs))
		back.End = int64(cmp.Or(m.ReverseTimeFlowEndNs, m.TimeFlowEndNs))
		records = append(records, back)
	}
	return records
}
