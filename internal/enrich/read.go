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
			if number == flowpb.FlowMessage_DatagramHash_FieldNumber {
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
	case flowpb.FlowMessage_Type_FieldNumber:
		m.Type = flowpb.FlowMessage_FlowType(int32(v))
	case flowpb.FlowMessage_SamplingRate_FieldNumber:
		m.SamplingRate = v
	case flowpb.FlowMessage_Bytes_FieldNumber:
		m.Bytes = v
	case flowpb.FlowMessage_Packets_FieldNumber:
		m.Packets = v
	case flowpb.FlowMessage_SrcAs_FieldNumber:
		m.SrcAs = small
	case flowpb.FlowMessage_DstAs_FieldNumber:
		m.DstAs = small
	case flowpb.FlowMessage_InIf_FieldNumber:
		m.InIf = small
	case flowpb.FlowMessage_OutIf_FieldNumber:
		m.OutIf = small
	case flowpb.FlowMessage_Proto_FieldNumber:
		m.Proto = small
	case flowpb.FlowMessage_SrcPort_FieldNumber:
		m.SrcPort = small
	case flowpb.FlowMessage_DstPort_FieldNumber:
		m.DstPort = small
	case flowpb.FlowMessage_IpTos_FieldNumber:
		m.IpTos = small
	case flowpb.FlowMessage_TcpFlags_FieldNumber:
		m.TcpFlags = small
	case flowpb.FlowMessage_SrcMac_FieldNumber:
		m.SrcMac = v
	case flowpb.FlowMessage_DstMac_FieldNumber:
		m.DstMac = v
	case flowpb.FlowMessage_VlanId_FieldNumber:
		m.VlanId = small
	case flowpb.FlowMessage_IcmpType_FieldNumber:
		m.IcmpType = small
	case flowpb.FlowMessage_IcmpCode_FieldNumber:
		m.IcmpCode = small
	case flowpb.FlowMessage_SrcVlan_FieldNumber:
		m.SrcVlan = small
	case flowpb.FlowMessage_DstVlan_FieldNumber:
		m.DstVlan = small
	case flowpb.FlowMessage_ObservationDomainId_FieldNumber:
		m.ObservationDomainId = small
	case flowpb.FlowMessage_TimeReceivedNs_FieldNumber:
		m.TimeReceivedNs = v
	case flowpb.FlowMessage_TimeFlowStartNs_FieldNumber:
		m.TimeFlowStartNs = v
	case flowpb.FlowMessage_TimeFlowEndNs_FieldNumber:
		m.TimeFlowEndNs = v
	case flowpb.FlowMessage_TimeExportNs_FieldNumber:
		m.TimeExportNs = v
	case flowpb.FlowMessage_TimeSource_FieldNumber:
		m.TimeSource = flowpb.TimeSource(int32(v))
	case flowpb.FlowMessage_TimeResolutionUs_FieldNumber:
		m.TimeResolutionUs = small
	case flowpb.FlowMessage_RecordOffset_FieldNumber:
		m.RecordOffset = small
	case flowpb.FlowMessage_FlowEndReason_FieldNumber:
		m.FlowEndReason = small
	case flowpb.FlowMessage_FlowDirection_FieldNumber:
		m.FlowDirection = flowpb.FlowDirection(int32(v))
	case flowpb.FlowMessage_BiflowDirection_FieldNumber:
		m.BiflowDirection = flowpb.BiflowDirection(int32(v))
	case flowpb.FlowMessage_Biflow_FieldNumber:
		m.Biflow = v != 0
	case flowpb.FlowMessage_ReverseBytes_FieldNumber:
		m.ReverseBytes = v
	case flowpb.FlowMessage_ReversePackets_FieldNumber:
		m.ReversePackets = v
	case flowpb.FlowMessage_ReverseTcpFlags_FieldNumber:
		m.ReverseTcpFlags = small
	case flowpb.FlowMessage_ReverseTimeFlowStartNs_FieldNumber:
		m.ReverseTimeFlowStartNs = v
	case flowpb.FlowMessage_ReverseTimeFlowEndNs_FieldNumber:
		m.ReverseTimeFlowEndNs = v
	case flowpb.FlowMessage_ReverseIpTos_FieldNumber:
		m.ReverseIpTos = small
	case flowpb.FlowMessage_PostNatSrcPort_FieldNumber:
		m.PostNatSrcPort = small
	case flowpb.FlowMessage_PostNatDstPort_FieldNumber:
		m.PostNatDstPort = small
	case flowpb.FlowMessage_NatEvent_FieldNumber:
		m.NatEvent = small
	case flowpb.FlowMessage_FirewallEvent_FieldNumber:
		m.FirewallEvent = small
	case flowpb.FlowMessage_FlowId_FieldNumber:
		m.FlowId = v
	case flowpb.FlowMessage_IngressVrfId_FieldNumber:
		m.IngressVrfId = small
	case flowpb.FlowMessage_EgressVrfId_FieldNumber:
		m.EgressVrfId = small
	case flowpb.FlowMessage_SamplingSource_FieldNumber:
		m.SamplingSource = flowpb.SamplingSource(int32(v))
	case flowpb.FlowMessage_SamplerId_FieldNumber:
		m.SamplerId = v
	case flowpb.FlowMessage_ExporterPort_FieldNumber:
		m.ExporterPort = small
	}
}

func readOctets(number protowire.Number, v []byte, m *flowpb.FlowMessage) error {
	var to *string
	switch number {
	case flowpb.FlowMessage_SrcAddr_FieldNumber:
		m.SrcAddr = v
	case flowpb.FlowMessage_DstAddr_FieldNumber:
		m.DstAddr = v
	case flowpb.FlowMessage_SamplerAddress_FieldNumber:
		m.SamplerAddress = v
	case flowpb.FlowMessage_PostNatSrcAddr_FieldNumber:
		m.PostNatSrcAddr = v
	case flowpb.FlowMessage_PostNatDstAddr_FieldNumber:
		m.PostNatDstAddr = v
	case flowpb.FlowMessage_ApplicationId_FieldNumber:
		m.ApplicationId = v
	case flowpb.FlowMessage_ApplicationName_FieldNumber:
		to = &m.ApplicationName
	case flowpb.FlowMessage_InIfName_FieldNumber:
		to = &m.InIfName
	case flowpb.FlowMessage_OutIfName_FieldNumber:
		to = &m.OutIfName
	case flowpb.FlowMessage_IngressVrfName_FieldNumber:
		to = &m.IngressVrfName
	case flowpb.FlowMessage_EgressVrfName_FieldNumber:
		to = &m.EgressVrfName
	case flowpb.FlowMessage_ExporterName_FieldNumber:
		to = &m.ExporterName
	case flowpb.FlowMessage_Site_FieldNumber:
		to = &m.Site
	case flowpb.FlowMessage_AddressPlan_FieldNumber:
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
