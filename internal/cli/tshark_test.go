package cli

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
)

// The rules derive from tshark's full decode the tuple of a flow for fields that the tuple columns lack.
const (
	ruleTotals    = "octetTotalCount and packetTotalCount (85, 86), where there are no deltas"
	ruleInitiator = "initiatorOctets and initiatorPackets (231, 298), where there are neither deltas nor totals"
	ruleICMP      = "protocol 1 or 58 by the ICMP elements (32, 176 to 179), where there is no protocolIdentifier (4)"
	ruleClient    = "client and server of Cisco AVC (9/12236 to 9/12241), where there are no addresses of IANA"
	ruleFamilies  = "the IPv6 addresses (27, 28), where the IPv4 ones beside them are 0.0.0.0"
)

// tsharkAlone lists the captures in which tshark's full decode has fewer flows than Weir (fewer), or a number of
// non-flow records that differs from the number of options records (others).
var tsharkAlone = map[string]struct {
	fewer, others int
	why           string
}{
	"logstash__Netflow_9_H3C":        {15, 0, "tshark drops the rest of a datagram at ipv4RouterSc (43) of 2 octets"},
	"logstash__Netflow_9_invalid_01": {2, -1, "tshark stops after header.count v9 sets: 2, both templates"},
	"logstash__netflow9_old":         {2, 0, "tshark stops after header.count v9 sets: 2, both templates"},
	"netflowparser__tests__it_parses_ipfix_with_v9_options_template_packet": {0, 1, "tshark reads set 1, reserved in IPFIX (RFC 7011 section 3.3.2), as NetFlow v9's options templates"},
	"scapy__netflow__top": {0, 1, "tshark reads set 0, reserved in IPFIX (RFC 7011 section 3.3.2), as NetFlow v9's templates"},
	"netgauze__netflow__test_records_len_larger_than_count":                 {0, 1, "tshark keeps the first of four definitions of template 43776; by the last one the set is shorter than a record"},
	"calmh__parser_test__TestBadEncodingError":                              {0, 1, "tshark shows the fields of a record up to where it leaves the message"},
	"pmacct__112_IPFIXv10_CISCO_options_map_reassignment_t00":               {9, 0, "tshark keeps templates by source port, and the data comes from another one"},
	"vermont__correct_variable_length_template_and_data":                    {3, 0, "tshark does not find a template, sent before, whose fields are all of variable length"},
	"vermont__variable_length_template_and_data_exceeding_message_boundary": {1, 0, "tshark does not find a template, sent before, whose fields are all of variable length"},

	"netgauze__srv6": {20, 20, outerTuple},
	"pmacct__106_IPFIXv10_HUAWEI_vrf_name_t00":                    {2, 2, outerTuple},
	"pmacct__403_IPFIXv10_BMP_IPv6_CISCO_locrib_peerdown_vrf_t00": {49, 49, outerTuple},
	"pmacct__500_IPFIXv10_BGP_CISCO_SRv6_t00":                     {4, 4, outerTuple},
	"pmacct__502_IPFIXv10_BGP_IPv6_CISCO_SRv6_lcomms_t00":         {4, 4, outerTuple},
}

// outerTuple is the reason for differences between tshark's tuples and those of flows in tunnels, see
// decode.TestTunnelsOfTheCorpus.
const outerTuple = "of repeated elements tshark shows the first here: protocol and ports of the outer packet, not of the flow in the tunnel"

// A shown record is a record in tshark's output: field → value, the first of several values.
type shown map[string]string

// tuple returns the tuple of the record and the rules that were applied.
func (s shown) tuple() (u tuple, rules map[string]bool) {
	rules = map[string]bool{}
	first := func(i int, fields ...string) (at int) {
		for at, f := range fields {
			if v := set(s[f]); v != "" {
				u[i] = v
				return at
			}
		}
		return 0
	}
	const avc = "cflow.pie.cisco.connection_"
	for i, f := range []struct{ address, end string }{{"cflow.srcaddr", avc + "client"}, {"cflow.dstaddr", avc + "server"}} {
		switch at := first(i, f.address, f.address+"v6", f.end+"_ipv4_address", f.end+"_ipv6_address"); {
		case at == 1 && s[f.address] != "":
			rules[ruleFamilies] = true
		case at >= 2:
			rules[ruleClient] = true
		}
	}
	first(2, "cflow.srcport", avc+"client_transport_port")
	first(3, "cflow.dstport", avc+"server_transport_port")
	first(4, "cflow.protocol")
	if s["cflow.protocol"] == "" {
		for _, of := range []struct{ family, proto string }{{"ipv4", "1"}, {"ipv6", "58"}} {
			if s["cflow.icmp_type_code_"+of.family]+s["cflow.icmp_"+of.family+"_type"]+s["cflow.icmp_"+of.family+"_code"] != "" {
				u[4], rules[ruleICMP] = of.proto, true
				break
			}
		}
	}
	for i, unit := range []string{"octets", "packets"} {
		switch first(5+i, "cflow."+unit, "cflow.permanent_"+unit, "cflow.initiator_"+unit) {
		case 1:
			rules[ruleTotals] = true
		case 2:
			rules[ruleInitiator] = true
		}
	}
	return u, rules
}

