package conformance

// Markers of the document's tables of different values.
const (
	tsharkMark = "<!-- tshark: written by go test ./test/conformance -update -->"
	nfdumpMark = "<!-- nfdump: written by go test ./test/conformance -nfcapd nfcapd -update -->"
)

// Causes of different values of tshark. They are cells of docs/conformance.md.
const (
	tsharkZero   = "tshark shows an uptime of 0 as 1970-01-01"
	tsharkOrder  = "the start of the record is after its end; Weir swaps them"
	tsharkNUL    = "tshark cuts a string at its first NUL; Weir removes trailing NULs"
	tsharkNoSide = "Weir reads a flow direction of 255 as unknown (RFC 5102 defines 0 and 1)"
	tsharkClock  = "the header's clock is years before the start time in options data; Weir subtracts whole wraps of the uptime"
	tsharkPort   = "the exporter's start time came from another source port; Weir uses it for ports that sent none"
	tsharkLater  = "the exporter's start time follows the records in the message; Weir gives these the export time"
	tsharkMicros = "Weir ignores the lowest 11 bits of dateTimeMicroseconds (RFC 7011 section 6.1.9)"
)

// both returns a cause for the quantities start and end.
func both(rule string) map[string]string { return map[string]string{"start": rule, "end": rule} }

// tsharkMeans holds the cause of each different value of tshark: capture → quantity → cause.
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

// Causes of different values of nfdump in single captures. Causes that apply to every capture
// are in nfdump_test.go.
const (
	nfdumpReverse = "nfdump reads a reverse element (RFC 5103) as the forward element"
	nfdumpList    = "nfdump does not read YAF's TCP flags in a subTemplateMultiList"
	nfdumpOrder   = "the start of the record is after its end; Weir swaps them"
	nfdumpV7      = "nfdump reads the reserved word of the NetFlow v7 header as a sampling rate"
	nfdumpRepeats = "nfdump uses the last value of a repeated element, Weir the first"
	nfdumpDSCP    = "nfdump does not read ipDiffServCodePoint (195)"
	nfdumpIDs     = "the record has IPv6 addresses, and numbers in its IPv4 address elements; nfdump shows the numbers"
	nfdumpVarLen  = "nfdump reads octets of a variable-length element as those of another element"
	nfdumpNATICMP = "nfdump reads ICMP type and code from the source port"
	nfdumpClock   = "the header's clock and the start time in options data are years apart; nfdump adds the uptime to the start time"
	nfdumpUnion   = "nfdump does not read YAF's TCP flags (6871/14, 15)"
	nfdumpNoProto = "nfdump reads the ICMP type as a port when the template has no protocol"
)

// nfdumpMeans holds the cause of each different value of nfdump: capture → quantity → cause.
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
