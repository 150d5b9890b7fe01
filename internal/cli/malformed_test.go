package cli

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/tsv"
)

// setUpHoldsRecords lists the cases whose set-up ends with a valid data datagram, while their bounds apply to the
// last datagram alone. Every case therefore counts the records that the malformed datagram adds to the records of
// the datagrams before it.
var setUpHoldsRecords = map[string]string{
	"ipfix_duplicate":     "the same datagram once before: 2 records each time, duplicates are for consumers to find",
	"ipfix_sequence_back": "a datagram of 1 record with sequence number 2^32-1 before the one with 1",
	"v9_sequence_back":    "a datagram of 1 record with sequence number 2^32-1 before the one with 1",
}

// survivor is the flow of the valid NetFlow v5 datagram after each case, with octets laid out by hand:
// 10.77.0.1:1234 → 10.77.0.2:4321, TCP flags 0x10, protocol 6.
var survivor = tuple{"10.77.0.1", "10.77.0.2", "1234", "4321", "6", "424242", "7"}

// perSource returns the packets of a pcap file (little-endian, Ethernet, IPv4) by source address, each with its
// record header, and the header of the file.
func perSource(t *testing.T, path string) (head []byte, by map[string][][]byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, b, by = b[:24:24], b[24:], map[string][][]byte{}
	for len(b) > 0 {
		n := 16 + int(binary.LittleEndian.Uint32(b[8:]))
		const source = 16 + 14 + 12 // after the headers of record and Ethernet, in IPv4's
		a := netip.AddrFrom4([4]byte(b[source:])).String()
		by[a], b = append(by[a], b[:n]), b[n:]
	}
	return head, by
}

func TestMalformedCasesKeepTheirBoundsAndSpareTheirSurvivor(t *testing.T) {
	dir := captures.Shared(t, "corpus/malformed")
	rows := tsv.Read(t, filepath.Join(dir, "cases.tsv"))
	head, packets := perSource(t, filepath.Join(dir, "malformed.pcap"))
	kept := 0
	var setUp []string
	for _, row := range rows {
		t.Run(row.At("name"), func(t *testing.T) {
			all := packets[row.At("source")]
			// count decodes the first n datagrams with fresh state.
			count := func(n int) (records int, flows []tuple) {
				got := run(t, string(slices.Concat(append([][]byte{head}, all[:n]...)...)), "decode", "--json", "-")
				if got.code != 0 {
					t.Fatalf("exit code %d: %s", got.code, got.errout)
				}
				lines := linesOf(t, got.out)
				lines.match(t, got.last())
				for _, m := range lines {
					switch m["record"] {
					case "flow":
						flows = append(flows, flowTuple(m))
						records++
					case "options":
						records++
					}
				}
				return records, flows
			}
			if want := row.Int(t, "setup") + 2; len(all) != want {
				t.Fatalf("%d datagrams, want %d: set-up, the malformed one, the survivor", len(all), want)
			}
			before, _ := count(row.Int(t, "setup"))
			with, earlier := count(len(all) - 1)
			lo, hi := row.Int(t, "min_records"), row.Int(t, "max_records")
			if n := with - before; n < lo || n > hi {
				t.Errorf("%s\nwant %d to %d records, got %d", row.At("description"), lo, hi, n)
			}
			if with < lo || with > hi {
				setUp = append(setUp, row.At("name"))
			}
			total, flows := count(len(all))
			if last := flows[len(earlier):]; total != with+1 || len(last) != 1 || last[0] != survivor {
				t.Errorf("want the survivor %q alone after the case, got %q", survivor, last)
			}
			if !t.Failed() {
				kept++
			}
		})
	}
	t.Logf("%d of %d malformed cases keep their bounds and their survivor", kept, len(rows))
	slices.Sort(setUp)
	if d := cmp.Diff(slices.Sorted(maps.Keys(setUpHoldsRecords)), setUp); d != "" {
		t.Errorf("cases that would leave their bounds with their set-up (-want +got):\n%s", d)
	}
}
