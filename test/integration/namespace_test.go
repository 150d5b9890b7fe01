//go:build integration && linux

package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	kafkatest "weir/internal/weirtest/kafka"
	"weir/pkg/flowpb"
)

// A namespace is a network namespace, connected to that of the test by a veth pair. Exporters send
// from addresses inside it.
type namespace struct {
	name string
	fd   int
}

const (
	here4, here6 = "10.251.77.1", "fd00:251:77::1"
	exporters    = 8 // half of them IPv6 only
)

func exporterAddr(i int) netip.Addr {
	if i%2 == 0 {
		return netip.MustParseAddr(fmt.Sprintf("10.251.77.%d", 10+i))
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:251:77::%d", 10+i))
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	name, here, there := fmt.Sprintf("weir%d", os.Getpid()), fmt.Sprintf("wh%d", os.Getpid()), fmt.Sprintf("wt%d", os.Getpid())
	ip := func(args ...string) error {
		if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
		return nil
	}
	if err := ip("netns", "add", name); err != nil {
		t.Skipf("SKIPPED: no network namespaces: %v", err)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // and the cable with it
	steps := [][]string{
		{"link", "add", here, "type", "veth", "peer", "name", there, "netns", name},
		{"addr", "add", here4 + "/24", "dev", here}, {"-6", "addr", "add", here6 + "/64", "dev", here, "nodad"}, {"link", "set", here, "up"},
		{"-n", name, "link", "set", there, "up"},
	}
	for i := range exporters {
		if a := exporterAddr(i); a.Is4() {
			steps = append(steps, []string{"-n", name, "addr", "add", a.String() + "/24", "dev", there})
		} else {
			steps = append(steps, []string{"-n", name, "-6", "addr", "add", a.String() + "/64", "dev", there, "nodad"})
		}
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			t.Skipf("SKIPPED: no network namespaces: %v", err)
		}
	}
	fd, err := unix.Open("/var/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &namespace{name, fd}
}

// listen opens a socket in the namespace. The socket belongs to the namespace wherever it is used.
func (n *namespace) listen(t *testing.T, a netip.Addr) *net.UDPConn {
	t.Helper()
	type opened struct {
		c   *net.UDPConn
		err error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- opened{nil, err}
			return
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		done <- opened{c, err}
	}()
	o := <-done
	if o.err != nil {
		t.Fatalf("a socket at %v: %v", a, o.err)
	}
	t.Cleanup(func() { _ = o.c.Close() })
	return o.c
}

// TestSprayedDatagramsThatKeepTheirSource sends datagrams to the replicas in turn, with their
// source addresses, as a packet-based load balancer (IPVS, DSR) does. The exporters are of both
// address families and have equal domains and template IDs, but different templates.
func TestSprayedDatagramsThatKeepTheirSource(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ns := newNamespace(t)
	w := &world{t: t, bin: build(ctx, t, t.TempDir()), c: kafkatest.Start(ctx, t)}
	var in [replicas]*process
	var ports [replicas]int
	for i := range in {
		udp := netip.MustParseAddrPort(freeUDP(t, "127.0.0.1"))
		ports[i] = int(udp.Port())
		in[i] = w.start("ingest", fmt.Sprintf("LISTEN_UDP=[::]:%d", ports[i]), "TOPIC_PREFIX=spray.", fmt.Sprintf("REPLICA=r%d", i))
		kafkatest.Poll(ctx, t, "the replica is ready", func() bool { code, _ := in[i].ready(); return code == http.StatusOK })
	}
	first, data := split(t, capturedMessages(t))
	data = data[:60]
	var sockets [exporters]*net.UDPConn
	for i := range sockets {
		sockets[i] = ns.listen(t, exporterAddr(i))
	}
	turn := 0
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	send := func(i int, pkt []byte) {
		t.Helper()
		<-pace.C
		to := netip.MustParseAddr(here4)
		if !exporterAddr(i).Is4() {
			to = netip.MustParseAddr(here6)
		}
		if _, err := sockets[i].WriteToUDPAddrPort(pkt, netip.AddrPortFrom(to, uint16(ports[turn%replicas]))); err != nil {
			t.Fatal(err)
		}
		turn++
	}
	for i := range sockets {
		send(i, first)
	}
	for _, m := range data {
		for i := range sockets {
			send(i, m)
		}
		turn++ // so that the datagrams of an exporter reach all replicas
	}
	perExporter := 0
	for _, m := range records(t, first, capturedData(t))[:len(data)] {
		perExporter += len(m)
	}
	got, byReplica := map[string]int{}, map[string]int{}
	n := 0
	w.consume(ctx, t, "spray.flows", func(r *kgo.Record) bool {
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(r.Value, &m); err != nil {
			t.Fatal(err)
		}
		a, _ := netip.AddrFromSlice(m.SamplerAddress)
		got[a.String()+" "+identity(&m)]++
		byReplica[m.Replica]++
		n++
		return n == exporters*perExporter
	})
	if len(got) != exporters*perExporter {
		t.Errorf("want %d flows of each of %d exporters, once; got %d different ones", perExporter, exporters, len(got))
	}
	perAddress := map[string]int{}
	for k := range got {
		var a string
		_, _ = fmt.Sscan(k, &a) // as written above
		perAddress[a]++
	}
	for i := range exporters {
		if a := exporterAddr(i).String(); perAddress[a] != perExporter {
			t.Errorf("flows of %s: want %d, got %d", a, perExporter, perAddress[a])
		}
	}
	if len(byReplica) != replicas {
		t.Errorf("want flows decoded by all replicas, got %v", byReplica)
	}
	t.Logf("%d flows of %d exporters, each once, decoded by %v", len(got), exporters, byReplica)
	for _, p := range in {
		p.terminate(t)
	}
}

func capturedData(t *testing.T) [][]byte {
	t.Helper()
	_, data := split(t, capturedMessages(t))
	return data
}
