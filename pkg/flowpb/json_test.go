package flowpb_test

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

// The table is written by hand from docs/consumers.md: a new integer field of 64 bits must be added to it.
func TestEachIntegerOf64BitsIsANumberOrAString(t *testing.T) {
	const number, text = false, true
	want := map[protoreflect.FullName]bool{
		"weir.v1.FlowMessage.sampling_rate":              number,
		"weir.v1.FlowMessage.bytes":                      number,
		"weir.v1.FlowMessage.packets":                    number,
		"weir.v1.FlowMessage.reverse_bytes":              number,
		"weir.v1.FlowMessage.reverse_packets":            number,
		"weir.v1.FlowMessage.total_bytes":                number,
		"weir.v1.FlowMessage.total_packets":              number,
		"weir.v1.FlowMessage.post_bytes":                 number,
		"weir.v1.FlowMessage.post_packets":               number,
		"weir.v1.FlowMessage.src_mac":                    text,
		"weir.v1.FlowMessage.dst_mac":                    text,
		"weir.v1.FlowMessage.station_mac":                text,
		"weir.v1.FlowMessage.time_received_ns":           text,
		"weir.v1.FlowMessage.time_flow_start_ns":         text,
		"weir.v1.FlowMessage.time_flow_end_ns":           text,
		"weir.v1.FlowMessage.time_export_ns":             text,
		"weir.v1.FlowMessage.datagram_hash":              text,
		"weir.v1.FlowMessage.reverse_time_flow_start_ns": text,
		"weir.v1.FlowMessage.reverse_time_flow_end_ns":   text,
		"weir.v1.FlowMessage.flow_id":                    text,
		"weir.v1.FlowMessage.sampler_id":                 text,
		"weir.v1.FlowMessage.tunnel_id":                  text,
		"weir.v1.Connection.start_unix_ns":               text,
		"weir.v1.Connection.end_unix_ns":                 text,
		"weir.v1.Connection.first_received_unix_ns":      text,
		"weir.v1.Connection.emitted_unix_ns":             text,
		"weir.v1.Traffic.octets":                         number,
		"weir.v1.Traffic.packets":                        number,
		"weir.v1.Traffic.octets_est":                     number,
		"weir.v1.Traffic.packets_est":                    number,
		"weir.v1.Traffic.sampling_rate_min":              number,
		"weir.v1.Traffic.sampling_rate_max":              number,
		"weir.v1.Traffic.start_unix_ns":                  text,
		"weir.v1.Traffic.end_unix_ns":                    text,
	}
	seen := map[protoreflect.FullName]bool{}
	var visit func(m protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			fd := m.Fields().Get(i)
			switch fd.Kind() {
			case protoreflect.MessageKind:
				visit(fd.Message())
			case protoreflect.Int64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
				w, ok := want[fd.FullName()]
				if got := flowpb.JSONString(fd); !ok || got != w {
					t.Errorf("%s: a string: %v; want %v, in the table: %v", fd.FullName(), got, w, ok)
				}
				seen[fd.FullName()] = true
			default:
				if flowpb.JSONString(fd) {
					t.Errorf("%s has no 64 bits", fd.FullName())
				}
			}
		}
	}
	visit((&flowpb.FlowMessage{}).ProtoReflect().Descriptor())
	visit((&flowpb.Connection{}).ProtoReflect().Descriptor())
	if len(seen) != len(want) {
		t.Errorf("the schema has %d of the %d fields of the table", len(seen), len(want))
	}
}
