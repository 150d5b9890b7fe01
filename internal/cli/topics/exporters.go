package topics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/report"
	"weir/internal/kafka"
	"weir/internal/loss"
)

// An ExportersView prints a line for each exporter, version and observation domain, from the topics
// PREFIXexporters and PREFIXtemplates.
type ExportersView struct {
	// Silent selects streams from which nothing was received for that long, Since those received that recently;
	// 0: all.
	Silent, Since  time.Duration
	JSON           bool
	Stdout, Stderr io.Writer
}

// An ExporterLine is a line of weir exporters --json. Times are RFC 3339 in UTC.
type ExporterLine struct {
	Exporter       string   `json:"exporter"` // "other": the sum of the exporters beyond the limit
	Name           string   `json:"name,omitempty"`
	Site           string   `json:"site,omitempty"`
	Version        uint16   `json:"version"`
	Domain         uint32   `json:"domain"`
	First          string   `json:"first_seen"`
	Last           string   `json:"last_seen"`
	Datagrams      uint64   `json:"datagrams"`
	Flows          uint64   `json:"flows"`
	Octets         uint64   `json:"octets"`
	Errors         uint64   `json:"errors"`
	Undecoded      uint64   `json:"undecoded_sets"`
	FlowsPerSecond float64  `json:"flows_per_second"`
	Lost           *uint64  `json:"lost"`                   // null: unknown, the sequence numbers are not usable
	LostUnknown    string   `json:"lost_unknown,omitempty"` // reason of an unknown loss
	Of             uint64   `json:"of,omitempty"`
	Unit           string   `json:"lost_unit,omitempty"`
	Restarts       int      `json:"restarts"`
	Templates      int      `json:"templates"`
	TemplateAge    *float64 `json:"template_age_seconds,omitempty"`
	SamplingRate   uint64   `json:"sampling_rate"` // 0: unknown
	SamplingSource string   `json:"sampling_source,omitempty"`
	Replicas       []string `json:"replicas"`

	last, template time.Time
}

// knownTemplates counts the template definitions of a stream.
type knownTemplates struct {
	n    int
	last time.Time
}

// Run reads both topics and prints the lines as of now.
func (o *ExportersView) Run(ctx context.Context, settings Settings, now time.Time) error {
	lines, err := o.lines(ctx, settings, now)
	if err != nil {
		return err
	}
	return o.print(lines, now)
}

// viewOctets bounds the memory for the content of the topic. Beyond it the streams that were reported longest ago
// are left out.
const viewOctets = 256 << 20

// lines reads both topics and returns the lines as of now.
func (o *ExportersView) lines(ctx context.Context, settings Settings, now time.Time) ([]ExporterLine, error) {
	cluster, bad := loss.NewCluster(), 0
	cluster.MaxOctets = viewOctets
	tail := kafka.Tail{Once: true, Start: o.Since == 0}
	if o.Since > 0 {
		tail.Since = now.Add(-o.Since)
	}
	name := settings.Topics.Name(kafka.Exporters)
	err := tail.Read(ctx, settings.Kafka, name, func(records []kafka.Record) error {
		for _, r := range records {
			if cluster.Take(r.Key, r.Value) != nil {
				bad++
			}
		}
		return nil
	}, func(err error) { console.Linef(o.Stderr, "weir exporters: %v", err) })
	if err != nil {
		return nil, err
	}
	if bad > 0 {
		console.Linef(o.Stderr, "weir exporters: %d records of %s cannot be read", bad, name)
	}
	entries, err := NewTemplates(settings).entries(ctx, &Selection{}, o.Stderr)
	if err != nil {
		return nil, err
	}
	known := map[loss.Stream]knownTemplates{}
	for _, e := range entries {
		if e.Template == nil {
			continue
		}
		s := loss.Stream{Exporter: e.Exporter, Version: uint16(e.State.GetVersion()), Domain: e.State.GetDomain()}
		k := known[s]
		k.n++
		if at := time.Unix(0, e.State.GetReceivedNs()); at.After(k.last) {
			k.last = at
		}
		known[s] = k
	}
	var lines []ExporterLine
	for _, r := range cluster.View() {
		if r.Last.IsZero() || now.Sub(r.Last) < o.Silent { // slots without a summary, from before the start of the reading
			continue
		}
		lines = append(lines, exporterLineOf(&r, known[r.Stream], now))
	}
	return lines, nil
}

