package conformance

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weir/internal/cli"
	"weir/internal/weirtest/tsv"
)

// Causes of different record counts. They are cells of docs/conformance.md.
const (
	early     = "Weir decodes data that arrives before its template; the other decoder drops it"
	ports     = "Weir's template key has no source port, so templates and data may arrive from different ports"
	beyond    = "Weir decodes the complete records of a set whose length exceeds the datagram"
	noScope   = "Weir refuses an options template without a scope (RFC 7011 section 3.4.2.2)"
	stops     = "tshark reads at most as many v9 sets as the header's record count"
	odd4      = "tshark drops the rest of a datagram after an IPv4 element whose length is not 4"
	keeps     = "tshark does not replace the first definition of a template ID"
	v9Sets    = "tshark reads IPFIX sets with the reserved IDs 0 and 1 (RFC 7011 section 3.3.2) as NetFlow v9 templates"
	cut       = "tshark counts a truncated record"
	unknown   = "nfdump drops records in which it knows no element"
	tooMany   = "nfdump drops a v5 datagram that is too short for its record count"
	varOnly   = "the other decoder does not read templates with only variable-length fields"
	malformed = "libfixbuf rejects a malformed message as a whole"
	pythonPad = "netflow (Python) reads a record in the padding of a v9 set"
)

// refuses maps the error that the Python package raises when it rejects a whole datagram to
// the cause in docs/conformance.md.
var refuses = map[string]string{
	"PaddingCalculationError": "netflow (Python) reads the variable length 65535 as a number of octets, and the rest of the set as bad padding",
	"struct.error":            ends,
	"IndexError":              ends,
	"IPFIXMalformedPacket":    ends,
	"AttributeError":          "netflow (Python) rejects a datagram with an enterprise-specific element",
	"ValueError":              "netflow (Python) rejects a datagram with an unsupported length in an options template or a record",
	"taken for hex":           "netflow (Python) parses a datagram whose octets are valid UTF-8 as hexadecimal text",
	"IPFIXRFCError":           "netflow (Python) rejects a datagram with a reserved set ID",
	"IPFIXTemplateError":      "netflow (Python) rejects a whole datagram because of one template",
	"RuntimeError":            "netflow (Python) fails on a template withdrawal",
	"UnknownExportVersion":    "netflow (Python) does not support v7",
	"no template":             "netflow (Python) rejects a whole datagram when the template of one set is unknown",
	"endless":                 "netflow (Python) loops forever on a set of length 0",
}

const ends = "netflow (Python) rejects a datagram that is shorter than its counts or lengths"

// because holds the cause of each different count: decoder → capture → cause.
var because = map[string]map[string]string{
	"reference": {
		"pmacct__112_IPFIXv10_CISCO_options_map_reassignment_t00":               ports,
		"vermont__variable_length_template_and_data_exceeding_message_boundary": beyond,
		"libnetflow9__case_malformed_2":                                         beyond,
		"telegraf__issue_14370":                                                 beyond,
		"calmh__parser_test__TestBadEncodingError":                              beyond,
		"netflowpl__Net_Flow__top":                                              noScope,
	},
	"tshark": {
		"logstash__Netflow_9_invalid_01": stops, "logstash__netflow9_old": stops, "logstash__Netflow_9_H3C": odd4,
		"opennms__juniper_data_before_template": early, "akvorado__data_templates": early, "graylog__data_datatemplate": early,
		"softflowdpy__v9_template_mixed": early, "softflowdpy__v9_data_before_template": early, "vflow__decoder_test__TestDecodeDataTpl": early,
		"pmacct__112_IPFIXv10_CISCO_options_map_reassignment_t00": ports,
		"vermont__correct_variable_length_template_and_data":      varOnly, "vermont__variable_length_template_and_data_exceeding_message_boundary": varOnly,
		"netflowparser__tests__it_parses_ipfix_with_v9_options_template_packet": v9Sets, "scapy__netflow__top": v9Sets,
		"netgauze__netflow__test_records_len_larger_than_count": keeps, "calmh__parser_test__TestBadEncodingError": cut,
	},
	"libfixbuf": {
		"graylog__data_datatemplate": early, "vflow__decoder_test__TestDecodeDataTpl": early,
		"pmacct__112_IPFIXv10_CISCO_options_map_reassignment_t00": ports,
		"vermont__correct_variable_length_template_and_data":      varOnly, "vermont__variable_length_template_and_data_exceeding_message_boundary": varOnly,
		"telegraf__issue_14370": beyond, "netflowparser__tests__it_parses_ipfix_with_v9_options_template_packet": malformed,
	},
	"netflow": {
		"netflowparser__tests__it_parses_v9_template_and_data_packet": pythonPad, "local__softflowd_v9": pythonPad,
	},
	"nfdump": {
		"logstash__Netflow_5_invalid_02":        tooMany,
		"opennms__juniper_data_before_template": early, "akvorado__data_templates": early, "graylog__data_datatemplate": early,
		"softflowdpy__v9_template_mixed": early, "softflowdpy__v9_data_before_template": early, "vflow__decoder_test__TestDecodeDataTpl": early,
		"akvorado__eompls_cw": unknown, "akvorado__ipfix_srv6": unknown, "akvorado__juniper_cpid": unknown, "graylog__basiclist": unknown,
		"vermont__correct_variable_length_template_and_data": unknown, "vermont__variable_length_template_and_data_exceeding_message_boundary": unknown,
		"sav__scenario1": unknown, "netflowparser__tests__it_parses_ipfix_enterprise_bit_template_and_data": unknown,
		"netflowparser__tests__ipfix_repeated_information_elements_parse_template_and_data": unknown, "netflowparser__tests__it_parses_ipfix_multiple_flow_records": unknown,
		"netgauze__ipfix__test_with_unknown_pen": unknown, "calmh__parser_test__testParseDataSet": unknown,
		"calmh__parser_test__TestBadEncodingError": unknown, "goipfix__ipv4": unknown, "netflowpl__Net_Flow__top": unknown,
	},
}

