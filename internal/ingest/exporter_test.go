package ingest

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// A real exporter gives the same flows over UDP, TCP and TLS.
func TestARealExporterOverTCPAndTLS(t *testing.T) {
	for _, tool := range []string{"softflowd", "socat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: no real exporter without %s (Debian has it): %v", tool, err)
		}
	}
	packets, err := filepath.Abs(filepath.Join("..", "..", "..", "shared", "captures", "inputs", "synth.pcap"))
	if err == nil {
		_, err = os.Stat(packets)
	}
	if err != nil {
		t.Skipf("SKIPPED: no packets in ../shared: %v", err)
	}
	b := embedded(t)
	ca := newAuthority(t)
	ca.make("server", big.NewInt(2))
	ca.make("router", big.NewInt(3))
	c := config(b.Addr(), "one")
	c.Listen = []netip.AddrPort{anyPort}
	c.Streams.TCP, c.Streams.TLS = []netip.AddrPort{anyPort}, []netip.AddrPort{anyPort}
	c.Streams.CertFile, c.Streams.KeyFile, c.Streams.ClientCA = ca.path("server.pem"), ca.path("server.key"), ca.path("ca.pem")
	r, _ := start(t, c, &locked.Buffer{})
	eventually(t, "the replica is ready", func() bool { return len(r.listening()) == 3 && r.Ready() == nil })
	at := r.listening()
	for i := range at {
		at[i] = strings.TrimPrefix(at[i], "tcp ")
	}
	// socat is the exporter's TLS.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	through := free.Addr().(*net.TCPAddr)
	_ = free.Close()
	tunnel := exec.CommandContext(t.Context(), "socat", fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", through.Port), fmt.Sprintf("OPENSSL:%s,cafile=%s,cert=%s,key=%s", at[2], ca.path("ca.pem"), ca.path("router.pem"), ca.path("router.key")))
	if err := tunnel.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tunnel.Process.Kill(); _ = tunnel.Wait() })

	eventually(t, "socat listens", func() bool {
		c, err := net.Dial("tcp", through.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})

	export := func(protocol, to string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "softflowd", "-P", protocol, "-v", "10", "-r", packets, "-n", to, "-d", "-p", filepath.Join(t.TempDir(), "pid"), "-c", "none") // with a longer name of the control socket it never ends
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("softflowd over %s to %s: %v\n%.2000s", protocol, to, err, out.String())
		}
	}
	var want []string
	ports := map[uint32]bool{}
	for _, how := range []struct{ name, protocol, to string }{{"UDP", "udp", at[0]}, {"TCP", "tcp", at[1]}, {"TLS", "tcp", through.String()}} {
		before := int(r.Stats().Flows)
		export(how.protocol, how.to)
		n := 34 // what softflowd reports of these packets; below, by whatever way
		eventually(t, how.name+": all flows came", func() bool { return int(r.Stats().Flows) == before+n })
		var new []*flowpb.FlowMessage
		for _, f := range flows(t, b.Addr(), before+n) {
			if !ports[f.ExporterPort] {
				new = append(new, f)
			}
		}
		if len(new) > 0 {
			ports[new[0].ExporterPort] = true
		}
		got := content(new)
		if want == nil {
			want = got
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-UDP +%s):\n%s", how.name, how.name, diff)
		}
	}
}

// content returns the content of flows as sorted text.
func content(flows []*flowpb.FlowMessage) (out []string) {
	for _, f := range flows {
		out = append(out, fmt.Sprintf("%x:%d %x:%d %d %d %d %d", f.SrcAddr, f.SrcPort, f.DstAddr, f.DstPort, f.Proto, f.Bytes, f.Packets, f.TimeFlowStartNs))
	}
	slices.Sort(out)
	return out
}
