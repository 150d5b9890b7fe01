package ingest

import (
	"encoding/hex"
	"testing"
	"time"
)

// Octets laid out by RFC 5610 and RFC 7011: template 258 with type information and a record, in
// which 4242/17 is queueDepth of type unsigned32; template 256 with two addresses and 4242/17, and
// a record.
const (
	definition = "000a0047" + "68e77800" + "00000001" + "00000100" +
		"0003001e" + "010200050001" + "015a0004" + "012f0002" + "01530001" + "01580001" + "0155ffff" +
		"01020019" + "00001092" + "0011" + "03" + "00" + "0a" + "71756575654465707468" + "0000"
	dataWithElement = "000a0040" + "68e77800" + "00000002" + "00000100" +
		"0002001c" + "01000003" + "00080004" + "000c0004" + "80110004" + "00001092" + "00000000" +
		"01000014" + "0a000001" + "0a000002" + "00000007" + "00000000"
)

func TestASecondReplicaNamesElementsThatOnlyTheFirstGotDefined(t *testing.T) {
	b := embedded(t)
	first, second, stop := startTwo(t, b.Addr())
	octets := func(s string) []byte {
		p, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first.Receive(octets(definition), exporterAt, time.Now())
	eventually(t, "the second replica knows the fact", func() bool { return second.store.Stats().Facts == 1 })
	second.Receive(octets(dataWithElement), exporterAt, time.Now())
	eventually(t, "the second replica decoded the data", func() bool { return second.Stats().Flows == 1 })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	m := flows(t, b.Addr(), 1)[0]
	if len(m.Elements) != 1 || m.Replica != "second" {
		t.Fatalf("want one flow of the second replica with one element, got %v", m)
	}
	if e := m.Elements[0]; e.Pen != 4242 || e.Id != 17 || e.Name != "queueDepth" || e.Type != 3 || hex.EncodeToString(e.Value) != "00000007" {
		t.Errorf("want 4242/17 queueDepth, unsigned32, 7; got %v", e)
	}
}