// aRecord matches tshark's names of records: pdu in v1, v5 and v7, Flow in the other versions.
var aRecord = regexp.MustCompile(`^(pdu|Flow) [0-9]+`)

// shownIn appends the records in v, a parsed JSON value. Records of structured data belong to the enclosing
// record.
func shownIn(all []shown, v any) []shown {
	switch v := v.(type) {
	case []any:
		for _, v := range v {
			all = shownIn(all, v)
		}
	case map[string]any:
		for name, in := range v {
			m, ok := in.(map[string]any)
			if !ok || !aRecord.MatchString(name) {
				all = shownIn(all, in)
				continue
			}
			rec := shown{}
			for field, v := range m {
				if several, ok := v.([]any); ok && len(several) > 0 {
					v = several[0]
				}
				if text, ok := v.(string); ok {
					rec[field] = text
				}
			}
			all = append(all, rec)
		}
	}
	return all
}

// tsharkRecords reads tshark's decode of a capture. If there is a decode in two passes it is preferred, since it
// knows templates that arrive after their data.
func tsharkRecords(t *testing.T, dir, capture string) []shown {
	f, err := os.Open(filepath.Join(dir, capture+".2pass.json.gz"))
	if err != nil {
		f, err = os.Open(filepath.Join(dir, capture+".json.gz"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.NewDecoder(z).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return shownIn(nil, v)
}

// Each flow must be a record of tshark with the same tuple, except for zeros. Each other record of tshark must be
// an options record.
func TestFlowsAndOptionsOfTheCorpusAreAllThatTsharkDecodes(t *testing.T) {
	dir := captures.Shared(t, "corpus/tshark")
	list, _ := filepath.Glob(filepath.Join(dir, "..", "pcap", "*.pcap"))
	equal, flows, by := 0, 0, map[string]int{}
	for _, path := range list {
		name := strings.TrimSuffix(filepath.Base(path), ".pcap")
		t.Run(name, func(t *testing.T) {
			ours, options := map[tuple]int{}, 0
			for _, m := range linesOf(t, run(t, "", "decode", "--json", path).out) {
				switch m["record"] {
				case "flow":
					ours[flowTuple(m)]++
				case "options":
					options++
				}
			}
			var others []tuple
			for _, rec := range tsharkRecords(t, dir, name) {
				u, rules := rec.tuple()
				if ours[u] == 0 {
					others = append(others, u)
					continue
				}
				ours[u]--
				flows++
				for r := range rules {
					by[r]++
				}
			}
			var more []tuple
			for u, n := range ours {
				for range n {
					more = append(more, u)
				}
			}
			want := tsharkAlone[name]
			if len(more) != want.fewer || len(others)-options != want.others {
				t.Errorf("want %d flows that tshark does not show, and beside %d options records %d others of tshark (%q)\n got %d flows %q\nand %d records of tshark %q",
					want.fewer, options, want.others, want.why, len(more), more[:min(4, len(more))], len(others), others[:min(4, len(others))])
			}
			if len(more) == 0 && len(others) == options {
				equal++
			}
		})
	}
	t.Logf("%d of %d captures agree fully with tshark, %d flows; %d differ by a named fault of it", equal, len(list), flows, len(tsharkAlone))
	for _, r := range []string{ruleTotals, ruleInitiator, ruleICMP, ruleClient, ruleFamilies} {
		t.Logf("%d flows by the rule: %s", by[r], r)
	}
}

// flowTuple returns the tuple of a flow in JSON.
func flowTuple(m map[string]any) (u tuple) {
	for i, k := range []string{"src_addr", "dst_addr", "src_port", "dst_port", "proto", "bytes", "packets"} {
		if v, ok := m[k]; ok {
			u[i] = set(fmt.Sprint(v))
		}
	}
	return u
}
