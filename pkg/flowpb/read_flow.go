package flowpb

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

var errFlow = errors.New("not a flow message")

// ReadPairingFields sets m to the fields of an encoded FlowMessage that enrich uses; other fields are unset. It takes a
// third of the time of proto.Unmarshal and allocates only strings. Addresses and other octets of m are slices of b: the
// caller must not modify b while it uses m. On an error, m holds an unspecified part of the fields.
//
// Like proto.Unmarshal it accepts fields in any order and uses the last occurrence of a repeated scalar field. A field
// that enrich begins to use must be added here.
func ReadPairingFields(b []byte, m *FlowMessage) error {
	m.Reset()
	for len(b) > 0 {
		var number protowire.Number
		var kind protowire.Type
		switch { // tags of one octet, of two, of more
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
			if number == FlowMessage_DatagramHash_FieldNumber {
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

// readNumber sets a varint field. Unused numbers are ignored.
func readNumber(number protowire.Number, v uint64, m *FlowMessage) {
	switch {
	case number < FlowMessage_ObservationDomainId_FieldNumber:
		readTuple(number, v, m)
	case number < FlowMessage_Biflow_FieldNumber:
		readTimes(number, v, m)
	default:
		readExtension(number, v, m)
	}
}

// readTuple sets a field of ports, interfaces and counters: field numbers below 70.
func readTuple(number protowire.Number, v uint64, m *FlowMessage) {
	small := uint32(v)
	switch number {
	case FlowMessage_Type_FieldNumber:
		m.Type = FlowMessage_FlowType(int32(v))
	case FlowMessage_SamplingRate_FieldNumber:
		m.SamplingRate = v
	case FlowMessage_Bytes_FieldNumber:
		m.Bytes = v
	case FlowMessage_Packets_FieldNumber:
		m.Packets = v
	case FlowMessage_SrcAs_FieldNumber:
		m.SrcAs = small
	case FlowMessage_DstAs_FieldNumber:
		m.DstAs = small
	case FlowMessage_InIf_FieldNumber:
		m.InIf = small
	case FlowMessage_OutIf_FieldNumber:
		m.OutIf = small
	case FlowMessage_Proto_FieldNumber:
		m.Proto = small
	case FlowMessage_SrcPort_FieldNumber:
		m.SrcPort = small
	case FlowMessage_DstPort_FieldNumber:
		m.DstPort = small
	case FlowMessage_IpTos_FieldNumber:
		m.IpTos = small
	case FlowMessage_TcpFlags_FieldNumber:
		m.TcpFlags = small
	case FlowMessage_SrcMac_FieldNumber:
		m.SrcMac = v
	case FlowMessage_DstMac_FieldNumber:
		m.DstMac = v
	case FlowMessage_VlanId_FieldNumber:
		m.VlanId = small
	case FlowMessage_IcmpType_FieldNumber:
		m.IcmpType = small
	case FlowMessage_IcmpCode_FieldNumber:
		m.IcmpCode = small
	case FlowMessage_SrcVlan_FieldNumber:
		m.SrcVlan = small
	case FlowMessage_DstVlan_FieldNumber:
		m.DstVlan = small
	}
}

// readTimes sets a field of times or of the origin of a record: field numbers 70 to 209.
func readTimes(number protowire.Number, v uint64, m *FlowMessage) {
	small := uint32(v)
	switch number {
	case FlowMessage_ObservationDomainId_FieldNumber:
		m.ObservationDomainId = small
	case FlowMessage_TimeReceivedNs_FieldNumber:
		m.TimeReceivedNs = v
	case FlowMessage_TimeFlowStartNs_FieldNumber:
		m.TimeFlowStartNs = v
	case FlowMessage_TimeFlowEndNs_FieldNumber:
		m.TimeFlowEndNs = v
	case FlowMessage_TimeExportNs_FieldNumber:
		m.TimeExportNs = v
	case FlowMessage_TimeSource_FieldNumber:
		m.TimeSource = TimeSource(int32(v))
	case FlowMessage_TimeResolutionUs_FieldNumber:
		m.TimeResolutionUs = small
	case FlowMessage_RecordOffset_FieldNumber:
		m.RecordOffset = small
	case FlowMessage_FlowEndReason_FieldNumber:
		m.FlowEndReason = small
	case FlowMessage_FlowDirection_FieldNumber:
		m.FlowDirection = FlowDirection(int32(v))
	case FlowMessage_BiflowDirection_FieldNumber:
		m.BiflowDirection = BiflowDirection(int32(v))
	}
}

// readExtension sets a field of biflows, NAT, firewalls, VRFs or sampling: field numbers from 210 on.
func readExtension(number protowire.Number, v uint64, m *FlowMessage) {
	small := uint32(v)
	switch number {
	case FlowMessage_Biflow_FieldNumber:
		m.Biflow = v != 0
	case FlowMessage_ReverseBytes_FieldNumber:
		m.ReverseBytes = v
	case FlowMessage_ReversePackets_FieldNumber:
		m.ReversePackets = v
	case FlowMessage_ReverseTcpFlags_FieldNumber:
		m.ReverseTcpFlags = small
	case FlowMessage_ReverseTimeFlowStartNs_FieldNumber:
		m.ReverseTimeFlowStartNs = v
	case FlowMessage_ReverseTimeFlowEndNs_FieldNumber:
		m.ReverseTimeFlowEndNs = v
	case FlowMessage_ReverseIpTos_FieldNumber:
		m.ReverseIpTos = small
	case FlowMessage_PostNatSrcPort_FieldNumber:
		m.PostNatSrcPort = small
	case FlowMessage_PostNatDstPort_FieldNumber:
		m.PostNatDstPort = small
	case FlowMessage_NatEvent_FieldNumber:
		m.NatEvent = small
	case FlowMessage_FirewallEvent_FieldNumber:
		m.FirewallEvent = small
	case FlowMessage_FlowId_FieldNumber:
		m.FlowId = v
	case FlowMessage_IngressVrfId_FieldNumber:
		m.IngressVrfId = small
	case FlowMessage_EgressVrfId_FieldNumber:
		m.EgressVrfId = small
	case FlowMessage_SamplingSource_FieldNumber:
		m.SamplingSource = SamplingSource(int32(v))
	case FlowMessage_SamplerId_FieldNumber:
		m.SamplerId = v
	case FlowMessage_ExporterPort_FieldNumber:
		m.ExporterPort = small
	}
}

// readOctets sets a bytes or string field. A string that is not valid UTF-8 is an error, as for proto.Unmarshal.
func readOctets(number protowire.Number, v []byte, m *FlowMessage) error {
	var to *string
	switch number {
	case FlowMessage_SrcAddr_FieldNumber:
		m.SrcAddr = v
	case FlowMessage_DstAddr_FieldNumber:
		m.DstAddr = v
	case FlowMessage_SamplerAddress_FieldNumber:
		m.SamplerAddress = v
	case FlowMessage_PostNatSrcAddr_FieldNumber:
		m.PostNatSrcAddr = v
	case FlowMessage_PostNatDstAddr_FieldNumber:
		m.PostNatDstAddr = v
	case FlowMessage_ApplicationId_FieldNumber:
		m.ApplicationId = v
	case FlowMessage_ApplicationName_FieldNumber:
		to = &m.ApplicationName
	case FlowMessage_InIfName_FieldNumber:
		to = &m.InIfName
	case FlowMessage_OutIfName_FieldNumber:
		to = &m.OutIfName
	case FlowMessage_IngressVrfName_FieldNumber:
		to = &m.IngressVrfName
	case FlowMessage_EgressVrfName_FieldNumber:
		to = &m.EgressVrfName
	case FlowMessage_ExporterName_FieldNumber:
		to = &m.ExporterName
	case FlowMessage_Site_FieldNumber:
		to = &m.Site
	case FlowMessage_AddressPlan_FieldNumber:
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
