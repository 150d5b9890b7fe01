// Package weir_test holds the rule of which way imports go.
package weir_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath   string
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
}

func list(t *testing.T, patterns ...string) (out []pkg) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,TestImports,XTestImports"}, patterns...)...)
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// layers, outermost first: a package may import those of its own layer and of
// later ones.
var layers = [][]string{
	{"weir/cmd/ingest", "weir/cmd/enrich", "weir/cmd/weir", "weir/cmd/weir-sqlite"},
	{"weir/internal/cli"},
	{"weir/internal/cli/collect", "weir/internal/cli/replay", "weir/internal/cli/up", "weir/internal/cli/demo"},
	{"weir/internal/cli/offline", "weir/internal/cli/topics", "weir/internal/cli/pipeline"},
	{"weir/internal/ingest", "weir/internal/enrich", "weir/internal/kafka/broker", "weir/internal/cli/capture", "weir/internal/cli/flowfile", "weir/pkg/netflow", "weir/internal/cli/page", "weir/internal/cli/sink/sqlite", "weir/internal/cli/report", "weir/testdata"},
	{"weir/internal/query", "weir/internal/kafka", "weir/internal/annotate", "weir/internal/annotate/rdns", "weir/internal/services", "weir/internal/telemetry", "weir/internal/settings", "weir/internal/exporters", "weir/internal/elements", "weir/internal/annotate/geo", "weir/internal/annotate/cryptopan", "weir/internal/cli/sink", "weir/internal/cli/console", "weir/internal/cli/listen"},
	{"weir/internal/templates", "weir/internal/templates/text", "weir/internal/kafka/framing", "weir/internal/kafka/batches", "weir/internal/kafka/recordbatch", "weir/internal/loss", "weir/internal/doctor", "weir/internal/ingest/budget", "weir/internal/cli/pynetflow", "weir/internal/cli/retime"},
	{"weir/internal/decode", "weir/internal/pair"},
	{"weir/internal/ie", "weir/internal/flowkey", "weir/internal/transport"},
	{"weir/internal/wire", "weir/internal/ipfix", "weir/internal/transport/proxyproto", "weir/internal/atomicmap", "weir/internal/bounded", "weir/internal/saturating", "weir/internal/spelling", "weir/internal/tlsfile", "weir/internal/failure", "weir/pkg/flowpb"},
}

// beside reports whether a package is no part of the product: test suites, their helpers, tools and
// example consumers.
func beside(path string) bool {
	return strings.HasPrefix(path, "weir/test/") || strings.HasPrefix(path, "weir/tools/") || strings.HasPrefix(path, "weir/internal/weirtest/") || strings.HasPrefix(path, "weir/docs/examples/")
}

func layerOf(path string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, path) })
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range list(t, "./...") {
		if beside(p.ImportPath) || strings.HasSuffix(p.ImportPath, "/gen") || p.ImportPath == "weir" {
			continue
		}
		from := layerOf(p.ImportPath)
		if from < 0 {
			t.Errorf("%s has no place in the layers", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, "weir/") {
				continue
			}
			if to := layerOf(i); to < 0 {
				t.Errorf("%s imports %s, which is no part of the product", p.ImportPath, i)
			} else if to < from {
				t.Errorf("%s imports %s, which is further out", p.ImportPath, i)
			}
		}
	}
}

func TestOnlyKafkaAndTheBrokerKnowFranzGo(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.ImportPath == "weir/internal/kafka" || p.ImportPath == "weir/internal/kafka/broker" ||
			p.ImportPath == "weir/internal/kafka/batches" || beside(p.ImportPath) {
			continue
		}
		for _, i := range p.Imports {
			if strings.HasPrefix(i, "github.com/twmb/") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

// The database takes as long to build as all the rest.
func TestOnlyItsOwnProgramLinksTheDatabase(t *testing.T) {
	for _, p := range list(t, "./cmd/...") {
		linked := slices.Contains(p.Deps, "modernc.org/sqlite")
		if linked != (p.ImportPath == "weir/cmd/weir-sqlite") {
			t.Errorf("%s links the database: %v", p.ImportPath, linked)
		}
	}
}

func TestTheServicesDoNotLinkTheEmbeddedBroker(t *testing.T) {
	for _, p := range list(t, "./cmd/ingest", "./cmd/enrich") {
		for _, d := range p.Deps {
			if d == "weir/internal/kafka/broker" || strings.HasSuffix(d, "/kfake") {
				t.Errorf("%s links %s", p.ImportPath, d)
			}
		}
	}
}

// The pairing's design lists 25 scenarios; each is a test that has its number.
func TestEachScenarioOfThePairingIsATest(t *testing.T) {
	var all strings.Builder
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 25; n++ {
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^func TestScenario%d[A-Z]`, n)).MatchString(all.String()) {
			t.Errorf("scenario %d has no test", n)
		}
	}
}
