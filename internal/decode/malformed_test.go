package decode

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Each case is datagrams of one source: those that set it up, the malformed
// one, and last a sound v5 datagram of one record that has to come through.
func TestMalformedDatagramsKeepTheirBoundsAndSpareTheNext(t *testing.T) {
	const dir = "../../../shared/corpus/malformed"
	f, err := os.Open(filepath.Join(dir, "cases.tsv"))
	if err != nil {
		t.Skipf("SKIPPED: no malformed datagrams: %v", err)
	}
	defer func() { _ = f.Close() }()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes = '\t', true
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	bySource := map[string][][]byte{}
	for _, p := range packets(t, filepath.Join(dir, "malformed.pcap")) {
		bySource[p.src] = append(bySource[p.src], p.payload)
	}
	kept := 0
	for _, row := range rows[1:] {
		t.Run(row[column["name"]], func(t *testing.T) {
			number := func(name string) int {
				n, err := strconv.Atoi(row[column[name]])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			pkts, setup := bySource[row[column["source"]]], number("setup")
			if len(pkts) < setup+2 {
				t.Fatalf("%d datagrams: want %d to set up, the malformed ones, the survivor", len(pkts), setup)
			}
			ds := newDecoders()
			once := &Decoder{State: newMemory()}
			records := 0
			for i, p := range pkts {
				flows := same(t, ds, p)
				if i == len(pkts)-1 {
					if flows != 1 {
						t.Errorf("the sound datagram after it: want 1 flow, got %d", flows)
					}
					break
				}
				var res Result
				once.Wire(p, &testMeta, &res)
				if i >= setup {
					records += len(res.Flows) + len(res.Options)
				}
			}
			if lo, hi := number("min_records"), number("max_records"); records < lo || records > hi {
				t.Errorf("records: want %d to %d, got %d (%s)", lo, hi, records, row[column["description"]])
			}
			if !t.Failed() {
				kept++
			}
		})
	}
	t.Logf("%d of %d malformed cases keep their bounds and their survivor", kept, len(rows)-1)
}
