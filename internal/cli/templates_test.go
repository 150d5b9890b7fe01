package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/templates"
	"weir/internal/weirtest/captures"
)

const someTemplates = `template 256, version 9, domain 7 of 192.0.2.1
         8                  4  sourceIPv4Address
template 257 of options, version 10, domain 0 of 2001:db8::1
         10                 4  ingressInterface  scope
         82          variable  interfaceName
`

// weirTemplates runs the verb and returns its output and exit code.
func weirTemplates(t *testing.T, stdin string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(append([]string{"templates"}, args...), strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

// onBroker starts an embedded broker and sets the environment to its address.
func onBroker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	t.Setenv("KAFKA_BROKERS", b.Addr())
	t.Setenv("TOPIC_PREFIX", "t.")
	return b
}

func TestAnOperatorAddsShowsAndRemovesTemplates(t *testing.T) {
	b := onBroker(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tc := kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 1, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: []string{b.Addr()}}, tc, nil, kafka.Templates); err != nil {
		t.Fatal(err)
	}
	run := func(wantCode int, want string, stdin string, args ...string) (out string) {
		t.Helper()
		code, out, errOut := weirTemplates(t, stdin, args...)
		if code != wantCode || !strings.Contains(out+errOut, want) {
			t.Fatalf("weir templates %v: want code %d and %q; got %d\n%s%s", args, wantCode, want, code, out, errOut)
		}
		return out
	}
	run(0, "0 definitions, 0 facts", "", "list")
	run(1, "no such template", "", "show")
	run(0, "2 entries of t.templates would be published", someTemplates, "add", "-", "--dry-run")
	run(0, "0 definitions", "", "list")
	run(0, "2 entries of t.templates are published", someTemplates, "add", "-")
	run(0, "2 definitions, 0 facts", "", "list")
	run(0, `"exporter":"2001:db8::1","version":10,"domain":0,"template":257,"options":true,"fields":2`, "", "list", "--json")

	// The output of show can be added; comments in it are ignored.
	shown := run(0, "interfaceName", "", "show")
	if !strings.Contains(shown, strings.Split(someTemplates, "\n")[1]) {
		t.Errorf("want the same text, got\n%s", shown)
	}
	file := filepath.Join(t.TempDir(), "templates.txt")
	if err := os.WriteFile(file, []byte(shown), 0o600); err != nil {
		t.Fatal(err)
	}
	run(0, "2 entries", "", "add", file)
	if only := run(0, "template 256,", "", "show", "--exporter", "192.0.2.1"); strings.Contains(only, "2001:db8::1") {
		t.Errorf("want one exporter's, got\n%s", only)
	}

	// A replica learns added templates and forgets removed templates.
	store := templates.New(templates.Options{Replica: "r"})
	sync := func() (definitions int) {
		t.Helper()
		if err := kafka.ReadWhole(ctx, kafka.Config{Brokers: []string{b.Addr()}}, "t.templates", func(r kafka.Record) {
			if err := store.Merge(r.Key, r.Value); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return store.Stats().Definitions
	}
	if n := sync(); n != 2 || len(store.Due()) != 0 {
		t.Errorf("a replica: want 2 definitions and nothing to publish, got %d", n)
	}
	run(1, "no record of this exporter", "", "remove", "192.0.2.1", "--template", "300")
	run(0, "1 entries of t.templates would be removed", "", "remove", "192.0.2.1", "--dry-run")
	run(0, "1 entries of t.templates are removed", "", "remove", "192.0.2.1", "--template", "256")
	run(0, "1 definitions", "", "list")
	run(0, "removed", "", "list", "--all")
	run(1, "no such template", "", "show", "--exporter", "192.0.2.1")
}

func TestTemplatesSaysWhatIsWrong(t *testing.T) {
	t.Setenv("KAFKA_BROKERS", "127.0.0.1:1")
	for _, tt := range []struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		{"", nil, 2, "want list, show, add or remove"},
		{"", []string{"drop"}, 2, `unknown command "drop"`},
		{"", []string{"list", "x"}, 2, "want 0 arguments"},
		{"", []string{"list", "--domain", "x"}, 2, "want a number"},
		{"", []string{"list", "--exporter", "router"}, 2, "want an address"},
		{"", []string{"remove", "router"}, 2, "want an address"},
		{"template 256, version 9, domain 0 of 192.0.2.1\n 8 x\n", []string{"add", "-"}, 1, "line 2: field"},
		{"template 256, version 9, domain 0\n 8 4\n", []string{"add", "-"}, 1, "whose?"},
		{"", []string{"add", "-"}, 1, "contains no template"},
		{"", []string{"add", "/nowhere"}, 1, "no such file"},
	} {
		code, out, errOut := weirTemplates(t, tt.stdin, tt.args...)
		if code != tt.code || !strings.Contains(errOut, tt.want) || out != "" {
			t.Errorf("weir templates %v: want code %d and %q, got %d and %q", tt.args, tt.code, tt.want, code, errOut)
		}
	}
	t.Setenv("KAFKA_BROKERS", "")
	if code, _, errOut := weirTemplates(t, "", "list"); code != 2 || !strings.Contains(errOut, "KAFKA_BROKERS") {
		t.Errorf("without brokers: want code 2 and the variable's name, got %d and %q", code, errOut)
	}
}

// Templates from a capture decode data of a capture without templates.
func TestDecodeTakesTemplatesOfAFile(t *testing.T) {
	packets := filepath.Join(captures.Root(), "internal/decode/testdata") + "/"
	var text, out, errOut bytes.Buffer
	if code := Main([]string{"decode", packets + "v9_template.hex"}, nil, &text, &errOut); code != 0 {
		t.Fatalf("exit code %d: %s", code, &errOut)
	}
	file := filepath.Join(t.TempDir(), "templates.txt")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	errOut.Reset()
	if code := Main([]string{"decode", "--templates", file, packets + "v9_data.hex"}, nil, &out, &errOut); code != 0 || !strings.Contains(errOut.String(), "flows=24 options=0 templates=0 undecoded=0") {
		t.Errorf("exit code %d, want 24 flows: %s", code, &errOut)
	}
}
