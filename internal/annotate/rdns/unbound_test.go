package rdns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"weir/pkg/flowpb"
)

// unbound starts Debian's resolver with the zone of TestScenario23, on loopback
// and without rights, until the test ends.
func unbound(t *testing.T) (addr string) {
	t.Helper()
	bin, err := exec.LookPath("unbound")
	if err != nil {
		bin = "/usr/sbin/unbound"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("SKIPPED: no resolver: %v (Debian: unbound)", err)
	}
	for range 5 {
		if addr, said := startUnbound(t, bin); addr != "" {
			return addr
		} else if !strings.Contains(said, "Address already in use") { // the port was free for UDP, not for TCP
			t.Fatalf("unbound does not answer in 5 s: %s", said)
		}
	}
	t.Fatal("no port is free for unbound")
	return ""
}

// startUnbound returns the address of unbound or, if it ended, its output.
func startUnbound(t *testing.T, bin string) (addr, said string) {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.LocalAddr().(*net.UDPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `server:
  interface: 127.0.0.1
  port: %d
  username: ""
  chroot: ""
  pidfile: ""
  directory: %q
  do-daemonize: no
  use-syslog: no
  module-config: "iterator"
  rrset-roundrobin: yes
  local-zone: "2.0.192.in-addr.arpa." static
  local-data: "2.0.192.in-addr.arpa. 3600 IN SOA ns.test. host.test. 1 3600 600 86400 90"
  local-data: "17.2.0.192.in-addr.arpa. 45 IN TXT nothing"
  local-data: "18.2.0.192.in-addr.arpa. 0 IN PTR zero.example.test."
`, port, t.TempDir())
	for address, names := range hostile {
		arpa, _ := dns.ReverseAddr(address)
		for _, n := range names {
			fmt.Fprintf(&conf, "  local-data: '%s 45 IN PTR %s'\n", arpa, n)
		}
	}
	path := filepath.Join(t.TempDir(), "unbound.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), bin, "-c", path)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed, or has said why it ended
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		if t.Failed() {
			t.Log(out.String())
		}
	})
	addr = fmt.Sprintf("127.0.0.1:%d", port)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 250 {
		c := dns.Client{Timeout: time.Second}
		if _, _, err := c.Exchange(new(dns.Msg).SetQuestion("10.2.0.192.in-addr.arpa.", dns.TypePTR), addr); err == nil {
			return addr, ""
		}
		select {
		case <-tick.C:
		case <-ended:
			return "", out.String()
		}
	}
	_ = cmd.Process.Kill() // it may have ended
	<-ended
	return "", out.String()
}

// Names and statuses of a zone in a real resolver, which is configured for private addresses; rotation must not
// change the name.
func TestScenario23NamesAndStatusesOfARealResolver(t *testing.T) {
	addr := unbound(t)
	want := hostileAnswers()
	want["192.0.2.18"] = Answer{Name: "zero.example.test", Status: flowpb.NameStatus_NAME_STATUS_OK, Source: flowpb.NameSource_NAME_SOURCE_PTR}
	for _, a := range []string{"10.1.2.3", "203.0.113.9"} { // in zones that unbound has built in
		want[a] = status(flowpb.NameStatus_NAME_STATUS_NXDOMAIN)
	}
	var addrs []string
	for a := range want {
		addrs = append(addrs, a)
	}
	for range 3 { // the order of two PTRs rotates from question to question
		if d := cmp.Diff(want, ask(t, addr, false, addrs...)); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	}
}