var summary = regexp.MustCompile(`flows=(\d+) options=(\d+)`)

// counts returns the numbers of flows and options records that weir decode prints for a capture.
func counts(t *testing.T, path string) (flows, options int) {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := cli.Main([]string{"decode", "--json", path}, strings.NewReader(""), &out, &errOut); code != 0 {
		t.Fatalf("%s: exit code %d: %s", path, code, &errOut)
	}
	m := summary.FindStringSubmatch(errOut.String())
	flows, _ = strconv.Atoi(m[1])
	options, _ = strconv.Atoi(m[2])
	return flows, options
}

func TestEachDifferenceToOtherDecodersHasItsRule(t *testing.T) {
	const index = "../../../shared/corpus/INDEX.tsv"
	if _, err := os.Stat(index); err != nil {
		t.Skipf("SKIPPED: no corpus: %v", err)
	}
	list := tsv.Read(t, index)
	theirs := ofPython(t)
	causes := map[string][]string{} // cause → captures with the counts that differ
	used, agree, most := map[string]int{}, map[string]int{}, map[string]int{}
	for _, r := range list {
		name := strings.TrimSuffix(filepath.Base(r.At("file")), ".pcap")
		path := filepath.Join(filepath.Dir(index), r.At("file"))
		flows, options := counts(t, path)
		number := func(column string) (n int, ok bool) {
			n, err := strconv.Atoi(r.At(column))
			return n, err == nil
		}
		late, _ := number("late_records_ref")
		counts := map[string][]string{} // cause → for example "tshark 1 of 16"
		compare := func(other string, ours, n int, cell string, known bool, why ...string) {
			if !known {
				return
			}
			if said := because[other][name]; said != "" {
				why = append(why, said)
			}
			most[other]++
			switch {
			case n == ours && because[other][name] != "":
				t.Errorf("%s: the count of %s is equal, although a cause is listed: %s", name, other, why)
			case n == ours:
				agree[other]++
			case len(why) == 0:
				t.Errorf("%s: %s counts %d records, Weir %d: the difference has no cause", name, other, n, ours)
			default:
				used[other+name]++
				number, errors, _ := strings.Cut(cell, ", ")
				shown := fmt.Sprintf("%s %s of %d", shownAs[other], number, ours)
				if errors != "" {
					shown += ": " + errors
				}
				for _, cause := range why {
					counts[cause] = append(counts[cause], shown)
				}
			}
		}
		for _, other := range []struct {
			name, column string
			ours, more   int
		}{
			{"reference", "records_ref", flows + options, late}, {"tshark", "records_tshark", flows + options, 0},
			{"libfixbuf", "records_fixbuf", flows + options, 0}, {"nfdump", "flows_nfdump", flows, 0},
		} {
			n, ok := number(other.column)
			compare(other.name, other.ours, n+other.more, strconv.Itoa(n+other.more), ok)
		}
		p, ok := theirs[name]
		compare("netflow", asPythonCounts(decoded(t, captured(t, path))), p.flows, p.String(), ok, p.rules()...)
		for cause, differ := range counts {
			causes[cause] = append(causes[cause], fmt.Sprintf("%s (%s)", name, strings.Join(differ, "; ")))
		}
	}
	for other, names := range because {
		for name := range names {
			if used[other+name] == 0 {
				t.Errorf("%s, %s: a cause is listed, but the counts are equal", other, name)
			}
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "\nOf %d captures, the record counts are equal", len(list))
	for i, other := range []string{"reference", "tshark", "libfixbuf", "nfdump", "netflow"} {
		fmt.Fprintf(&text, "%s to those of %s in %d of %d", map[bool]string{true: "", false: ","}[i == 0], inFull[other], agree[other], most[other])
	}
	text.WriteString(".\nThe different counts by cause, each with the other decoder's count and Weir's:\n\n| cause | captures |\n|---|---|\n")
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		fmt.Fprintf(&text, "| %s | %s |\n", cause, fold(causes[cause]))
	}
	text.WriteString("\n")
	between(t, differencesMark, text.String())
}

// inFull maps a decoder to its name in a sentence of the document.
var inFull = map[string]string{
	"reference": "the reference decoder", "tshark": "tshark", "libfixbuf": "libfixbuf", "nfdump": "nfdump", "netflow": "netflow (Python)",
}

// shownAs maps a decoder to its name in a cell of the document.
var shownAs = map[string]string{
	"reference": "reference", "tshark": "tshark", "libfixbuf": "libfixbuf", "nfdump": "nfdump", "netflow": "Python",
}
