package decode

import (
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
)

// Octets by hand. Options data of older IOS XR has 302, 305 and 304 = 3 (random n-out-of-N) and
// nothing else of sampling; newer versions repeat the same number in 310 (captures of both are
// public), so 305 is N there. Of other algorithms 305 alone is how many packets are taken in a
// row (RFC 5477 section 8.2.3): no rate.
func TestTheIntervalOfRandomSamplingIsItsRate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pairs  []uint16
		record string
		want   uint64
	}{
		{"random", []uint16{302, 4, 305, 4, 304, 2}, "00000003" + "00001000" + "0003", 4096},
		{"random, of the newer versions", []uint16{302, 4, 305, 4, 304, 2, 309, 4, 310, 4}, "00000003" + "00001000" + "0003" + "00000001" + "00001000", 4096},
		{"systematic", []uint16{302, 4, 305, 4, 304, 2}, "00000003" + "00001000" + "0001", 0},
		{"no algorithm", []uint16{302, 4, 305, 4}, "00000003" + "00001000", 0},
		{"random with 306", []uint16{302, 4, 305, 4, 306, 4, 304, 2}, "00000003" + "00000001" + "00000063" + "0003", 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tmpl := fixed(tt.pairs...)
			tmpl.ID, tmpl.Options, tmpl.Scopes = 400, true, 1
			p, err := Compile(10, &tmpl)
			if err != nil {
				t.Fatal(err)
			}
			var v optionValues
			if _, ok := p.readOptions(fromHex(t, tt.record), &v); !ok {
				t.Fatal("the record is cut")
			}
			var got uint64
			if len(v.facts) > 0 {
				got = v.facts[0].Number
			}
			if got != tt.want {
				t.Errorf("rate: want 1 in %d, got 1 in %d", tt.want, got)
			}
		})
	}
}

func TestUsersStationsAndSegmentsHaveFields(t *testing.T) {
	user := hex.EncodeToString([]byte("LOCAL\\ann")) + "0000"
	for _, tt := range []struct {
		name    string
		version uint8
		pairs   []uint16
		record  string
		want    string
	}{
		{"userName", 10, []uint16{371, 11}, user, `user "LOCAL\\ann"`},
		{"Cisco ASA", 9, []uint16{40000, 11}, user, `user "LOCAL\\ann"`},
		{"PAN-OS User-ID", 9, []uint16{56702, 11}, user, `user "LOCAL\\ann"`},
		{"40000 of IPFIX is another enterprise's", 10, []uint16{7232, 11}, user, `user "" raw 7232=` + user},
		{"Cisco WLC", 9, []uint16{366, 4, 365, 6}, "c0000207" + "0007cb000001", `user "" station 192.0.2.7 0007cb000001`},
		{"VXLAN", 10, []uint16{351, 8}, "0100000000001389", `user "" tunnel 5001 raw 351=0100000000001389`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tmpl := fixed(slices.Concat([]uint16{8, 4, 12, 4}, tt.pairs)...)
			pkt := datagram(tt.version, tmpl, fromHex(t, "c0000201c0000202"+tt.record))
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			got := fmt.Sprintf("user %q", m.UserName)
			if m.StationMac != 0 || len(m.StationAddr) > 0 {
				got += fmt.Sprintf(" station %s %012x", addrOf(m.StationAddr), m.StationMac)
			}
			if m.TunnelId != 0 {
				got += fmt.Sprintf(" tunnel %d", m.TunnelId)
			}
			for _, e := range m.Elements {
				got += fmt.Sprintf(" raw %d=%x", e.Id, e.Value)
			}
			if got != tt.want {
				t.Errorf("want %s\n got %s", tt.want, got)
			}
		})
	}
}
