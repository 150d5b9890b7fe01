package cli

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// otherwise are captures where the corpus' reference decoder, which keys
// templates by source port and drops what is malformed, counts otherwise: flows
// and options records, and why.
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

// readTable reads tab-separated text: its columns by name, and its rows.
func readTable(t *testing.T, path string) (column map[string]int, rows [][]string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes = '\t', true
	if rows, err = r.ReadAll(); err != nil {
		t.Fatal(err)
	}
	column = map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	return column, rows[1:]
}

func TestCountsOfTheCorpus(t *testing.T) {
	index := shared(t, "corpus/INDEX.tsv")
	column, rows := readTable(t, index)
	for _, row := range rows {
		number := func(name string) int {
			n, err := strconv.Atoi(row[column[name]])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		file := row[column["file"]]
		flows, options := number("flows_ref"), number("option_records_ref")
		records := flows + options + number("late_records_ref")
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
		// What the reference does not count as late may be of either kind.
		if n["flow"] < flows || n["options"] < options || n["flow"]+n["options"] != records {
			t.Errorf("%s: want %d flows, %d options records, %d in all; got %d and %d", file, flows, options, records, n["flow"], n["options"])
		}
		if d := "datagrams=" + row[column["datagrams"]] + " "; !strings.HasPrefix(got.errout, d) || got.code != 0 {
			t.Errorf("%s: want %s, got %s (exit code %d)", file, d, got.errout, got.code)
		}
		all.match(t, got.last())
	}
}
