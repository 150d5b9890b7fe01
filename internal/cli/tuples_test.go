package cli

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/tsv"
)

// A tuple holds source and destination address and port, protocol, octets and packets. A value that is 0 or absent
// is "".
type tuple [7]string

// fits reports whether u does not contradict the non-empty values of t. tshark has no columns for totals (IE 85,
// 86), counters of the initiator (231, 298), the protocol implied by ICMP fields, and IPv6 addresses in addition
// to IPv4 addresses.
func (t tuple) fits(u tuple) bool {
	for i := range t {
		if t[i] != "" && t[i] != u[i] {
			return false
		}
	}
	return true
}

const (
	early = "data before its template, which tshark does not decode"
	count = "tshark stops after as many v9 sets as the header counts records"
	vary  = "tshark does not resolve this template of variable-length fields"
)

// tsharksFaults lists the captures in which Weir finds more flows than tshark (more), or tshark shows a tuple
// without a corresponding flow (less).
var tsharksFaults = map[string]struct {
	more, less int
	why        string
}{
	"akvorado__data_templates":                                              {11, 0, early},
	"graylog__data_datatemplate":                                            {3, 0, early},
	"opennms__juniper_data_before_template":                                 {15, 0, early},
	"softflowdpy__v9_data_before_template":                                  {36, 0, early},
	"softflowdpy__v9_template_mixed":                                        {8, 0, early},
	"vflow__decoder_test__TestDecodeDataTpl":                                {4, 0, early},
	"logstash__Netflow_9_H3C":                                               {15, 0, "tshark drops the rest of a datagram at an IPv4 element whose length is not 4"},
	"logstash__Netflow_9_invalid_01":                                        {2, 0, count},
	"logstash__netflow9_old":                                                {2, 0, count},
	"vermont__correct_variable_length_template_and_data":                    {3, 0, vary},
	"vermont__variable_length_template_and_data_exceeding_message_boundary": {1, 0, vary},
	"pmacct__112_IPFIXv10_CISCO_options_map_reassignment_t00":               {9, 0, "templates and data come from different source ports, by which tshark keeps templates"},
	"sav__scenario1":                                                        {1, 1, "the address is one of a subTemplateList's records, not the flow's"},
	"scapy__netflow__top":                                                   {0, 1, "tshark reads set 0, reserved in IPFIX, as NetFlow v9's templates"},

	"netflowparser__tests__it_parses_ipfix_enterprise_bit_template_and_data": {1, 0, "the tuples of tshark's table are without client and server of AVC, which test/conformance compares"},

	"netgauze__srv6": {20, 20, outerTuple},
	"pmacct__106_IPFIXv10_HUAWEI_vrf_name_t00":                    {2, 2, outerTuple},
	"pmacct__403_IPFIXv10_BMP_IPv6_CISCO_locrib_peerdown_vrf_t00": {49, 49, outerTuple},
	"pmacct__500_IPFIXv10_BGP_CISCO_SRv6_t00":                     {4, 4, outerTuple},
	"pmacct__502_IPFIXv10_BGP_IPv6_CISCO_SRv6_lcomms_t00":         {4, 4, outerTuple},
}

func TestFlowsOfTheCorpusAreThoseOfTshark(t *testing.T) {
	list, _ := filepath.Glob(filepath.Join(filepath.Dir(captures.Shared(t, "corpus/INDEX.tsv")), "flows", "*.tsv"))
	equal := 0
	for _, path := range list {
		name := strings.TrimSuffix(filepath.Base(path), ".tsv")
		t.Run(name, func(t *testing.T) {
			theirs := tsharkTuples(t, path)
			ours := ourTuples(t, filepath.Join(filepath.Dir(path), "..", "pcap", name+".pcap"))
			more, less := compare(theirs, ours)
			want := tsharksFaults[name]
			if len(more) != want.more || len(less) != want.less {
				t.Errorf("flows that tshark does not show: want %d (%s), got %d: %q\nof tshark alone: want %d, got %d: %q",
					want.more, want.why, len(more), more[:min(3, len(more))], want.less, len(less), less[:min(3, len(less))])
			}
			if len(more)+len(less) == 0 {
				equal++
			}
		})
	}
	t.Logf("%d of %d captures agree with tshark, %d differ by a named fault of it", equal, len(list), len(tsharksFaults))
}

// compare removes equal tuples, then tuples that fit, then tshark's empty rows, which are options data or flows
// without addresses.
func compare(theirs, ours []tuple) (more, less []tuple) {
	more = ours
	for _, same := range []func(a, b tuple) bool{func(a, b tuple) bool { return a == b }, tuple.fits} {
		less = nil
		for _, row := range theirs {
			if i := slices.IndexFunc(more, func(u tuple) bool { return same(row, u) }); i >= 0 && (row != tuple{} || more[i][0]+more[i][1] == "") {
				more = slices.Delete(more, i, i+1)
				continue
			}
			less = append(less, row)
		}
		theirs = less
	}
	return more, slices.DeleteFunc(theirs, func(row tuple) bool { return row == tuple{} })
}

func tsharkTuples(t *testing.T, path string) (all []tuple) {
	for _, row := range tsv.Read(t, path) {
		var u tuple
		for i := range u {
			u[i] = set(row.Cells[i])
		}
		all = append(all, u)
	}
	return all
}

func ourTuples(t *testing.T, path string) (all []tuple) {
	for _, m := range linesOf(t, run(t, "", "decode", "--json", path).out) {
		if m["record"] != "flow" {
			continue
		}
		all = append(all, flowTuple(m))
	}
	return all
}

// set returns s, "" for an unset value.
func set(s string) string {
	switch s {
	case "0", "0.0.0.0", "::":
		return ""
	}
	return s
}
