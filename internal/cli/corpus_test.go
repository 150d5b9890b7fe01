package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/tsv"
)

// otherwise lists the captures with other counts of flows and options records than the reference decoder of the
// corpus, and the reasons. The reference decoder keys templates by source port and drops malformed datagrams.
var otherwise = map[string]struct {
	flows, options int
	why            string
}{
	"pmacct__112_IPFIXv10_CISCO_options_map_reassignment_t00.pcap":               {9, 76, "templates and data come from different source ports"},
	"vermont__variable_length_template_and_data_exceeding_message_boundary.pcap": {1, 0, "the set ends beyond the message, its first record within"},
	"libnetflow9__case_malformed_2.pcap":                                         {0, 12, "whole records of sets that end beyond the datagram"},
	"telegraf__issue_14370.pcap":                                                 {2, 0, "a whole record of a set that ends beyond the datagram"},
	"calmh__parser_test__TestBadEncodingError.pcap":                              {40, 0, "a whole record of a set that ends beyond the datagram"},
	"netflowpl__Net_Flow__top.pcap":                                              {1, 0, "an options template without a scope is refused"},
}

func TestCountsOfTheCorpus(t *testing.T) {
	index := captures.Shared(t, "corpus/INDEX.tsv")
	for _, row := range tsv.Read(t, index) {
		file := row.At("file")
		flows, options := row.Int(t, "flows_ref"), row.Int(t, "option_records_ref")
		records := flows + options + row.Int(t, "late_records_ref")
		other, is := otherwise[filepath.Base(file)]
		if is {
			flows, options, records = other.flows, other.options, other.flows+other.options
		}
		got := run(t, "", "decode", "--json", filepath.Join(filepath.Dir(index), file))
		all := linesOf(t, got.out)
		n := map[any]int{}
		for _, m := range all {
			n[m["record"]]++
		}
		// Late records that the reference does not count may be flows or options records.
		if n["flow"] < flows || n["options"] < options || n["flow"]+n["options"] != records {
			t.Errorf("%s: want %d flows, %d options records, %d in all; got %d and %d", file, flows, options, records, n["flow"], n["options"])
		}
		if d := "datagrams=" + row.At("datagrams") + " "; !strings.HasPrefix(got.errout, d) || got.code != 0 {
			t.Errorf("%s: want %s, got %s (exit code %d)", file, d, got.errout, got.code)
		}
		all.match(t, got.last())
	}
}
