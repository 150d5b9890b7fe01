package netflow

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// A template must expire if it was not received for a day, by the clock of NewTemplates, and templates that
// no data uses must not evict a template in use.
func TestTemplatesExpireAndUsedOnesStay(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	ts := NewTemplates(func() time.Time { return now })
	p := NewParser(ts)
	from := netip.MustParseAddrPort("192.0.2.1:2055")
	head := make([]byte, 20) // RFC 3954 section 5.1
	head[1] = 9
	binary.BigEndian.PutUint32(head[8:], uint32(now.Unix()))
	template := append(head[:20:20], 0, 0, 0, 20, 1, 44, 0, 3, 0, 8, 0, 4, 0, 12, 0, 4, 0, 1, 0, 4)
	data := append(head[:20:20], 1, 44, 0, 16, 10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 9)
	flows := func(datagram []byte, from netip.AddrPort) int {
		t.Helper()
		packet, err := p.Parse(datagram, from, now)
		if err != nil {
			t.Fatal(err)
		}
		return len(packet.Flows)
	}
	flows(template, from)
	if n := flows(data, from); n != 1 {
		t.Fatalf("want a flow, got %d", n)
	}
	for i := range 70_000 { // more than the limit of unused templates
		flows(template, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 9))
	}
	if s := ts.store.Stats(); s.Pending != 0 || s.Evicted == 0 {
		t.Errorf("want forged templates evicted and nothing pending, got %+v", s)
	}
	if n := flows(data, from); n != 1 {
		t.Errorf("after the flood: want a flow, got %d", n)
	}
	now = now.Add(25 * time.Hour)
	flows(template, netip.MustParseAddrPort("192.0.2.2:9"))
	packet, err := p.Parse(data, from, now)
	if err != nil || len(packet.Undecoded) != 1 || ts.store.Stats().Definitions != 1 {
		t.Errorf("after a day: want the set undecoded and only the new template, got %+v, %v, %+v", packet, err, ts.store.Stats())
	}
}
