package offline

import (
	"io"
	"net/netip"
	"testing"

	"weir/internal/cli/capture"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/payloads"
)

func TestWhatWaitsHasItsLimits(t *testing.T) {
	o := New("test", nil, io.Discard, &collecting{})
	o.MaxWaiting = 3000
	sent := payloads.Of(t, captures.File("softflowd_v9_big.pcap"))
	probe := New("test", nil, io.Discard, &collecting{})
	for i, d := range sent[1:] { // without the first, which brings the templates
		if err := probe.Datagram(&capture.Datagram{Src: sender, Time: int64(i), Payload: d}); err != nil {
			t.Fatal(err)
		}
		if probe.count.Templates > 0 { // they come again
			break
		}
		if err := o.Datagram(&capture.Datagram{Src: sender, Time: int64(i), Payload: d}); err != nil {
			t.Fatal(err)
		}
	}
	if o.waitingNow == 0 || o.waitingNow > 3000 || o.count.Undecoded == 0 {
		t.Errorf("%d octets wait, %d sets given up", o.waitingNow, o.count.Undecoded)
	}
	before := o.count.Undecoded
	o.Expire(1 << 40)
	if o.waitingNow != 0 || len(o.waiting) != 0 || o.count.Undecoded == before {
		t.Errorf("%d octets wait after all", o.waitingNow)
	}
}

// sender sends the datagrams of these tests.
var sender = netip.MustParseAddrPort("127.0.0.1:40000")
