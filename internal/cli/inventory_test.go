package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
)

// nameless lists the captures with elements in flows that the registry has no name for, with the number of such
// elements and of all elements. No public source describes them.
var nameless = map[string]struct {
	without, all int
	why          string
}{
	"goipfix__ipv4":           {1, 1, "56506/101, made up"},
	"logstash__Netflow_9_H3C": {16, 80, "field type 0, padding"},
	"logstash__Netflow_9_H3C_Netstream_with_varstring":  {1, 5, "field type 0, padding"},
	"logstash__Netflow_9_template_with_0_length_fields": {30, 40, "field type 0 without octets"},
	"netflowpl__Net_Flow__top":                          {5, 5, "enterprise 30351, of a test"},
	"netgauze__ipfix__test_with_unknown_pen":            {2, 4, "enterprise 213, of a test"},
	"pmacct__106_IPFIXv10_HUAWEI_vrf_name_t00":          {12, 36, "Huawei 701 to 704"},
	"sav__scenario1": {39, 52, "6871/1 to 4, which are not CERT's"},
}

func TestElementsOfTheCorpusHaveNames(t *testing.T) {
	paths, _ := filepath.Glob(filepath.Join(filepath.Dir(captures.Shared(t, "corpus/INDEX.tsv")), "pcap", "*.pcap"))
	if len(paths) == 0 {
		t.Fatal("no captures beside corpus/INDEX.tsv")
	}
	for _, path := range paths {
		capture := strings.TrimSuffix(filepath.Base(path), ".pcap")
		without, all := 0, 0
		first := ""
		for _, m := range linesOf(t, run(t, "", "decode", "--json", path).out) {
			elements, _ := m["elements"].([]any)
			for _, e := range elements {
				all++
				if f := e.(map[string]any); f["name"] == nil {
					without++
					first = strings.TrimSpace(first + " " + fmt.Sprint(f["pen"], "/", f["id"]))
				}
			}
		}
		want := nameless[capture]
		if without != want.without || without > 0 && all != want.all {
			t.Errorf("%s: want %d of %d elements without a name (%s), got %d of %d: %.200s", capture, want.without, want.all, want.why, without, all, first)
		}
	}
}
