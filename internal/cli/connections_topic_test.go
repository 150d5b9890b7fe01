package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
	"weir/internal/kafka/broker"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// reported is a report of a connection.
func reported(id string, version uint32, from, to string, port, protocol uint32, packets uint64, final bool) *flowpb.Connection {
	c := &flowpb.Connection{
		ConnectionId: fmt.Appendf(nil, "%-16s", id), Version: version, Final: final, EmitReason: flowpb.EmitReason_EMIT_REASON_COMPLETE, Protocol: protocol,
		Initiator: &flowpb.Endpoint{Address: netip.MustParseAddr(from).AsSlice(), Port: 40000}, Responder: &flowpb.Endpoint{Address: netip.MustParseAddr(to).AsSlice(), Port: port},
		Forward: &flowpb.Traffic{Packets: packets}, StartUnixNs: int64(id[0]) * 1e9,
	}
	if !final {
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_INTERIM
	}
	return c
}

// emptyTopic starts a broker with the topic of connections and points the environment at it.
func emptyTopic(t *testing.T) *broker.Broker {
	t.Helper()
	b := onBroker(t)
	tc := kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 2, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	if err := kafka.Ensure(t.Context(), kafka.Config{Brokers: []string{b.Addr()}}, tc, nil, kafka.Connections); err != nil {
		t.Fatal(err)
	}
	return b
}

// theTopic starts an embedded broker whose topic has committed connections, a connection in an aborted
// transaction, and a record that is not a connection.
func theTopic(t *testing.T) *kgo.Client {
	t.Helper()
	b := emptyTopic(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.TransactionalID("test"), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	publish(t, cl, true,
		reported("a", 1, "10.0.0.1", "192.0.2.80", 443, 6, 5, false),
		reported("a", 2, "10.0.0.1", "192.0.2.80", 443, 6, 20, true),
		reported("b", 1, "10.0.0.2", "192.0.2.53", 53, 17, 2, true),
		reported("c", 1, "2001:db8::1", "2001:db8::2", 443, 6, 30, true),
		reported("d", 1, "10.0.0.1", "192.0.2.9", 22, 6, 9, false))
	publish(t, cl, false, reported("e", 1, "10.0.0.1", "192.0.2.9", 22, 6, 9, true))
	publish(t, cl, true, nil)
	return cl
}

func publish(t *testing.T, cl *kgo.Client, commit bool, list ...*flowpb.Connection) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		r := &kgo.Record{Topic: "t.connections", Value: []byte("poison")}
		if c != nil {
			v, err := proto.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			r.Key, r.Value = c.ConnectionId, v
		}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.EndTransaction(t.Context(), kgo.TransactionEndTry(commit)); err != nil {
		t.Fatal(err)
	}
}

