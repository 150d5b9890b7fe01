//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
	kafkatest "weir/test/kafka"
)

// repo is the root of the module.
const repo = "../.."

// sums is what a consumer adds up.
type sums struct {
	N       int
	Octets  uint64
	Packets uint64
}

// Other people's consumers read what is on the topics: all of docs/consumers.md, in each
// form that a record can have.
func TestConsumersOfEveryKind(t *testing.T) {
	python, err := filepath.Abs(filepath.Join(repo, ".cache/python/bin/python"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import confluent_kafka, chdb, grpc_tools").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no Python with confluent-kafka, chdb and grpcio-tools in .cache/python: %v\n%s", err, out)
	}
	for _, tool := range []string{"kcat", "protoc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %v (Debian: kcat protobuf-compiler)", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	bin := build(ctx, t, t.TempDir())
	generated := t.TempDir()
	run(ctx, t, nil, python, "-m", "grpc_tools.protoc", "-I", filepath.Join(repo, "proto/weir/v1"), "--python_out="+generated, "flow.proto", "connection.proto")
	for _, form := range []struct {
		name string
		env  []string
	}{
		{"single", nil}, {"delimited", []string{"FRAMING=delimited"}}, {"packed", []string{"FRAMING=delimited", "PACK=20"}}, {"json", []string{"FORMAT=json"}},
	} {
		t.Run(form.name, func(t *testing.T) {
			w := &world{t: t, bin: bin, c: kafkatest.Start(ctx, t)}
			ingest := form.env
			var enrich []string
			for _, e := range form.env {
				if !strings.HasPrefix(e, "PACK") {
					enrich = append(enrich, e)
				}
			}
			flows, talks := w.filled(ctx, t, ingest, enrich)
			c := &consumers{w.c.Brokers()[0], python, generated, flows, talks}
			c.python3(ctx, t)
			switch form.name {
			case "single":
				c.kcat(ctx, t)
				c.golang(ctx, t)
				c.goflow2(ctx, t)
				c.clickhouse(ctx, t, "single")
			case "json":
				c.kcatJSON(ctx, t)
			default:
				c.clickhouse(ctx, t, "delimited")
			}
		})
	}
}

// filled sends captures of all kinds through ingest and enrich, and returns what is on
// the topics as this test's own reader sees it.
func (w *world) filled(ctx context.Context, t *testing.T, in, out []string) (flows, talks sums) {
	t.Helper()
	i := w.ingest(ctx, "consumers", in...)
	e := w.start("enrich", append(out, "INSTANCE=one", "DNS_ENABLED=false", "PAIR_IDLE=3s", "PAIR_ACTIVE_TIMEOUT=2s", "PAIR_LINGER=1s", "PAIR_LATE_GRACE=2s")...)
	for _, p := range []*process{i, e} {
		kafkatest.Poll(ctx, t, "ready", func() bool { code, _ := p.ready(); return code == http.StatusOK })
	}
	want := 0
	files, err := filepath.Glob(filepath.Join(repo, "testdata/captures/softflowd_*synth*.pcap"))
	if err != nil || len(files) < 3 {
		t.Fatalf("captures: %v, %v", files, err)
	}
	for _, f := range files {
		to := send(t, i, f)
		want += to
	}
	kafkatest.Poll(ctx, t, "all datagrams are received", func() bool { return int(i.sum("weir_ingest_datagrams_total", "")) == want })
	kafkatest.Poll(ctx, t, "nothing waits", func() bool {
		return i.sum("weir_ingest_flows_total", "") > 0 && i.sum("weir_ingest_buffered_flows", "") == 0 && i.sum("weir_ingest_parked_sets", "") == 0
	})
	kafkatest.Poll(ctx, t, "enrich has taken all", func() bool {
		return e.sum("weir_enrich_flows_total", "") >= i.sum("weir_ingest_flows_total", "") && e.sum("weir_enrich_connections_open", "") == 0
	})
	i.terminate(t)
	e.terminate(t)
	w.all(ctx, t, "netflow.flows", func(value []byte) {
		for _, m := range unframed(t, value, func() proto.Message { return &flowpb.FlowMessage{} }, 0x08) {
			f := m.(*flowpb.FlowMessage)
			flows.add(f.Bytes, f.Packets)
		}
	})
	latest := map[string]*flowpb.Connection{}
	w.all(ctx, t, "netflow.connections", func(value []byte) {
		for _, m := range unframed(t, value, func() proto.Message { return &flowpb.Connection{} }, 0x0a) {
			c := m.(*flowpb.Connection)
			if c.Version > latest[string(c.ConnectionId)].GetVersion() {
				latest[string(c.ConnectionId)] = c
			}
		}
	})
	for _, c := range latest {
		talks.add(c.GetForward().GetOctets()+c.GetReverse().GetOctets(), c.GetForward().GetPackets()+c.GetReverse().GetPackets())
	}
	if flows.N < 100 || talks.N < 30 {
		t.Fatalf("%+v flows and %+v connections prove nothing", flows, talks)
	}
	return flows, talks
}

func (s *sums) add(octets, packets uint64) { s.N, s.Octets, s.Packets = s.N+1, s.Octets+octets, s.Packets+packets }
