package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/cli"
	"weir/internal/cli/sink"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/kafka/framing"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// asProgram is the environment variable that makes the test binary run as weir-sqlite, so that a test can kill it.
const asProgram = "WEIR_TEST_AS_SQLITE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(program(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func program(args []string, stdout, stderr io.Writer) int {
	return cli.SQLite(args, stdout, stderr, func(ctx context.Context, o sink.Options) (sink.Sink, error) { return Open(ctx, o) })
}

// onBroker starts an embedded broker with the topics t.connections and t.flows and returns a client of it.
func onBroker(t *testing.T) *kgo.Client {
	t.Helper()
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	t.Setenv("KAFKA_BROKERS", b.Addr())
	t.Setenv("TOPIC_PREFIX", "t.")
	tc := kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 3, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	if err := kafka.Ensure(t.Context(), kafka.Config{Brokers: []string{b.Addr()}}, tc, nil, kafka.Connections, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.TransactionalID("test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func transaction(t *testing.T, cl *kgo.Client, commit bool, records ...*kgo.Record) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TransactionEndTry(commit)); err != nil {
		t.Fatal(err)
	}
}

// The program is killed repeatedly while flows arrive. Each flow must be stored exactly once.
func TestEachFlowIsARowOnceWheneverItIsKilled(t *testing.T) {
	cl := onBroker(t)
	path := filepath.Join(t.TempDir(), "flows.db")
	const kills, batches, each = 5, 60, 20
	stop, produced := make(chan struct{}), make(chan int)
	go func() { // a batch every few ms, until the last kill
		n := 0
		for batch := 0; ; batch++ {
			select {
			case <-stop:
				if batch >= batches {
					produced <- n
					return
				}
			default:
			}
			var list []*kgo.Record
			for i := range each {
				m := marshal(t, &flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, SequenceNum: uint32(n + i), ObservationDomainId: uint32(n + i), Bytes: uint64(n + i)})
				list = append(list, &kgo.Record{Topic: "t.flows", Value: framing.AppendDelimited(nil, m)})
			}
			commit := batch%7 != 3
			transaction(t, cl, commit, list...)
			if commit {
				n += each
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	rows := func() int {
		n, err := strconv.Atoi(look(t, path, "SELECT count(*) FROM flows"))
		if err != nil { // before the program made the table
			return 0
		}
		return n
	}
	last := 0
	for kill := range kills {
		out := &locked.Buffer{}
		cmd := exec.CommandContext(t.Context(), os.Args[0], path, "--topic", "flows")
		cmd.Env = append(os.Environ(), asProgram+"=1")
		cmd.Stderr = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); rows() <= last; time.Sleep(10 * time.Millisecond) { // it has stored new rows
			if time.Since(began) > 30*time.Second {
				t.Fatalf("no rows: %s", out.String())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		last = rows()
		t.Logf("kill %d after %d rows", kill+1, last)
	}
	close(stop)
	want := <-produced
	var out bytes.Buffer
	if code := program([]string{path, "--topic", "flows", "--once"}, io.Discard, &out); code != 0 {
		t.Fatalf("exit code %d: %s", code, out.String())
	}
	s := open(t, path, "flows", sink.Options{})
	got := query(t, s, "SELECT count(*), count(DISTINCT domain), sum(octets) FROM flows")
	if d := cmp.Diff([]string{fmt.Sprintf("%d|%d|%d", want, want, want*(want-1)/2)}, got); d != "" {
		t.Errorf("-want +got\n%s%s", d, out.String())
	}
}

func TestTheProgram(t *testing.T) {
	cl := onBroker(t)
	path := filepath.Join(t.TempDir(), "c.db")
	for i := range 3 {
		transaction(t, cl, true, &kgo.Record{Topic: "t.connections", Value: marshal(t, connection("one", uint32(i+1), 1))},
			&kgo.Record{Topic: "t.connections", Value: marshal(t, connection(fmt.Sprint("other", i), 1, 1))})
	}
	transaction(t, cl, true, &kgo.Record{Topic: "t.connections", Value: []byte("poison")})
	run := func(code int, want string, args ...string) {
		t.Helper()
		var out, errout bytes.Buffer
		if got := program(args, &out, &errout); got != code || !strings.Contains(out.String()+errout.String(), want) {
			t.Errorf("%v: exit code %d, want %d with %q; got %s%s", args, got, code, want, out.String(), errout.String())
		}
	}
	run(0, "6 rows written, 1 messages that are not connections, 0 old rows deleted", path, "--once")
	run(0, "0 rows written, 0 messages", path, "--once")
	transaction(t, cl, true, &kgo.Record{Topic: "t.connections", Value: marshal(t, connection("one", 9, 1))})
	run(0, "1 rows written", path, "--once")
	if got := query(t, open(t, path, "connections", sink.Options{}), "SELECT count(*), max(version) FROM connections"); !cmp.Equal(got, []string{"4|9"}) {
		t.Errorf("got %v", got)
	}
	run(2, "want one FILE, got 0")
	run(2, `"hosts": want connections or flows`, path, "--topic", "hosts")
	run(2, `want a number of octets with a unit`, path, "--max-size", "big")
	run(2, "want at least 1MiB", path, "--max-size", "1kB")
	run(2, "--keep -1s: want more than 0", path, "--keep", "-1s")
	run(1, "unable to open database file", "/nowhere/x.db")
	run(0, "docs/sqlite.md", "--help")
	t.Setenv("TOPIC_PREFIX", "none.")
	run(1, "topic none.connections at", path, "--once")
	t.Setenv("KAFKA_BROKERS", "")
	run(2, "KAFKA_BROKERS is empty", path)
}
