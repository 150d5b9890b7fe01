package conformance

// The parts of the document that say what values differ.
const (
	tsharkMark = "<!-- tshark: written by go test ./test/conformance -update -->"
	nfdumpMark = "<!-- nfdump: written by go test ./test/conformance -nfcapd nfcapd -update -->"
)

// Why tshark reads values otherwise.
const (
	tsharkZero   = "tshark shows an uptime of 0 as the epoch"
	tsharkOrder  = "the start of the record lies after its end; Weir puts them in order"
	tsharkNUL    = "tshark ends a string at its first NUL; Weir removes NULs at the end"
	tsharkNoSide = "a flow direction of 255 is none (RFC 5102 has 0 and 1)"
	tsharkClock  = "the header's clock is years before the start that options data state; Weir goes back by whole wraps of the uptime"
	tsharkPort   = "another source port stated the exporter's start; Weir takes it where a port stated none"
	tsharkLater  = "the exporter's start comes after the records of the message; they have the export time"
	tsharkMicros = "the lowest 11 bits of dateTimeMicroseconds do not count (RFC 7011 section 6.1.9)"
)

// both is a rule for start and end.
func both(rule string) map[string]string { return map[string]string{"start": rule, "end": rule} }

// tsharkMeans says why tshark reads values of a capture otherwise: capture → quantity → rule.
var tsharkMeans = map[string]map[string]string{
	"logstash__Netflow_9_multiple_netflow_exporters": {"start": tsharkZero},
	"logstash__IPFIX":                   {"start": tsharkZero},
	"libnetflow9__case_1":               both(tsharkZero),
	"logstash__Netflow_5_invalid_02":    both(tsharkOrder),
	"arkime__synthetic_subset":          both(tsharkOrder),
	"logstash__Netflow_9_nprobe_DPI_L7": {"application name": tsharkNUL},
	"opennms__nms_14130":                {"direction": tsharkNoSide},
	"softflowdpy__ipfix":                both(tsharkClock),
	"softflowdpy__ipfix_ether":          both(tsharkPort),
	"softflowdpy__ipfix_padding":        both(tsharkLater),
	"netflowparser__tests__it_parses_ipfix_multiple_flow_records": both(tsharkMicros),
}

// Why nfdump reads values of some captures otherwise; rules that hold in each capture are in
// nfdump_test.go.
const (
	nfdumpReverse = "nfdump takes a reverse element (RFC 5103) for the forward one"
	nfdumpList    = "nfdump does not read the TCP flags of YAF in a subTemplateMultiList"
	nfdumpOrder   = "the start of the record lies after its end; Weir puts them in order"
	nfdumpV7      = "nfdump takes the reserved word of the NetFlow v7 header for a sampling rate"
	nfdumpRepeats = "nfdump keeps the last of a repeated element, Weir the first"
	nfdumpDSCP    = "nfdump does not read ipDiffServCodePoint (195)"
	nfdumpIDs     = "the record has numbers in place of IPv4 addresses beside its IPv6 addresses; nfdump shows those"
	nfdumpVarLen  = "nfdump reads octets of a variable-length element as another element"
	nfdumpNATICMP = "nfdump takes ICMP type and code from the source port"
	nfdumpClock   = "the header's clock is years from the start that options data state; nfdump adds the uptime to that start"
	nfdumpUnion   = "nfdump does not read the TCP flags of YAF (6871/14, 15)"
	nfdumpNoProto = "nfdump takes the ICMP type for a port where the template has no protocol"
)

// nfdumpMeans says why nfdump reads values of a capture otherwise.
var nfdumpMeans = map[string]map[string]string{
	"logstash__IPFIX_YAF_basic_with_applabel":                                           {"type of service": nfdumpReverse, "TCP flags": nfdumpUnion},
	"local__softflowd_ipfix_biflow":                                                     {"TCP flags": nfdumpReverse, "type of service": nfdumpReverse},
	"arkime__synthetic_subset":                                                          both(nfdumpOrder),
	"netflowparser__tests__it_parses_v7":                                                {"octets": nfdumpV7, "packets": nfdumpV7},
	"netflowparser__tests__it_parses_multiple_packets":                                  {"octets": nfdumpV7, "packets": nfdumpV7},
	"netflowparser__tests__ipfix_repeated_information_elements_parse_template_and_data": {"conversation": nfdumpRepeats},
	"netflowjs__cisco_sdwan":                                                            {"type of service": nfdumpDSCP},
	"softflowdpy__ipfix":                                                                {"conversation": nfdumpNoProto, "start": nfdumpClock, "end": nfdumpClock},
	"softflowdpy__ipfix_ether":                                                          {"conversation": nfdumpNoProto, "start": nfdumpClock, "end": nfdumpClock},
	"logstash__IPFIX_Procera":                                                           {"conversation": nfdumpIDs},
	"sav__scenario1":                                                                    {"conversation": nfdumpVarLen, "input interface": nfdumpVarLen},
	"logstash__bench_yaf_ipfix_stml":                                                    {"TCP flags": nfdumpList},
	"telegraf__ipfix_example":                                                           {"TCP flags": nfdumpList},
	"netgauze__ipfix__test_with_nokia_pen_fields":                                       {"ICMP type": nfdumpNATICMP, "ICMP code": nfdumpNATICMP},
}
