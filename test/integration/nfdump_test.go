//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	kafkatest "weir/internal/weirtest/kafka"
)

// TestScenario10TotalsAreThoseOfNfdump collects the capture with nfcapd and pairs it with nfdump -B
// (both directions of TCP and UDP). Weir's connections must have the same packets and octets in
// each direction.
func TestScenario10TotalsAreThoseOfNfdump(t *testing.T) {
	for _, tool := range []string{"nfcapd", "nfdump"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %v (Debian: nfdump)", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	capture := filepath.Join("..", "..", "testdata", "captures", "softflowd_v10_big.pcap")

	port := freeUDP(t, "127.0.0.1")
	_, number, err := net.SplitHostPort(port)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	collector := exec.CommandContext(ctx, "nfcapd", "-w", dir, "-b", "127.0.0.1", "-p", number, "-t", "3600")
	var log bytes.Buffer
	collector.Stdout, collector.Stderr = &log, &log
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	kafkatest.Poll(ctx, t, "nfcapd listens", func() bool { return strings.Contains(log.String(), "Startup") })
	conn, err := net.Dial("udp", port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for _, m := range capturedMessages(t) {
		<-pause.C
		if _, err := conn.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(500 * time.Millisecond) // what is in its socket
	if err := collector.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := collector.Wait(); err != nil {
		t.Fatalf("nfcapd: %v\n%s", err, log.String())
	}
	files, _ := filepath.Glob(filepath.Join(dir, "nfcapd.2*"))
	if len(files) != 1 {
		t.Fatalf("nfcapd wrote %v\n%s", files, log.String())
	}
	text, err := exec.CommandContext(ctx, "nfdump", "-r", files[0], "-B", "-q", "-N", "-6", "-o", "fmt:%pr %sa %sp %da %dp %ipkt %ibyt %opkt %obyt").Output()
	if err != nil {
		t.Fatalf("nfdump: %v", err)
	}
	// want has a line for each direction: protocol, source, destination, packets, octets.
	var want []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 9 || f[0] != "6" && f[0] != "17" {
			continue
		}
		want = append(want, way(f[0], f[1], f[2], f[3], f[4], f[5], f[6]), way(f[0], f[3], f[4], f[1], f[2], f[7], f[8]))
	}

	out, err := exec.CommandContext(ctx, "go", "run", "weir/cmd/weir", "connections", "--json", "-n", "--pcap", capture).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		type end struct {
			Address string
			Port    int
		}
		var c struct {
			Protocol             int
			Initiator, Responder end
			Forward, Reverse     struct{ Packets, Octets json.Number }
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		if c.Protocol != 6 && c.Protocol != 17 {
			continue
		}
		p, a, z := strconv.Itoa(c.Protocol), strconv.Itoa(c.Initiator.Port), strconv.Itoa(c.Responder.Port)
		got = append(got, way(p, c.Initiator.Address, a, c.Responder.Address, z, c.Forward.Packets.String(), c.Forward.Octets.String()),
			way(p, c.Responder.Address, z, c.Initiator.Address, a, c.Reverse.Packets.String(), c.Reverse.Octets.String()))
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) < 10_000 {
		t.Fatalf("nfdump prints %d directions: too few\n%.500s", len(want), text)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%d directions by nfdump, %d by Weir (-nfdump +weir):\n%.2000s", len(want), len(got), d)
	}
	t.Logf("%d directions of TCP and UDP, the same by both", len(got))
}

func way(proto, from, fromPort, to, toPort, packets, octets string) string {
	return fmt.Sprintf("%s %s:%s %s:%s %s %s", proto, netip.MustParseAddr(from), fromPort, netip.MustParseAddr(to), toPort, packets, octets)
}
