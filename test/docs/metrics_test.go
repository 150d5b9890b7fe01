package docs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"weir/internal/telemetry"
)

// families converts metrics to the form that promlint reads, with one series each.
func families(list []telemetry.Metric) (out []*dto.MetricFamily) {
	for _, m := range list {
		f := &dto.MetricFamily{Name: new(m.Name), Help: new(m.Help)}
		series := &dto.Metric{}
		for _, l := range m.Labels {
			series.Label = append(series.Label, &dto.LabelPair{Name: new(l), Value: new("x")})
		}
		switch m.Type {
		case "counter":
			f.Type, series.Counter = dto.MetricType_COUNTER.Enum(), &dto.Counter{Value: proto.Float64(1)}
		case "gauge":
			f.Type, series.Gauge = dto.MetricType_GAUGE.Enum(), &dto.Gauge{Value: proto.Float64(1)}
		case "histogram":
			f.Type, series.Histogram = dto.MetricType_HISTOGRAM.Enum(), &dto.Histogram{SampleCount: proto.Uint64(1)}
		}
		f.Metric = append(f.Metric, series)
		out = append(out, f)
	}
	return out
}

// problems returns the findings of promlint, and those of a rule that it lacks: a time since the
// epoch must be named _timestamp_seconds.
func problems(t *testing.T, list []telemetry.Metric) (out []string) {
	t.Helper()
	found, err := promlint.NewWithMetricFamilies(families(list)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		out = append(out, p.Metric+": "+p.Text)
	}
	for _, m := range list {
		if strings.Contains(m.Help, "epoch") != strings.HasSuffix(m.Name, "_timestamp_seconds") {
			out = append(out, m.Name+`: a time in seconds since the epoch, and no other metric, must end in "_timestamp_seconds"`)
		}
	}
	return out
}

func TestMetricsFollowTheConventions(t *testing.T) {
	in, out, client := metrics(t)
	for _, p := range problems(t, slices.Concat(in, out, client)) {
		t.Error(p)
	}
	bad := problems(t, []telemetry.Metric{
		{Name: "weir_a_total", Type: "gauge", Help: "a"},
		{Name: "weir_b", Type: "counter", Help: "b"},
		{Name: "weir_c_seconds", Type: "gauge", Help: "seconds since the epoch"},
		{Name: "weir_d", Type: "gauge"},
	})
	for _, name := range []string{"weir_a_total", "weir_b", "weir_c_seconds", "weir_d"} {
		if !slices.ContainsFunc(bad, func(p string) bool { return strings.HasPrefix(p, name+": ") }) {
			t.Errorf("nothing found in %s: %q", name, bad)
		}
	}
}

func TestRenamedMetricsInTheirDocument(t *testing.T) {
	is := known(t)
	var b strings.Builder
	b.WriteString("| old name | new name |\n|---|---|\n")
	for _, r := range telemetry.Renamed {
		if !is(r.New) || is(r.Old) {
			t.Errorf("%s → %s: want the new name registered, and not the old one", r.Old, r.New)
		}
		fmt.Fprintf(&b, "| `%s` | `%s` |\n", r.Old, r.New)
	}
	section(t, "docs/metrics.md", "renamed metrics", b.String())
}
