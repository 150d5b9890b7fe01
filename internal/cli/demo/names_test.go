package demo

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"weir/internal/annotate/rdns"
	"weir/pkg/flowpb"
)

func TestTheDemosNamesAreVerifiedByTheResolverOfProduction(t *testing.T) {
	s, err := StartNameServer("a.example.net 192.0.2.1 ; comment\n\n; comment\na.example.net 2001:db8::1\n")
	if err != nil {
		t.Fatal(err)
	}
	r, err := rdns.New(rdns.Config{
		Enabled: true, PrivateServers: []string{s.Addr}, Verify: true, Timeout: 2 * time.Second,
		Rate: 1000, InFlight: 4, Queue: 16, CacheSize: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	want := rdns.Answer{Name: "a.example.net", Status: flowpb.NameStatus_NAME_STATUS_OK, Verified: true, Source: flowpb.NameSource_NAME_SOURCE_PTR}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(a)
		r.Want(addr)
		for r.Peek(addr).Status == flowpb.NameStatus_NAME_STATUS_PENDING {
			select {
			case <-ctx.Done():
				t.Fatal("no answer in time")
			case <-time.After(time.Millisecond):
			}
		}
		if diff := cmp.Diff(want, r.Peek(addr)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", a, diff)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if reply, err := dns.Exchange(new(dns.Msg).SetQuestion("b.example.net.", dns.TypeA), s.Addr); err != nil || reply.Rcode != dns.RcodeNameError {
		t.Errorf("another name: %v, %v; want NXDOMAIN", reply, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestAWrongZoneSaysWhichLine(t *testing.T) {
	for _, zone := range []string{"; fine\na.example.net\n", "; fine\na.example.net 1.2.3\n"} {
		s, err := StartNameServer(zone)
		if err == nil {
			t.Errorf("%q is accepted", zone)
			_ = s.Close()
			continue
		}
		if got := err.Error()[:len("demo zone, line 2:")]; got != "demo zone, line 2:" {
			t.Errorf("%q: %v", zone, err)
		}
	}
}
