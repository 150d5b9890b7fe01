package query

// ends names the fields that a property compares: those of the source and those of the destination, or, of a property
// without sides, those of the first alone. names are further fields, with texts, for patterns.
type ends struct {
	source, destination           []string
	sourceNames, destinationNames []string
}

var flowEnds = map[string]ends{
	"ip":   {source: []string{"src_addr"}, destination: []string{"dst_addr"}},
	"port": {source: []string{"src_port"}, destination: []string{"dst_port"}},
	"mask": {source: []string{"src_net"}, destination: []string{"dst_net"}},
	"as":   {source: []string{"src_as"}, destination: []string{"dst_as"}},
	"vlan": {source: []string{"src_vlan"}, destination: []string{"dst_vlan"}},
	"mac":  {source: []string{"src_mac"}, destination: []string{"dst_mac"}},
	"if":   {[]string{"in_if"}, []string{"out_if"}, []string{"in_if_name"}, []string{"out_if_name"}},
	"vrf": {
		[]string{"ingress_vrf_id"},
		[]string{"egress_vrf_id"},
		[]string{"ingress_vrf_name", "vrf_name"},
		[]string{"egress_vrf_name"},
	},
	"tos":        {source: []string{"ip_tos"}, destination: []string{"postIpClassOfService"}},
	"proto":      {source: []string{"proto"}},
	"flags":      {source: []string{"tcp_flags"}},
	"icmp-type":  {source: []string{"icmp_type"}},
	"icmp-code":  {source: []string{"icmp_code"}},
	"packets":    {source: []string{"packets"}, destination: []string{"reverse_packets"}},
	"octets":     {source: []string{"bytes"}, destination: []string{"reverse_bytes"}},
	"duration":   {source: []string{"duration"}},
	"bps":        {source: []string{"bps"}},
	"pps":        {source: []string{"pps"}},
	"bpp":        {source: []string{"bpp"}},
	"flowdir":    {source: []string{"flow_direction"}},
	"next ip":    {source: []string{"next_hop"}},
	"next as":    {source: []string{"next_hop_as"}},
	"prev as":    {source: []string{"bgpPrevAdjacentAsNumber"}},
	"bgpnext ip": {source: []string{"bgp_next_hop"}},
	"exporter":   {source: []string{"sampler_address"}, sourceNames: []string{"exporter_name"}},
	"service":    {source: []string{"service"}},
	"app":        {source: []string{"application_name"}},
	"sampled":    {source: []string{"sampling_rate"}},
}

var connectionEnds = map[string]ends{
	"ip": {
		source:      []string{"initiator.address", "initiator.nat_address"},
		destination: []string{"responder.address", "responder.nat_address"},
	},
	"host": {
		[]string{"initiator.address", "initiator.nat_address"},
		[]string{"responder.address", "responder.nat_address"},
		[]string{"initiator.name"},
		[]string{"responder.name"},
	},
	"port":    {source: []string{"initiator.port"}, destination: []string{"responder.port"}},
	"as":      {source: []string{"initiator.asn"}, destination: []string{"responder.asn"}},
	"country": {source: []string{"initiator.country"}, destination: []string{"responder.country"}},
	"vlan":    {source: []string{"forward.vlan"}, destination: []string{"reverse.vlan"}},
	"mac":     {source: []string{"initiator.mac"}, destination: []string{"responder.mac"}},
	"if": {
		[]string{"forward.input_if", "reverse.output_if"},
		[]string{"forward.output_if", "reverse.input_if"},
		[]string{"forward.input_if_name", "reverse.output_if_name"},
		[]string{"forward.output_if_name", "reverse.input_if_name"},
	},
	"vrf": {
		[]string{"forward.input_vrf", "reverse.output_vrf"},
		[]string{"forward.output_vrf", "reverse.input_vrf"},
		[]string{"forward.input_vrf_name", "reverse.output_vrf_name"},
		[]string{"forward.output_vrf_name", "reverse.input_vrf_name"},
	},
	"tos":       {source: []string{"forward.tos"}, destination: []string{"reverse.tos"}},
	"proto":     {source: []string{"protocol"}},
	"flags":     {source: []string{"tcp_flags"}},
	"icmp-type": {source: []string{"icmp_type"}},
	"icmp-code": {source: []string{"icmp_code"}},
	"packets":   {source: []string{"forward.packets"}, destination: []string{"reverse.packets"}},
	"octets":    {source: []string{"forward.octets"}, destination: []string{"reverse.octets"}},
	"flows":     {source: []string{"flows"}},
	"duration":  {source: []string{"duration"}},
	"bps":       {source: []string{"bps"}},
	"pps":       {source: []string{"pps"}},
	"bpp":       {source: []string{"bpp"}},
	"exporter":  {source: []string{"forward.exporter", "reverse.exporter"}},
	"service":   {source: []string{"service"}},
	"app":       {source: []string{"application_name"}},
	"state":     {source: []string{"conn_state"}},
	"sampled":   {source: []string{"sampling_rate"}},
}
