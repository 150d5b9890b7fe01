package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/internal/cli/topics"
	"weir/internal/ingest"
	"weir/internal/kafka"
)

// v5 returns a NetFlow v5 datagram of n flows, by Cisco's export format.
func v5(n int, sequence uint32, export time.Time, boot time.Time) []byte {
	b := binary.BigEndian.AppendUint16(nil, 5)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = binary.BigEndian.AppendUint32(b, uint32(export.Sub(boot).Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, uint32(export.Unix()))
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = append(b, 1, 2)               // engine type and id
	b = append(b, 0x40, 0, 0, 0)[:24] // sampling mode 1, interval below
	binary.BigEndian.PutUint16(b[22:], 0x4000|100)
	for i := range n {
		r := make([]byte, 48)
		copy(r, []byte{192, 0, 2, byte(i), 198, 51, 100, 7})
		binary.BigEndian.PutUint32(r[16:], 10)
		binary.BigEndian.PutUint32(r[20:], 1000)
		r[38] = 17
		b = append(b, r...)
	}
	return b
}

// Two replicas behind a round-robin balancer each see gaps in the sequence numbers that are not losses. Only flows
// that no replica received must be reported as lost.
func TestExportersShowsWhatNoReplicaReceived(t *testing.T) {
	b := onBroker(t)
	exporters := func(args ...string) (code int, out, errOut string) {
		var o, e bytes.Buffer
		code = Main(append([]string{"exporters"}, args...), nil, &o, &e)
		return code, o.String(), e.String()
	}
	if code, _, errOut := exporters(); code != 1 || !strings.Contains(errOut, "t.exporters") {
		t.Errorf("without the topic: want code 1 and its name, got %d and %q", code, errOut)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var replicas []*ingest.Replica
	ended := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		r, err := ingest.New(ingest.Config{
			Replica: name, Flush: 5 * time.Second, Linger: time.Millisecond, ParkFor: time.Second,
			Kafka:  kafka.Config{Brokers: []string{b.Addr()}, ClientID: "test", SessionTimeout: 10 * time.Second},
			Topics: kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 2, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour},
		}, ingest.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, r)
		go func() { ended <- r.Run(ctx) }()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, r := range replicas {
		for r.Ready() != nil {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatal(r.Ready())
			}
		}
	}
	now := time.Now().Truncate(10 * time.Second).Add(-time.Minute)
	boot := now.Add(-time.Hour)
	router := netip.MustParseAddrPort("192.0.2.254:2055")
	silent := netip.MustParseAddrPort("[2001:db8::1]:2055")
	sequence := uint32(4_294_967_290) // wraps
	for i := range 50 {
		at := now.Add(time.Duration(i) * time.Second)
		n := 3 + i%4
		if i != 17 && i != 30 { // 3+1 and 3+2 flows; the second is the first of a slot
			replicas[i%2].Receive(v5(n, sequence, at, boot), router, at)
		}
		sequence += uint32(n)
	}
	at := now.Add(-time.Hour)
	replicas[0].Receive(v5(1, 7, at, boot), silent, at)
	cancel()
	for range replicas {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}

	code, out, errOut := exporters()
	if code != 0 || !strings.Contains(errOut, "2 export streams in the last 1h") {
		t.Fatalf("exit code %d: %s%s", code, out, errOut)
	}
	for _, want := range []string{"9 flows (4.04 %)", "1:100 (header)", "one two"} { // sent: 12 turns of 3+4+5+6, then 3 and 4: 223
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	code, out, errOut = exporters("--json")
	var got []topics.ExporterLine
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var l topics.ExporterLine
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	lost, none := uint64(9), uint64(0)
	want := []topics.ExporterLine{
		{Exporter: "192.0.2.254", Datagrams: 48, Flows: 214, Octets: 48*24 + 214*48, Lost: &lost, Of: 223, Replicas: []string{"one", "two"}},
		{Exporter: "2001:db8::1", Datagrams: 1, Flows: 1, Octets: 72, Lost: &none, Of: 1, Replicas: []string{"one"}},
	}
	for i := range want {
		w := &want[i]
		w.Version, w.Domain, w.Unit, w.SamplingRate, w.SamplingSource = 5, 258, "flows", 100, "header"
	}
	want[0].First, want[0].Last, want[0].FlowsPerSecond = now.UTC().Format(time.RFC3339), now.Add(49*time.Second).UTC().Format(time.RFC3339), 0
	want[1].First, want[1].Last = at.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339)
	if len(got) == 2 && got[0].FlowsPerSecond != 0 { // nothing if the test took longer than a minute
		want[0].FlowsPerSecond = 214 / 49. // received within 49 s
	}
	if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".last" || p.Last().String() == ".template" }, cmp.Ignore())); code != 0 || diff != "" {
		t.Errorf("exit code %d, %s; (-want +got)\n%s", code, errOut, diff)
	}

	code, out, errOut = exporters("--silent", "30m")
	if code != 0 || !strings.Contains(out, "2001:db8::1") || strings.Contains(out, "192.0.2.254") || !strings.Contains(errOut, "1 export streams are silent for 30m") {
		t.Errorf("silent for 30 m: exit code %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut = exporters("--silent", "24h"); code != 0 || out != "" || !strings.Contains(errOut, "no exporter is silent") {
		t.Errorf("silent for a day: exit code %d\n%s%s", code, out, errOut)
	}
}

func TestExportersSaysWhatIsWrong(t *testing.T) {
	t.Setenv("KAFKA_BROKERS", "")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"x"}, "want no arguments"},
		{[]string{"--silent", "-5m"}, "--silent: want more"},
		{[]string{"--since", "-5m"}, "--since: want 0s or more"},
		{[]string{"--silent", "five"}, "five"},
		{nil, "KAFKA_BROKERS"},
	} {
		var out, errOut bytes.Buffer
		if code := Main(append([]string{"exporters"}, tt.args...), nil, &out, &errOut); code != 2 || !strings.Contains(errOut.String(), tt.want) {
			t.Errorf("weir exporters %v: want code 2 and %q, got %d and %q", tt.args, tt.want, code, errOut.String())
		}
	}
}
