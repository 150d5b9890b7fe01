package rdns

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"weir/pkg/flowpb"
)

// Half of the addresses belong to reverse zones whose servers do not answer; the resolver itself works. The
// other half must get names within the time that their queries and those of the silent half, sent twice, take at
// DNS_RATE, plus a timeout.
func TestSilentZonesDoNotKeepOthersFromTheirNames(t *testing.T) {
	const each = 5000
	good := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{8, 8, byte(i >> 8), byte(i)}) }
	inOne := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 5, byte(i >> 8), byte(i)}) }
	inMany := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(200 + i>>16), byte(i >> 8), byte(i), 1}) }
	for _, tt := range []struct {
		name   string
		silent func(int) netip.Addr
		first  bool // all silent ones are wanted before the others
	}{
		{"one network, by turns", inOne, false},
		{"one network, first", inOne, true},
		{"a zone each, by turns", inMany, false},
		{"a zone each, first", inMany, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answer: func(q string, _ uint16, _ string) (*dns.Msg, error) {
				if strings.HasSuffix(q, ".203.in-addr.arpa.") || strings.HasSuffix(q, ".200.in-addr.arpa.") {
					return nil, errSilent
				}
				return zone(q + " 3600 PTR host.example.com.")
			}}
			c := Config{Enabled: true, Servers: []string{"192.0.2.53:53"}, Timeout: 2 * time.Second, Rate: 500, InFlight: 256, Queue: 65536, CacheSize: 500000}
			with(t, c, s, func(t *testing.T, r *Resolver) {
				if tt.first {
					for i := range each {
						r.Want(tt.silent(i))
					}
				}
				for i := range each {
					if !tt.first {
						r.Want(tt.silent(i))
					}
					r.Want(good(i))
				}
				within := time.Duration((each+2*each)/c.Rate)*time.Second + c.Timeout
				if tt.first {
					within += window * time.Second // the server is open, until a probe
				}
				time.Sleep(within)
				named := 0
				for i := range each {
					if r.Peek(good(i)).Status == flowpb.NameStatus_NAME_STATUS_OK {
						named++
					}
				}
				if got := r.Stats(); named != each || got.Down != 0 {
					t.Errorf("after %v: want %d names and no server down, got %d and %d", within, each, named, got.Down)
				}
			})
		})
	}
}

// A zone that answers again is asked again.
func TestASilentZoneIsAskedAgain(t *testing.T) {
	var silent atomic.Bool
	var asked atomic.Int64
	silent.Store(true)
	s := &script{answer: func(q string, _ uint16, _ string) (*dns.Msg, error) {
		if strings.HasSuffix(q, ".5.203.in-addr.arpa.") {
			asked.Add(1)
			if silent.Load() {
				return nil, errSilent
			}
		}
		return zone(q + " 3600 PTR host.example.com.")
	}}
	c := unverified()
	c.InFlight, c.Queue = 100, 1000
	with(t, c, s, func(t *testing.T, r *Resolver) {
		at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 5, 1, byte(i)}) }
		for i := range silentAfter {
			r.Want(netip.AddrFrom4([4]byte{8, 8, 8, byte(i)})) // the server answers others
			r.Want(at(i))
			time.Sleep(5 * time.Second)
		}
		before := asked.Load()
		for i := range 50 {
			r.Want(at(100 + i))
		}
		expect(t, r, at(100), status(flowpb.NameStatus_NAME_STATUS_TIMEOUT))
		if n := asked.Load() - before; n != 0 || r.Stats().Silent != 50 {
			t.Errorf("a silent zone was asked %d times; %d addresses were not asked for", n, r.Stats().Silent)
		}
		silent.Store(false)
		time.Sleep(firstSilent)
		for i := range 50 {
			r.Want(at(150 + i))
			time.Sleep(time.Millisecond)
		}
		expect(t, r, at(199), Answer{Name: "host.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR})
	})
}

// Addresses that are not asked because their zone is silent are asked as soon as the zone answers: that no question was
// put says nothing about them.
func TestAddressesOfASilentZoneDoNotWaitLongerThanTheZone(t *testing.T) {
	var silent atomic.Bool
	silent.Store(true)
	s := &script{answer: func(q string, _ uint16, _ string) (*dns.Msg, error) {
		if strings.HasSuffix(q, ".5.203.in-addr.arpa.") && silent.Load() {
			return nil, errSilent
		}
		time.Sleep(100 * time.Millisecond) // an answer takes a while
		return zone(q + " 3600 PTR host.example.com.")
	}}
	c := unverified()
	c.InFlight, c.Queue = 100, 1000
	with(t, c, s, func(t *testing.T, r *Resolver) {
		at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 5, 1, byte(i)}) }
		wantAll := func() {
			for i := range 50 {
				r.Want(at(i))
			}
		}
		for i := range silentAfter {
			r.Want(netip.AddrFrom4([4]byte{8, 8, 8, byte(i)})) // the server answers others
			r.Want(at(100 + i))
			time.Sleep(5 * time.Second)
		}
		for range 10 { // wanted again and again while the zone is silent
			wantAll()
			time.Sleep(time.Second)
		}
		silent.Store(false)
		time.Sleep(firstSilent)
		wantAll() // the first query of the zone; while it waits no other is sent
		time.Sleep(2*c.Timeout + time.Second)
		wantAll()
		time.Sleep(time.Second)
		for i := range 50 {
			expect(t, r, at(i), Answer{Name: "host.example.com", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR})
		}
	})
}

func TestZonesAreBounded(t *testing.T) {
	z := newZones()
	now := time.Unix(1_790_000_000, 0)
	for range silentAfter {
		z.failed(host, now, now)
	}
	for i := range 2 * maxZones {
		z.failed(netip.AddrFrom4([4]byte{203, byte(i >> 8), byte(i), 1}), now, now)
	}
	if z.all.Len() > maxZones || z.silent(host, now, time.Second) == 0 {
		t.Errorf("%d zones; the silent one may not be asked for %v", z.all.Len(), z.silent(host, now, time.Second))
	}
	for _, tt := range []struct{ a, b string }{{"203.0.113.1", "203.0.113.255"}, {"2001:db8:1::1", "2001:db8:1:ffff::"}} {
		if zoneOf(netip.MustParseAddr(tt.a)) != zoneOf(netip.MustParseAddr(tt.b)) {
			t.Error(fmt.Sprint(tt, ": want one zone"))
		}
	}
	// The wait doubles up to its bound.
	var waits []time.Duration
	for range 6 {
		now = z.all.Get(zoneOf(host)).until.Add(time.Second)
		z.failed(host, now, now)
		waits = append(waits, z.all.Get(zoneOf(host)).wait)
	}
	want := []time.Duration{60, 120, 240, 300, 300, 300}
	for i, w := range want {
		if waits[i] != w*time.Second {
			t.Errorf("wait %d: want %v, got %v", i, w*time.Second, waits[i])
		}
	}
}