func exporterLineOf(r *loss.Row, known knownTemplates, now time.Time) ExporterLine {
	l := ExporterLine{
		Exporter: "other", Name: r.Name, Site: r.Site, Version: r.Version, Domain: r.Domain,
		First: instant(r.First.UnixNano()), Last: instant(r.Last.UnixNano()),
		Datagrams: r.Received[loss.Datagrams], Flows: r.Received[loss.Flows],
		Octets: r.Octets, Errors: r.Errors, Undecoded: r.Undecoded,
		Restarts: r.Loss.Restarts, Templates: known.n, SamplingRate: r.SamplingRate, Replicas: r.Replicas,
		last: r.Last, template: known.last,
	}
	if r.Exporter.IsValid() {
		l.Exporter = r.Exporter.String()
	}
	if now.Sub(r.Last) < time.Minute {
		l.FlowsPerSecond = r.FlowsPerSecond
	}
	if r.SamplingRate != 0 {
		l.SamplingSource = strings.ToLower(report.ShortEnum(r.SamplingSource.String(), "SAMPLING_SOURCE_"))
	}
	if r.Loss.Usable {
		l.Lost, l.Of, l.Unit = &r.Loss.Lost, r.Loss.Lost+r.Loss.Received, r.Loss.Unit.String()
	} else {
		l.LostUnknown = string(r.Loss.Unknown)
	}
	if known.n > 0 {
		age := now.Sub(known.last).Seconds()
		l.TemplateAge = &age
	}
	return l
}

func (o *ExportersView) print(lines []ExporterLine, now time.Time) error {
	if o.JSON {
		for i := range lines {
			b, err := json.Marshal(&lines[i])
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(o.Stdout, "%s\n", console.EscapeJSON(b)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(lines) > 0 {
		w := tabwriter.NewWriter(o.Stdout, 0, 0, 2, ' ', 0)
		console.Linef(w, "exporter\tname\tversion\tdomain\tfirst seen\tlast seen\t"+
			"datagrams\tflows\tflows/s\tlost\ttemplates\tsampling\treplicas")
		for i := range lines {
			l := &lines[i]
			console.Linef(w, "%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%.1f\t%s\t%s\t%s\t%s",
				l.Exporter, console.QuoteOrDash(l.Name), l.Version, l.Domain, l.First, formatAge(now, l.last),
				l.Datagrams, l.Flows, l.FlowsPerSecond, l.lostCell(), l.templatesCell(now), l.samplingCell(),
				replicasCell(l.Replicas))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	switch {
	case o.Silent > 0 && len(lines) == 0:
		console.Linef(o.Stderr, "no exporter is silent for %v", o.Silent)
	case o.Silent > 0:
		console.Linef(o.Stderr, "%d export streams are silent for %v or longer", len(lines), o.Silent)
	case o.Since > 0:
		console.Linef(o.Stderr, "%d export streams in the last %v", len(lines), o.Since)
	default:
		console.Linef(o.Stderr, "%d export streams", len(lines))
	}
	return nil
}

func (l *ExporterLine) lostCell() string {
	switch {
	case l.Lost == nil:
		return "unknown (" + l.LostUnknown + ")"
	case *l.Lost == 0:
		return "0"
	}
	return fmt.Sprintf("%d %s (%.2f %%)", *l.Lost, l.Unit, 100*float64(*l.Lost)/float64(l.Of))
}

func (l *ExporterLine) templatesCell(now time.Time) string {
	if l.Templates == 0 {
		return "-"
	}
	return fmt.Sprintf("%d, %s", l.Templates, formatAge(now, l.template))
}

func (l *ExporterLine) samplingCell() string {
	if l.SamplingRate == 0 {
		return "unknown"
	}
	return fmt.Sprintf("1:%d (%s)", l.SamplingRate, l.SamplingSource)
}

// replicasCell formats the names that replicas report for themselves.
func replicasCell(names []string) string {
	cells := make([]string, len(names))
	for i, n := range names {
		cells[i] = console.Quote(n)
	}
	return strings.Join(cells, " ")
}

// formatAge formats the time from at to now.
func formatAge(now, at time.Time) string {
	return now.Sub(at).Round(time.Second).String() + " ago"
}
