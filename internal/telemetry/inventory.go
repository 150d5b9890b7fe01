package telemetry

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A Metric describes a metric before it has a value.
type Metric struct {
	Name, Help string
	Type       string // counter, gauge or histogram
	Labels     []string
}

// An Inventory is a Registerer that records the registered metrics and serves none. The
// zero Inventory is ready to use. It must be used by one goroutine at a time.
type Inventory struct{ all map[string]Metric }

// Metrics returns the registered metrics in order of name.
func (i *Inventory) Metrics() (list []Metric) {
	for _, m := range i.all {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// description matches the text of a Desc, which has no other access to its fields.
var description = regexp.MustCompile(`^Desc\{fqName: (` + quoted + `), help: (` + quoted +
	`), (?:unit: "[^"]*", )?constLabels: \{(.*?)\}, variableLabels: \{(.*)\}\}$`)

// quoted matches a quoted Go string.
const quoted = `"(?:[^"\\]|\\.)*"`

// Register implements prometheus.Registerer.
func (i *Inventory) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); c.Describe(descs) }()
	var err error
	types := collected(c)
	for d := range descs {
		if e := i.add(c, d.String(), types[d.String()]); e != nil {
			err = e
		}
	}
	return err
}

// collected returns the types of the metrics that a collector has now, by the text of their Desc.
func collected(c prometheus.Collector) map[string]string {
	metrics := make(chan prometheus.Metric)
	go func() { defer close(metrics); c.Collect(metrics) }()
	types := map[string]string{}
	for m := range metrics {
		if typ := typeOfMetric(m); typ != "" {
			types[m.Desc().String()] = typ
		}
	}
	return types
}

func typeOfMetric(metric prometheus.Metric) string {
	var m dto.Metric
	switch err := metric.Write(&m); {
	case err != nil:
	case m.Counter != nil:
		return "counter"
	case m.Gauge != nil:
		return "gauge"
	case m.Histogram != nil:
		return "histogram"
	}
	return ""
}

func (i *Inventory) add(c prometheus.Collector, desc, typ string) error {
	parts := description.FindStringSubmatch(desc)
	if parts == nil {
		return fmt.Errorf("%s: want the form %s", desc, description)
	}
	m := Metric{}
	for p, to := range map[int]*string{1: &m.Name, 2: &m.Help} {
		s, err := strconv.Unquote(parts[p])
		if err != nil {
			return fmt.Errorf("%s: %w", desc, err)
		}
		*to = s
	}
	for _, label := range slices.Concat(strings.Split(parts[3], ","), strings.Split(parts[4], ",")) {
		if name, _, _ := strings.Cut(label, "="); name != "" {
			m.Labels = append(m.Labels, name)
		}
	}
	m.Type = cmp.Or(typ, typeOf(c, m.Name))
	if i.all == nil {
		i.all = map[string]Metric{}
	}
	i.all[m.Name] = m
	return nil
}

// typeOf returns the type of a metric that has no value yet. The Go type of the collector determines it, else the
// suffix of the name.
func typeOf(c prometheus.Collector, name string) string {
	switch c.(type) {
	case *prometheus.CounterVec:
		return "counter"
	case *prometheus.GaugeVec:
		return "gauge"
	case *prometheus.HistogramVec:
		return "histogram"
	}
	if strings.HasSuffix(name, "_total") {
		return "counter"
	}
	return "gauge"
}

// MustRegister implements prometheus.Registerer.
func (i *Inventory) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := i.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer. The Inventory keeps its metrics.
func (i *Inventory) Unregister(prometheus.Collector) bool { return true }
