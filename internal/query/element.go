package query

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
)

// typed maps the names of Information Elements, in lower case, to the fields of FlowMessage that have their values.
// Elements that are not listed are looked for among the elements that the message carries as octets.
var typed = map[string]string{
	"octetdeltacount": "bytes", "packetdeltacount": "packets", "protocolidentifier": "proto", "ipclassofservice": "ip_tos",
	"tcpcontrolbits": "tcp_flags", "sourcetransportport": "src_port", "destinationtransportport": "dst_port",
	"sourceipv4address": "src_addr", "sourceipv6address": "src_addr", "destinationipv4address": "dst_addr",
	"destinationipv6address": "dst_addr", "sourceipv4prefixlength": "src_net", "sourceipv6prefixlength": "src_net",
	"destinationipv4prefixlength": "dst_net", "destinationipv6prefixlength": "dst_net", "ingressinterface": "in_if",
	"egressinterface": "out_if", "ipnexthopipv4address": "next_hop", "ipnexthopipv6address": "next_hop",
	"bgpsourceasnumber": "src_as", "bgpdestinationasnumber": "dst_as", "bgpnextadjacentasnumber": "next_hop_as",
	"bgpnexthopipv4address": "bgp_next_hop", "bgpnexthopipv6address": "bgp_next_hop", "icmptypeipv4": "icmp_type",
	"icmptypeipv6": "icmp_type", "icmpcodeipv4": "icmp_code", "icmpcodeipv6": "icmp_code", "vlanid": "src_vlan",
	"postvlanid": "dst_vlan", "dot1qvlanid": "vlan_id", "postdot1qvlanid": "dst_vlan", "flowdirection": "flow_direction",
	"sourcemacaddress": "src_mac", "destinationmacaddress": "dst_mac", "ethernettype": "etype", "ipttl": "ip_ttl",
	"fragmentidentification": "fragment_id", "fragmentoffset": "fragment_offset", "fragmentflags": "ip_flags",
	"flowlabelipv6": "ipv6_flow_label", "flowendreason": "flow_end_reason", "flowid": "flow_id",
	"forwardingstatus": "forwarding_status", "biflowdirection": "biflow_direction",
	"postnatsourceipv4address": "post_nat_src_addr", "postnatsourceipv6address": "post_nat_src_addr",
	"postnatdestinationipv4address": "post_nat_dst_addr", "postnatdestinationipv6address": "post_nat_dst_addr",
	"postnaptsourcetransportport": "post_nat_src_port", "postnaptdestinationtransportport": "post_nat_dst_port",
	"natevent": "nat_event", "firewallevent": "firewall_event", "ingressvrfid": "ingress_vrf_id",
	"egressvrfid": "egress_vrf_id", "vrfname": "vrf_name", "interfacename": "interface_name",
	"interfacedescription": "interface_description", "applicationname": "application_name", "username": "user_name",
	"octettotalcount": "total_bytes", "packettotalcount": "total_packets", "postoctetdeltacount": "post_bytes",
	"postpacketdeltacount": "post_packets", "observationdomainid": "observation_domain_id",
	"observationpointid": "observation_point_id",
}

var elementFields sync.Map // name in lower case: *Field

// lookupElement returns the field of an Information Element.
func lookupElement(name string) (f *Field, ok bool) {
	name = strings.ToLower(name)
	if field := typed[name]; field != "" {
		return Flows().fields[field], true
	}
	if f, ok := elementFields.Load(name); ok {
		return f.(*Field), true
	}
	e, ok := ie.ByName(name)
	if !ok {
		return nil, false
	}
	f = &Field{Name: e.Name, Kind: kindOf(e.Type)}
	if x, ok := ie.Extended(e.PEN, e.ID); ok && x.Field != 0 {
		f.path = path{protowire.Number(x.Field)}
	} else {
		f.ie = &element{e.PEN, e.ID, e.Type}
	}
	shared, _ := elementFields.LoadOrStore(name, f)
	return shared.(*Field), true
}

func kindOf(t ie.Type) Kind {
	switch t {
	case ie.Unsigned, ie.Boolean, ie.Seconds, ie.Milliseconds, ie.Microseconds, ie.Nanoseconds:
		return Number
	case ie.Signed:
		return Signed
	case ie.MacAddress:
		return MAC
	case ie.IPv4, ie.IPv6:
		return Address
	case ie.String:
		return Text
	}
	return Octets
}
