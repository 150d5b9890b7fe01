package ingest

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/internal/weirtest/locked"
)

const proxyHeader = "PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055\r\n"

func TestNetworksOfProxiesThatAreNotPrivateAreWarnedOf(t *testing.T) {
	for network, want := range map[string]bool{
		"0.0.0.0/0": true, "::/0": true, "0.0.0.0/1": true, "8000::/1": true, "10.0.0.0/7": true, "fc00::/6": true,
		"10.0.0.0/8": false, "fc00::/7": false, "192.0.2.7/32": false, "::1/128": false,
	} {
		var log locked.Buffer
		warnWideProxies(slog.New(slog.NewTextHandler(&log, nil)), []netip.Prefix{netip.MustParsePrefix(network)})
		if got := strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "network="+network); got != want {
			t.Errorf("%s: want a warning: %v, got %q", network, want, log.String())
		}
	}
}

func TestFlowsBehindABalancerAreTheExporters(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	balancer, stranger := netip.MustParseAddrPort("[::ffff:10.0.0.1]:7000"), netip.MustParseAddrPort("192.0.2.77:7000")
	v5 := string(packet(t, "v5_30.hex"))
	r.Receive([]byte(proxyHeader+v5), balancer, time.Now())
	r.Receive([]byte(v5), balancer, time.Now())                                 // its stream's
	r.Receive([]byte(v5), netip.MustParseAddrPort("10.0.0.2:7000"), time.Now()) // nobody's
	r.Receive([]byte(proxyHeader+v5), stranger, time.Now())                     // no NetFlow
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if s := r.Stats(); s.Flows != 60 || s.Errors != 1 {
		t.Errorf("want 60 flows and 1 error (unknown version), got %+v", s)
	}
	hashes := map[uint64]int{}
	for _, m := range flows(t, b.Addr(), 60) {
		if a, _ := netip.AddrFromSlice(m.SamplerAddress); a != netip.MustParseAddr("192.0.2.1") || m.ExporterPort != 40000 {
			t.Fatalf("want the exporter 192.0.2.1:40000, got %v:%d", a, m.ExporterPort)
		}
		hashes[m.DatagramHash]++
	}
	if len(hashes) != 1 {
		t.Errorf("the same datagram with and without a header: want the same identity, got %d", len(hashes))
	}
	if !strings.Contains(log.String(), "reason=proxy_header_missing") {
		t.Errorf("want a line for the datagram without a header, got\n%s", log.String())
	}
}
