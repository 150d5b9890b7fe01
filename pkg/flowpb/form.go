package flowpb

import "google.golang.org/protobuf/reflect/protoreflect"

// A Form is the interpretation of a scalar field's octets or number where its type in the schema leaves it open.
type Form uint8

// The forms of values.
const (
	Plain   Form = iota // as the type of the field
	Address             // an IPv4 or IPv6 address: 4 or 16 octets
	MAC                 // a MAC address: 6 octets, or the low 48 bits of a number
)

// forms maps the full names of fields to their forms, except Plain. A new field with an address must be added.
var forms = map[protoreflect.FullName]Form{
	"weir.v1.FlowMessage.src_addr":                      Address,
	"weir.v1.FlowMessage.dst_addr":                      Address,
	"weir.v1.FlowMessage.sampler_address":               Address,
	"weir.v1.FlowMessage.next_hop":                      Address,
	"weir.v1.FlowMessage.bgp_next_hop":                  Address,
	"weir.v1.FlowMessage.mpls_ip":                       Address,
	"weir.v1.FlowMessage.ipv6_routing_header_addresses": Address,
	"weir.v1.FlowMessage.post_nat_src_addr":             Address,
	"weir.v1.FlowMessage.post_nat_dst_addr":             Address,
	"weir.v1.FlowMessage.tunnel_src_addr":               Address,
	"weir.v1.FlowMessage.tunnel_dst_addr":               Address,
	"weir.v1.FlowMessage.station_addr":                  Address,
	"weir.v1.FlowMessage.station_mac":                   MAC,
	"weir.v1.FlowMessage.src_mac":                       MAC,
	"weir.v1.FlowMessage.dst_mac":                       MAC,
	"weir.v1.Endpoint.address":                          Address,
	"weir.v1.Endpoint.nat_address":                      Address,
	"weir.v1.Endpoint.mac":                              MAC,
	"weir.v1.Traffic.exporter":                          Address,
}

// FormOf returns the form of a field of this package's messages. The elements of a repeated field have its form.
func FormOf(fd protoreflect.FieldDescriptor) Form { return forms[fd.FullName()] }
