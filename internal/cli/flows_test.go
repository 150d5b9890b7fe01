package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/report"
	"weir/internal/cli/topics"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/weirtest/captures"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

func TestFlowsOfAFile(t *testing.T) {
	file := captures.File("softflowd_v9_synth_adj.pcap")
	golden(t, "flows/softflowd_v9_synth_adj.txt", run(t, "", "flows", file).out)
	lines := func(args ...string) int {
		t.Helper()
		got := run(t, "", append(append([]string{"flows", "--json"}, args...), file)...)
		if got.code != 0 {
			t.Errorf("%v: exit code %d, %s", args, got.code, got.errout)
		}
		return strings.Count(got.out, "\n")
	}
	// 34 directions of the conversations in synth, and an event without an address pair.
	want := 0
	for _, c := range synth {
		want += 2 - strings.Count(c, "none")
	}
	if got := lines("--host", "0.0.0.0/0", "--host", "::/0"); got != want {
		t.Errorf("%d flows, want %d", got, want)
	}
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--host", "10.9.9.9"}, 2}, {[]string{"--port", "443"}, 4}, {[]string{"--proto", "icmp"}, 3}, {[]string{"-p", "9"}, 2}, {[]string{"--limit", "5"}, 5},
	} {
		if got := lines(tt.args...); got != tt.want {
			t.Errorf("%v: %d flows, want %d", tt.args, got, tt.want)
		}
	}
	// weir flows reads its own output.
	again := temporary(t, "flows.jsonl", run(t, "", "flows", "--json", file).out)
	if a, b := run(t, "", "flows", "-v", file).out, run(t, "", "flows", "-v", again).out; a != b {
		t.Errorf("-capture +lines\n%s", cmp.Diff(a, b))
	}
	if got := run(t, "", "flows", "-v", "--limit", "1", file); !strings.HasPrefix(got.out, "flow     v9 ") || !strings.Contains(got.out, " flow_end_reason=") {
		t.Errorf("-v: %s", got.out)
	}
}

func TestFlowsOfTheTopic(t *testing.T) {
	b := onBroker(t)
	tc := kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 1, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	if err := kafka.Ensure(t.Context(), kafka.Config{Brokers: []string{b.Addr()}}, tc, nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	flow := func(n int) []byte {
		m, err := proto.Marshal(&flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: netip.MustParseAddr("10.0.0.1").AsSlice(), DstAddr: netip.MustParseAddr("10.0.0.2").AsSlice(),
			Proto: 17, DstPort: uint32(n), Packets: 1, SamplerAddress: []byte{192, 0, 2, 1}, ExporterName: fmt.Sprintf("router\x1b[%d", n),
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	produce := func(values ...[]byte) {
		t.Helper()
		for _, v := range values {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t.flows", Value: v}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce(flow(1), framing.AppendDelimited(framing.AppendDelimited(nil, flow(2)), flow(3)), []byte("poison"), flow(4))
	ports := func(out string) (got []int) {
		for line := range strings.Lines(out) {
			var m struct {
				Port int `json:"dst_port"`
			}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			got = append(got, m.Port)
		}
		return got
	}
	got := run(t, "", "flows", "--once", "--json")
	if !slices.Equal(ports(got.out), []int{1, 2, 3, 4}) || !strings.Contains(got.errout, "1 records of t.flows are not flows\n4 flows shown") {
		t.Errorf("%s%s", got.out, got.errout)
	}
	if got := run(t, "", "flows", "--from-start", "--limit", "3", "--json"); !slices.Equal(ports(got.out), []int{1, 2, 3}) || got.code != 0 {
		t.Errorf("three: %s%s", got.out, got.errout)
	}
	if got := run(t, "", "flows", "--once"); strings.Contains(got.out, "\x1b") || !strings.Contains(got.out, `"router\x1b[1"`) {
		t.Errorf("a name of an exporter: %q", got.out)
	}
	settings, err := topics.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	out := &locked.Buffer{}
	p := report.NewFlowPrinter(out, report.JSONLines, report.NewFilter(), 0, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- topics.ReadFlows(ctx, settings, topics.Flags{FromStart: true}, p, io.Discard) }()
	for n := 5; len(ports(out.String())) < 5; n++ {
		if n == 5 {
			produce(flow(5))
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
