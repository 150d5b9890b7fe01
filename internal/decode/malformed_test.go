package decode

import (
	"os"
	"path/filepath"
	"testing"

	"weir/internal/weirtest/tsv"
)

// Each case is datagrams of one source: those that set it up, the malformed
// one, and last a sound v5 datagram of one record that has to come through.
func TestMalformedDatagramsKeepTheirBoundsAndSpareTheNext(t *testing.T) {
	const dir = "../../../shared/corpus/malformed"
	cases := filepath.Join(dir, "cases.tsv")
	if _, err := os.Stat(cases); err != nil {
		t.Skipf("SKIPPED: no malformed datagrams: %v", err)
	}
	rows := tsv.Read(t, cases)
	bySource := map[string][][]byte{}
	for _, p := range packets(t, filepath.Join(dir, "malformed.pcap")) {
		bySource[p.src] = append(bySource[p.src], p.payload)
	}
	kept := 0
	for _, row := range rows {
		t.Run(row.At("name"), func(t *testing.T) {
			pkts, setup := bySource[row.At("source")], row.Int(t, "setup")
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
					records += len(res.Flows) + res.OptionsRecords
				}
			}
			if lo, hi := row.Int(t, "min_records"), row.Int(t, "max_records"); records < lo || records > hi {
				t.Errorf("records: want %d to %d, got %d (%s)", lo, hi, records, row.At("description"))
			}
			if !t.Failed() {
				kept++
			}
		})
	}
	t.Logf("%d of %d malformed cases keep their bounds and their survivor", kept, len(rows))
}