// idsOf returns the ids and versions of JSON Lines.
func idsOf(t *testing.T, out string) (ids []string) {
	t.Helper()
	for line := range strings.Lines(out) {
		var c struct {
			ID      string `json:"connection_id"`
			Version int
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		ids = append(ids, fmt.Sprintf("%s%d", string([]byte{unhex(c.ID[0])<<4 | unhex(c.ID[1])}), c.Version))
	}
	slices.Sort(ids)
	return ids
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func TestTheNewestReportOfEachConnectionOnTheTopic(t *testing.T) {
	theTopic(t)
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"all", nil, []string{"a2", "b1", "c1", "d1"}},
		{"of a host", []string{"--host", "10.0.0.1"}, []string{"a2", "d1"}},
		{"of a prefix", []string{"--host", "2001:db8::/32", "--host", "192.0.2.53"}, []string{"b1", "c1"}},
		{"a v4-mapped address", []string{"--host", "::ffff:10.0.0.2"}, []string{"b1"}},
		{"of a port", []string{"--port", "443"}, []string{"a2", "c1"}},
		{"of a protocol", []string{"--proto", "UDP"}, []string{"b1"}},
		{"by number", []string{"--proto", "6", "-p", "10"}, []string{"a2", "c1"}},
		{"of the last hour", []string{"--since", "1h"}, []string{"a2", "b1", "c1", "d1"}},
		{"none", []string{"--port", "9"}, nil},
	} {
		got := run(t, "", append([]string{"connections", "--once", "--json"}, tt.args...)...)
		if d := cmp.Diff(tt.want, idsOf(t, got.out)); d != "" || got.code != 0 {
			t.Errorf("%s: exit code %d, %s (-want +got):\n%s", tt.name, got.code, got.errout, d)
		}
		if strings.Contains(got.errout, "has none") {
			t.Errorf("%s: there are some: %q", tt.name, got.errout)
		}
		if !strings.Contains(got.errout, "1 records of t.connections are not connections") {
			t.Errorf("%s: want a report of the record that is not a connection: %q", tt.name, got.errout)
		}
	}
	if got := run(t, "", "connections", "--from-start", "--interim", "--limit", "2", "--json"); len(idsOf(t, got.out)) != 2 || got.code != 0 {
		t.Errorf("--limit 2: %s%s", got.out, got.errout)
	}
	if got := run(t, "", "connections", "--once", "--top", "1", "--csv"); strings.Count(got.out, "\n") != 2 || !strings.Contains(got.errout, ", 1 of 4 connections\n") {
		t.Errorf("--top: %s%s", got.out, got.errout)
	}
	table := run(t, "", "connections", "--once")
	if lines := strings.Split(strings.TrimSpace(table.out), "\n"); len(lines) != 5 || !strings.Contains(lines[1], "report 2") || !strings.Contains(lines[4], "goes on, report 1") {
		t.Errorf("the table:\n%s", table.out)
	}
	t.Setenv("TOPIC_PREFIX", "other.")
	if got := run(t, "", "connections", "--once"); got.code != 1 || !strings.Contains(got.errout, "other.connections") {
		t.Errorf("a missing topic: %d, %q", got.code, got.errout)
	}
}

func TestATopicWithoutConnectionsSaysWhenTheyCome(t *testing.T) {
	emptyTopic(t)
	if got := run(t, "", "connections", "--once"); got.code != 0 || !strings.Contains(got.errout, "t.connections has none: enrich reports a connection once it has ended") {
		t.Errorf("exit code %d, %q", got.code, got.errout)
	}
}

func TestFollowingTheTopicOfConnections(t *testing.T) {
	cl := theTopic(t)
	settings, err := topics.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	follow := func(flags topics.Flags) (out *locked.Buffer, stop func()) {
		out = &locked.Buffer{}
		f := &topics.ConnectionsView{Flags: flags, Filter: report.NewFilter(), Choice: &report.Choice{}, Stderr: &bytes.Buffer{}, Printer: report.NewConnectionPrinter(out, report.JSONLines)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx, settings) }()
		return out, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	wait := func(out *locked.Buffer, want ...string) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range 1000 {
			if slices.Equal(idsOf(t, out.String()), want) {
				return
			}
			<-tick.C
		}
		t.Fatalf("want %v, got %v", want, idsOf(t, out.String()))
	}
	whole, stopWhole := follow(topics.Flags{FromStart: true, Interim: true})
	final, stopFinal := follow(topics.Flags{FromStart: true})
	wait(whole, "a1", "a2", "b1", "c1", "d1")
	wait(final, "a2", "b1", "c1")
	publish(t, cl, true, reported("d", 2, "10.0.0.1", "192.0.2.9", 22, 6, 10, true), reported("a", 1, "10.0.0.1", "192.0.2.80", 443, 6, 5, true))
	wait(whole, "a1", "a2", "b1", "c1", "d1", "d2")
	wait(final, "a2", "b1", "c1", "d2")
	stopWhole()
	stopFinal()
}

// A connection of another producer may have an id and no other field.
func TestAConnectionWithoutEndsIsPrinted(t *testing.T) {
	cl := theTopic(t)
	publish(t, cl, true, &flowpb.Connection{ConnectionId: []byte("f without ends  "), Version: 1, Final: true})
	for _, form := range []string{"--json", "--csv", "-v", "-n"} {
		got := run(t, "", "connections", "--once", "-n", form)
		if got.code != 0 || !strings.Contains(got.errout, "5 connections shown") {
			t.Errorf("%s: exit code %d, %s%s", form, got.code, got.out, got.errout)
		}
	}
}
