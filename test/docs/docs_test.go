// Package docs compares the documents, dashboards and alerts with the code. go test ./test/docs
// -update writes the generated parts.
package docs

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"weir/internal/doctor"
	"weir/internal/enrich"
	"weir/internal/ingest"
	"weir/internal/kafka"
	"weir/internal/settings"
	"weir/internal/telemetry"
)

var update = flag.Bool("update", false, "write what is generated anew")

const root = "../.."

// section compares the part of a document between the markers of its name with want.
func section(t *testing.T, file, name, want string) {
	t.Helper()
	path := filepath.Join(root, file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+name+": written by make gen -->\n", "<!-- "+name+": end -->"
	before, rest, ok := strings.Cut(string(b), begin)
	got, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s: no section %q", file, name)
	}
	switch {
	case got == want:
	case *update:
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s, section %q: differs from the code; run make gen", file, name)
	}
}

// whole compares a file that is generated as a whole with want.
func whole(t *testing.T, file, want string) {
	t.Helper()
	path := filepath.Join(root, file)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: differs from the code (%v); run make gen", file, err)
	}
}

// cell escapes text for a cell of a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func TestVariablesInConfiguration(t *testing.T) {
	in, out := settings.Variables[ingest.Config](), settings.Variables[enrich.Config]()
	table := func(list []settings.Variable, also func(settings.Variable) bool) string {
		var b strings.Builder
		b.WriteString("| variable | default | |\n|---|---|---|\n")
		for _, v := range list {
			if !also(v) {
				continue
			}
			def := "`" + cell(v.Default) + "`"
			switch {
			case v.Required:
				def = "**required**"
			case v.Default == "":
				def = ""
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s (%s) |\n", v.Name, def, cell(v.Help), cell(v.Unit))
		}
		return b.String()
	}
	section(t, "docs/configuration.md", "variables of both", table(in, func(v settings.Variable) bool { return slices.Contains(out, v) }))
	section(t, "docs/configuration.md", "variables of ingest", table(in, func(v settings.Variable) bool { return !slices.Contains(out, v) }))
	section(t, "docs/configuration.md", "variables of enrich", table(out, func(v settings.Variable) bool { return !slices.Contains(in, v) }))
}

func TestTheFindingsInTheDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("| finding | severity | in ingest | what to do |\n|---|---|---|---|\n")
	for _, r := range doctor.Rules() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Rule, r.Severity, map[bool]string{true: "no", false: "yes"}[r.Whole], cell(r.Advice))
	}
	section(t, "docs/doctor.md", "findings", b.String())
}

// metrics returns the metrics of ingest and enrich without those of their Kafka clients, and those
// of the clients.
func metrics(t *testing.T) (in, out, client []telemetry.Metric) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	var a, b, c telemetry.Inventory
	env := map[string]string{"KAFKA_BROKERS": "127.0.0.1:9092"}
	ic, err := settings.Parse[ingest.Config](env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ingest.New(ic, ingest.Deps{Log: log, Now: time.Now, Metrics: &a}); err != nil {
		t.Fatal(err)
	}
	ec, err := settings.Parse[enrich.Config](env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enrich.New(ec, enrich.Deps{Log: log, Now: time.Now, Metrics: &b}); err != nil {
		t.Fatal(err)
	}
	if err := kafka.DescribeMetrics(&c); err != nil {
		t.Fatal(err)
	}
	client = c.Metrics()
	own := func(list []telemetry.Metric) []telemetry.Metric {
		return slices.DeleteFunc(list, func(m telemetry.Metric) bool {
			return slices.ContainsFunc(client, func(c telemetry.Metric) bool { return c.Name == m.Name })
		})
	}
	return own(a.Metrics()), own(b.Metrics()), client
}

func TestTheMetricsInTheirDocument(t *testing.T) {
	in, out, client := metrics(t)
	for name, list := range map[string][]telemetry.Metric{"metrics of ingest": in, "metrics of enrich": out, "metrics of Kafka's clients": client} {
		if len(list) < 10 {
			t.Fatalf("%s: %d are not all", name, len(list))
		}
		var b strings.Builder
		b.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
		for _, m := range list {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, strings.Join(m.Labels, ", "), cell(m.Help))
		}
		section(t, "docs/metrics.md", name, b.String())
	}
}

var ofWeir = regexp.MustCompile(`\bweir_[a-z0-9_]+`)

// known returns a function that reports whether a name in an expression is a metric or a part of a
// histogram.
func known(t *testing.T) func(name string) bool {
	t.Helper()
	types := map[string]string{}
	in, out, client := metrics(t)
	for _, m := range slices.Concat(in, out, client) {
		types[m.Name] = m.Type
	}
	return func(name string) bool {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if whole, is := strings.CutSuffix(name, part); is && types[whole] == "histogram" {
				return true
			}
		}
		return types[name] != ""
	}
}

// The metrics in dashboards, alerts and documents must exist, and label values must not be misspelt
// metrics.
func TestWhatDashboardsAlertsAndDocumentsAskForExists(t *testing.T) {
	is := known(t)
	var files []string
	for _, pattern := range []string{"deploy/grafana/dashboards/*.json", "deploy/prometheus/*.yml", "docs/*.md", "*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	named := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range ofWeir.FindAllString(string(b), -1) {
			if strings.HasSuffix(name, "_") { // weir_kafka_*
				continue
			}
			named++
			renamed := slices.ContainsFunc(telemetry.Renamed, func(r telemetry.Renaming) bool { return r.Old == name })
			if renamed && (filepath.Base(f) == "metrics.md" || filepath.Base(f) == "CHANGELOG.md") {
				continue
			}
			if !is(name) {
				t.Errorf("%s: no metric %s", f, name)
			}
		}
	}
	if named < 100 {
		t.Errorf("found only %d names", named)
	}
}

func TestEveryAlertIsExplained(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert string }
		}
	}
	if err := yaml.Unmarshal(b, &rules); err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile(filepath.Join(root, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if !strings.Contains(string(guide), "`"+r.Alert+"`") {
				t.Errorf("docs/operations.md says nothing of %s", r.Alert)
			}
		}
	}
	if n < 10 {
		t.Errorf("found only %d alerts", n)
	}
}

func TestDashboardsArePanelsWithQueries(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "deploy/grafana/dashboards/*.json"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			UID, Title string
			Panels     []struct {
				ID      int
				Type    string
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(b, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		ids := map[int]bool{}
		for _, p := range d.Panels {
			if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: panel %d %q has no query, no title or another's number", f, p.ID, p.Title)
			}
			ids[p.ID] = true
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#: ]+)(#[^)]*)?\)`)

func TestLinksOfDocumentsLeadSomewhere(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return err
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: broken link: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
