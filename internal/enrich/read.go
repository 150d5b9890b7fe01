package enrich

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/pkg/flowpb"
)

var errFlow = errors.New("not a flow message")

// readFlow sets m to what enrich looks at of an encoded FlowMessage, and to no
// more: a third of the time of the whole, without allocations but for names.
// Octets of m are parts of b.
func readFlow(b []byte, m *flowpb.FlowMessage) error {
	m.Reset()
	for len(b) > 0 {
		var number protowire.Number
		var kind protowire.Type
		switch { // a field below 16, one below 2048, any
		case len(b) > 1 && b[0] < 0x80:
			number, kind = protowire.Number(b[0]>>3), protowire.Type(b[0]&7)
			b = b[1:]
		case len(b) > 2 && b[1] < 0x80:
			number, kind = protowire.Number(b[1])<<4|protowire.Number(b[0]&0x7f)>>3, protowire.Type(b[0]&7)
			b = b[2:]
		default:
			var n int
			if number, kind, n = protowire.ConsumeTag(b); n < 0 {
				return errFlow
			}
			b = b[n:]
		}
		if number < 1 {
			return errFlow
		}
		switch kind {
		case protowire.VarintType:
			if len(b) > 0 && b[0] < 0x80 {
				readNumber(number, uint64(b[0]), m)
				b = b[1:]
				continue
			}
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return errFlow
			}
			b = b[n:]
			readNumber(number, v, m)
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return errFlow
			}
			b = b[n:]
			if err := readOctets(number, v, m); err != nil {
				return err
			}
		case protowire.Fixed64Type:
			v, n := protowire.ConsumeFixed64(b)
			if n < 0 {
				return errFlow
			}
			b = b[n:]
			if number == 203 {
				m.DatagramHash = v
			}
		default:
			n := protowire.ConsumeFieldValue(number, kind, b)
			if n < 0 {
				return errFlow
			}
			b = b[n:]
		}
	}
	return nil
}

func readNumber(number protowire.Number, v uint64, m *flowpb.FlowMessage) {
	small := uint32(v)
	switch number {
	case 1:
		m.Type = flowpb.FlowMessage_FlowType(int32(v))
	case 3:
		m.SamplingRate = v
	case 9:
		m.Bytes = v
	case 10:
		m.Packets = v
	case 14:
		m.SrcAs = small
	case 15:
		m.DstAs = small
	case 18:
		m.InIf = small
	case 19:
		m.OutIf = small
	case 20:
		m.Proto = small
	case 21:
		m.SrcPort = small
	case 22:
		m.DstPort = small
	case 23:
		m.IpTos = small
	case 26:
		m.TcpFlags = small
	case 27:
		m.SrcMac = v
	case 28:
		m.DstMac = v
	case 29:
		m.VlanId = small
	case 31:
		m.IcmpType = small
	case 32:
		m.IcmpCode = small
	case 33:
		m.SrcVlan = small
	case 34:
		m.DstVlan = small
	case 70:
		m.ObservationDomainId = small
	case 110:
		m.TimeReceivedNs = v
	case 111:
		m.TimeFlowStartNs = v
	case 112:
		m.TimeFlowEndNs = v
	case 200:
		m.TimeExportNs = v
	case 201:
		m.TimeSource = flowpb.TimeSource(int32(v))
	case 202:
		m.TimeResolutionUs = small
	case 204:
		m.RecordOffset = small
	case 205:
		m.FlowEndReason = small
	case 206:
		m.FlowDirection = flowpb.FlowDirection(int32(v))
	case 207:
		m.BiflowDirection = flowpb.BiflowDirection(int32(v))
	case 210:
		m.Biflow = v != 0
	case 211:
		m.ReverseBytes = v
	case 212:
		m.ReversePackets = v
	case 213:
		m.ReverseTcpFlags = small
	case 214:
		m.ReverseTimeFlowStartNs = v
	case 215:
		m.ReverseTimeFlowEndNs = v
	case 217:
		m.ReverseIpTos = small
	case 232:
		m.PostNatSrcPort = small
	case 233:
		m.PostNatDstPort = small
	case 234:
		m.NatEvent = small
	case 235:
		m.FirewallEvent = small
	case 236:
		m.FlowId = v
	case 240:
		m.IngressVrfId = small
	case 241:
		m.EgressVrfId = small
	case 250:
		m.SamplingSource = flowpb.SamplingSource(int32(v))
	case 251:
		m.SamplerId = v
	case 260:
		m.ExporterPort = small
	}
}

func readOctets(number protowire.Number, v []byte, m *flowpb.FlowMessage) error {
	var to *string
	switch number {
	case 6:
		m.SrcAddr = v
	case 7:
		m.DstAddr = v
	case 11:
		m.SamplerAddress = v
	case 230:
		m.PostNatSrcAddr = v
	case 231:
		m.PostNatDstAddr = v
	case 245:
		m.ApplicationId = v
	case 246:
		to = &m.ApplicationName
	case 247:
		to = &m.InIfName
	case 248:
		to = &m.OutIfName
	case 249:
		to = &m.IngressVrfName
	case 252:
		to = &m.EgressVrfName
	case 261:
		to = &m.ExporterName
	case 262:
		to = &m.Site
	case 264:
		to = &m.AddressPlan
	}
	if to == nil {
		return nil
	}
	if !utf8.Valid(v) {
		return errFlow
	}
	*to = string(v)
	return nil
}
