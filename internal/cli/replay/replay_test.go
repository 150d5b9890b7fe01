package replay

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/testflows"
	"weir/pkg/flowpb"
)

// A sentAt is a datagram and the time of its sending since the start.
type sentAt struct {
	After time.Duration
	B     []byte
}

// replayedOf runs a replayer in a synctest bubble, whose clock starts in 2000.
func replayedOf(t *testing.T, o Options, files ...string) (all []sentAt, errout string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := replayer{Options: o, now: time.Now, stderr: &out, show: console.NewProgress(io.Discard)}
		start := time.Now()
		p.send = func(_ netip.AddrPort, b []byte) error {
			if all = append(all, sentAt{time.Since(start), bytes.Clone(b)}); len(all) == 1000 {
				cancel()
			}
			return nil
		}
		err = p.run(ctx, files)
		errout = out.String()
	})
	return all, errout, err
}

// captured returns the datagrams of a file as a replay at the original pace must send them.
func captured(t *testing.T, file string) (all []sentAt) {
	t.Helper()
	var first int64
	p := replayer{}
	if err := p.eachDatagram(file, func(d *capture.Datagram, _ float64) error {
		if first == 0 {
			first = d.Time
		}
		all = append(all, sentAt{time.Duration(d.Time - first), bytes.Clone(d.Payload)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// writeCapture writes datagrams with their capture times and returns the path of the file.
func writeCapture(t *testing.T, list []sentAt) string {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4(192, 0, 2, 1), DstIP: net.IPv4(192, 0, 2, 2)}
		udp := &layers.UDP{SrcPort: 40000, DstPort: 2055}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		packet := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(packet, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, udp, gopacket.Payload(d.B)); err != nil {
			t.Fatal(err)
		}
		n := len(packet.Bytes())
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1_700_000_000, 0).Add(d.After), CaptureLength: n, Length: n}, packet.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	return writeFile(t, "written.pcap", b.String())
}

func TestAReplayHasThePaceOfTheCapture(t *testing.T) {
	v5 := captured(t, captures.File("softflowd_v5_synth_adj.pcap"))[0].B
	want := []sentAt{{0, v5}, {1500 * time.Millisecond, v5}, {1500 * time.Millisecond, v5}, {4 * time.Second, v5}}
	file := writeCapture(t, append([]sentAt{{0, []byte("a datagram of something else")}}, want...))
	for _, speed := range []float64{1, 4, 0.5, 0} {
		got, errout, err := replayedOf(t, Options{Speed: speed}, file)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v: %d datagrams, want %d: %v", speed, len(got), len(want), err)
		}
		for i, w := range want {
			after := time.Duration(0)
			if speed > 0 {
				after = time.Duration(float64(w.After) / speed)
			}
			if !bytes.Equal(got[i].B, w.B) || got[i].After.Round(time.Microsecond) != after.Round(time.Microsecond) {
				t.Errorf("%v: datagram %d after %v, want %v", speed, i, got[i].After, after)
			}
		}
		if !strings.HasPrefix(errout, "4 datagrams sent, ") || !strings.HasSuffix(errout, "; 1 of something else left out\n") {
			t.Errorf("%v: %q", speed, errout)
		}
	}
}

func TestAReplayInALoopGoesOnUntilItIsEnded(t *testing.T) {
	got, errout, err := replayedOf(t, Options{Speed: 0, Loop: true}, captures.File("softflowd_v5_synth_adj.pcap"))
	if err != nil || len(got) != 1000 || !strings.HasPrefix(errout, "1000 datagrams sent") {
		t.Errorf("%d datagrams, %v, %q", len(got), err, errout)
	}
	// A file without export datagrams must not loop forever.
	if _, _, err := replayedOf(t, Options{Loop: true}, writeFile(t, "nothing.hex", "00 2a 00 00\n")); err == nil || !strings.Contains(err.Error(), "no NetFlow or IPFIX") {
		t.Errorf("nothing to send: %v", err)
	}
	if _, _, err := replayedOf(t, Options{Loop: true}, "nowhere.pcap"); err == nil || !strings.Contains(err.Error(), "nowhere.pcap: no such file") {
		t.Errorf("no file: %v", err)
	}
}

// The flows of the synthetic traffic lie within the hour before their export. After the move they must lie within
// the hour before the replay.
func TestAReplayMovesTheTimes(t *testing.T) {
	for _, name := range []string{"softflowd_v9_synth_adj.pcap", "softflowd_v10_synth_adj.pcap", "softflowd_v5_synth_adj.pcap", "softflowd_v10_time_micro_synth.pcap"} {
		file := captures.File(name)
		for _, speed := range []float64{0, 1} {
			got, _, err := replayedOf(t, Options{Speed: speed, RewriteTimes: true}, file)
			if err != nil {
				t.Fatal(err)
			}
			before, after := flowsOf(t, captured(t, file)), flowsOf(t, got)
			if len(before) == 0 || len(before) != len(after) {
				t.Fatalf("%s: %d flows, %d before", name, len(after), len(before))
			}
			shift := int64(after[0].TimeExportNs) - int64(before[0].TimeExportNs)
			if shift%1e9 != 0 || shift > -20*365*86400*1e9 { // to 2000
				t.Errorf("%s: moved by %v", name, time.Duration(shift))
			}
			for i, m := range after {
				b := before[i]
				is := [3]int64{int64(m.TimeFlowStartNs), int64(m.TimeFlowEndNs), int64(m.TimeExportNs)}
				want := [3]int64{int64(b.TimeFlowStartNs) + shift, int64(b.TimeFlowEndNs) + shift, int64(b.TimeExportNs) + shift}
				if d := cmp.Diff(want, is); d != "" {
					t.Fatalf("%s, flow %d: -want +got\n%s", name, i, d)
				}
			}
		}
	}
}

func flowsOf(t *testing.T, list []sentAt) (all []*flowpb.FlowMessage) {
	t.Helper()
	var b [][]byte
	for _, s := range list {
		b = append(b, s.B)
	}
	for _, m := range testflows.OfDatagrams(t, b) {
		all = append(all, m...)
	}
	return all
}

func TestEachExporterOfAReplayHasItsSource(t *testing.T) {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var out bytes.Buffer
	s := newSenders(l.LocalAddr().(*net.UDPAddr), &out)
	defer s.close()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	sources := map[netip.AddrPort]netip.AddrPort{}
	buf := make([]byte, 10)
	for range 2 {
		for _, from := range []netip.AddrPort{netip.AddrPortFrom(a, 1), netip.AddrPortFrom(b, 1), netip.AddrPortFrom(b, 2)} {
			if err := s.send(from, []byte("x")); err != nil {
				t.Fatal(err)
			}
			_, is, err := l.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if was, known := sources[from]; known && was != is {
				t.Errorf("%v sends from %v, then from %v", from, was, is)
			}
			sources[from] = is
		}
	}
	first, second, third := sources[netip.AddrPortFrom(a, 1)], sources[netip.AddrPortFrom(b, 1)], sources[netip.AddrPortFrom(b, 2)]
	if first.Addr() == second.Addr() || second.Addr() != third.Addr() || second.Port() == third.Port() {
		t.Errorf("%v, %v, %v", first, second, third)
	}
	if want := "weir replay: exporter 192.0.2.2 of the capture sends from 127.1.0.1\n"; out.String() != want {
		t.Errorf("want %q, got %q", want, out.String())
	}
}

// writeFile returns the path of a file with content.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
