//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	kafkatest "weir/internal/weirtest/kafka"
)

// TestTheDocumentedACLsSuffice grants only the ACLs of docs/security.md. They must suffice for
// everything. One service authenticates by password, the other by token.
func TestTheDocumentedACLsSuffice(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	build(ctx, t, dir)
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "weir/cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	users := map[string]string{"admin": "a secret", "ingest": "i secret", "operator": "o secret", "stranger": "s secret"}
	c := kafkatest.NewSecure(ctx, t, users)
	for i := range kafkatest.Nodes {
		if err := c.StartNode(i); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitUp(ctx, t, kafkatest.Nodes)
	admin, err := kgo.NewClient(c.Admin()...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	grantDocumented(ctx, t, kadm.NewClient(admin))

	// The listener must refuse connections without TLS.
	plain, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	try, done := context.WithTimeout(ctx, 5*time.Second)
	if err := plain.Ping(try); err == nil {
		t.Error("a client without TLS was accepted")
	}
	done()

	w := &world{t: t, c: c, bin: dir}
	secret := func(name, text string) string {
		path := filepath.Join(dir, "secret of "+name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password := func(user string) []string {
		return []string{
			"KAFKA_TLS=true", "KAFKA_TLS_CA_FILE=" + c.CAFile, "KAFKA_SASL_MECHANISM=scram-sha-512", "KAFKA_SASL_USERNAME=" + user,
			"KAFKA_SASL_PASSWORD_FILE=" + secret(user, users[user]),
		}
	}
	stranger := w.ingest(ctx, "stranger", password("stranger")...)
	kafkatest.Poll(ctx, t, "what a stranger may not do is named", func() bool {
		code, body := stranger.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "netflow.flows") && strings.Contains(body, "AUTHORIZATION_FAILED")
	})
	stranger.kill()

	in := w.ingest(ctx, "one", password("ingest")...)
	kafkatest.Poll(ctx, t, "ingest is ready", func() bool { code, _ := in.ready(); return code == http.StatusOK })
	token := secret("token", unsigned("enrich", time.Now()))
	enrich := w.start("enrich", "KAFKA_TLS=true", "KAFKA_TLS_CA_FILE="+c.CAFile, "KAFKA_SASL_MECHANISM=oauthbearer", "KAFKA_SASL_TOKEN_FILE="+token,
		"INSTANCE=one", "DNS_ENABLED=false", "PAIR_IDLE=3s", "PAIR_ACTIVE_TIMEOUT=2s", "PAIR_LINGER=1s", "PAIR_LATE_GRACE=1s")
	kafkatest.Poll(ctx, t, "enrich is ready", func() bool { code, _ := enrich.ready(); return code == http.StatusOK })

	// A late template makes the replica use the undecoded topic.
	from, err := net.Dial("udp", in.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	send := func(name string) {
		if _, err := from.Write(packet(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	send("v9_data.hex")
	kafkatest.Poll(ctx, t, "a set waits on its topic", func() bool { return in.sum("weir_ingest_late_sets_total", `what="appended"`) == 1 })
	send("v9_template.hex")
	kafkatest.Poll(ctx, t, "it is decoded", func() bool { return in.sum("weir_ingest_late_sets_total", `what="decoded"`) == 1 })
	// Further flows advance stream time.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	operator := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "weir"), args...)
		cmd.Env = append(append(os.Environ(), "KAFKA_BROKERS="+strings.Join(c.Brokers(), ",")), password("operator")...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	kafkatest.Poll(ctx, t, "connections come out, and the operator reads them", func() bool {
		<-tick.C
		send("v9_data.hex")
		out, err := operator("connections", "--once", "--json")
		return err == nil && strings.Contains(out, `"connection_id"`)
	})
	kafkatest.Poll(ctx, t, "the operator sees the exporter", func() bool {
		<-tick.C
		out, err := operator("exporters")
		return err == nil && strings.Contains(out, "127.0.0.1") && strings.Contains(out, "one")
	})
	if out, err := operator("templates", "list"); err != nil || !strings.Contains(out, "1 definitions") {
		t.Errorf("weir templates list: %v\n%s", err, out)
	}
	if out, err := operator("templates", "remove", "127.0.0.1"); err == nil || !strings.Contains(out, "netflow.templates") {
		t.Errorf("an operator without the right to write: want an error that names the topic, got %v\n%s", err, out)
	}
	in.terminate(t)
	enrich.terminate(t)
	for _, p := range []*process{in, enrich} {
		if strings.Contains(p.out.String(), "AUTHORIZATION") {
			t.Errorf("%s was refused an operation:\n%s", p.cmd.Path, p.out)
		}
	}
}

// unsigned returns an unsigned token, which Kafka accepts if no other verification is configured
// (RFC 7515 appendix A.5).
func unsigned(subject string, now time.Time) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"sub":%q,"iat":%d,"exp":%d}`, subject, now.Unix(), now.Add(time.Hour).Unix())) + "."
}

// grantDocumented grants the ACLs of the commands in docs/security.md.
func grantDocumented(ctx context.Context, t *testing.T, adm *kadm.Client) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 || words[0] != "kafka-acls.sh" || words[1] != "--add" {
			continue
		}
		b := kadm.NewACLs().AllowHosts("*").ResourcePatternType(kmsg.ACLResourcePatternTypeLiteral)
		var operations []kadm.ACLOperation
		for i := 2; i+1 < len(words); i += 2 {
			switch value := words[i+1]; words[i] {
			case "--allow-principal":
				b.Allow(value)
			case "--operation":
				o, err := kmsg.ParseACLOperation(value)
				if err != nil {
					t.Fatal(err)
				}
				operations = append(operations, o)
			case "--topic":
				b.Topics(value)
			case "--group":
				b.Groups(value)
			case "--transactional-id":
				b.TransactionalIDs(value)
			case "--resource-pattern-type":
				b.ResourcePatternType(kmsg.ACLResourcePatternTypePrefixed)
			default:
				t.Fatalf("docs/security.md: %q in %s", words[i], line)
			}
		}
		if _, err := adm.CreateACLs(ctx, b.Operations(operations...)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		n++
	}
	if n < 10 {
		t.Fatalf("docs/security.md has %d commands", n)
	}
}
