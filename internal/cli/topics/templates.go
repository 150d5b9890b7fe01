package topics

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"weir/internal/cli/console"
	"weir/internal/kafka"
	"weir/internal/templates"
	"weir/internal/templates/text"
	"weir/pkg/flowpb"
)

// A Selection selects the entries for List, Show and Remove, and the form of their output.
type Selection struct {
	Exporter netip.Addr // invalid: any
	Domain   *uint64    // observation domain; nil: any
	Template *uint64    // template id; nil: any
	All      bool       // include entries that were removed and not received since
	Facts    bool       // List prints facts of options data as well
	JSON     bool       // List prints JSON Lines
	DryRun   bool       // Add and Remove publish nothing
}

// matches reports whether o selects e.
func (o *Selection) matches(e *templates.Entry) bool {
	return (!o.Exporter.IsValid() || e.Exporter == o.Exporter) &&
		(o.Domain == nil || uint64(e.State.GetDomain()) == *o.Domain) &&
		(o.Template == nil || e.Template != nil && uint64(e.Template.ID) == *o.Template) &&
		(o.All || e.InForce())
}

// ParseExporter parses the address of an exporter; IPv4 may be written as IPv6.
func ParseExporter(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q: want an address", s)
	}
	return a.Unmap().WithZone(""), nil
}

// Templates reads and changes the topic PREFIXtemplates.
type Templates struct {
	c        kafka.Config
	topic    string
	operator string
}

// NewTemplates returns the templates topic of c. Changes are published under the name of the user of this process.
func NewTemplates(c Settings) *Templates {
	name := "operator"
	if u, err := user.Current(); err == nil {
		name += " " + u.Username
	}
	return &Templates{c.Kafka, c.Topics.Name(kafka.Templates), name}
}

// entries returns the selected entries of the topic, in order of exporter, version, domain and template. It
// reports the number of unreadable records on stderr.
func (t *Templates) entries(ctx context.Context, o *Selection, stderr io.Writer) ([]*templates.Entry, error) {
	var onTopic templates.Entries
	bad := 0
	err := kafka.ReadWhole(ctx, t.c, t.topic, func(r kafka.Record) {
		if onTopic.Take(r.Key, r.Value) != nil {
			bad++
		}
	})
	if bad > 0 {
		console.Linef(stderr, "weir templates: %d records of %s cannot be read", bad, t.topic)
	}
	var all []*templates.Entry
	for _, e := range onTopic.All() {
		if o.matches(e) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *templates.Entry) int {
		id := func(e *templates.Entry) int {
			if e.Template == nil {
				return 1 << 16
			}
			return int(e.Template.ID)
		}
		return cmp.Or(a.Exporter.Compare(b.Exporter), cmp.Compare(a.State.GetVersion(), b.State.GetVersion()),
			cmp.Compare(a.State.GetDomain(), b.State.GetDomain()), cmp.Compare(id(a), id(b)),
			cmp.Compare(a.State.GetFact().GetWhat(), b.State.GetFact().GetWhat()),
			cmp.Compare(a.State.GetFact().GetId(), b.State.GetFact().GetId()),
			cmp.Compare(b.State.GetReceivedNs(), a.State.GetReceivedNs()))
	})
	return all, err
}

// A listed entry is a line of List.
type listed struct {
	Exporter  string   `json:"exporter"`
	Version   uint32   `json:"version"`
	Domain    uint32   `json:"domain"`
	Template  uint16   `json:"template,omitempty"`
	Options   bool     `json:"options,omitempty"`
	Fields    int      `json:"fields,omitempty"`
	Ports     []uint32 `json:"ports,omitempty"`
	Fact      string   `json:"fact,omitempty"`
	First     string   `json:"first_received"`
	Received  string   `json:"received"`
	Confirmed bool     `json:"confirmed,omitempty"`
	Removed   string   `json:"removed,omitempty"`
	Replica   string   `json:"replica"`
}

func listedOf(e *templates.Entry) listed {
	s := e.State
	l := listed{
		Exporter: e.Exporter.String(), Version: s.GetVersion(), Domain: s.GetDomain(),
		Confirmed: s.GetConfirmed(), Replica: s.GetReplica(),
		First: instant(s.GetFirstReceivedNs()), Received: instant(s.GetReceivedNs()),
		Removed: instant(s.GetRemovedNs()),
	}
	if e.Template == nil {
		l.Fact = factText(s.GetFact())
		return l
	}
	l.Template, l.Options, l.Fields = e.Template.ID, e.Template.Options, len(e.Template.Fields)
	for _, src := range s.GetDefinition().GetSources() {
		l.Ports = append(l.Ports, src.GetPort())
	}
	return l
}

func instant(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339)
}

func factText(f *flowpb.Fact) string {
	what := strings.ToLower(strings.TrimPrefix(f.GetWhat().String(), "WHAT_"))
	if f.GetWhat() == flowpb.Fact_WHAT_ELEMENT_DEFINITION {
		pen, id := f.GetId()>>16, f.GetId()&0xffff
		return fmt.Sprintf("%s %d/%d: %q, type %d", what, pen, id, f.GetText(), f.GetNumber())
	}
	if f.GetText() != "" {
		return fmt.Sprintf("%s %d: %q", what, f.GetId(), f.GetText())
	}
	return fmt.Sprintf("%s %d: %d", what, f.GetId(), f.GetNumber())
}

// List prints a line for each entry.
func (t *Templates) List(ctx context.Context, o *Selection, stdout, stderr io.Writer) error {
	all, err := t.entries(ctx, o, stderr)
	if err != nil {
		return err
	}
	definitions, facts := 0, 0
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	if !o.JSON {
		// Errors are returned by Flush.
		_, _ = fmt.Fprintln(w, "EXPORTER\tVERSION\tDOMAIN\tTEMPLATE\tFIELDS\tPORTS\tRECEIVED\tCONFIRMED\tREPLICA")
	}
	for _, e := range all {
		if e.Template == nil {
			facts++
			if !o.Facts {
				continue
			}
		} else {
			definitions++
		}
		l := listedOf(e)
		if o.JSON {
			b, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(stdout, "%s\n", console.EscapeJSON(b)); err != nil {
				return err
			}
			continue
		}
		what, fields, confirmed := l.Fact, "", ""
		if e.Template != nil {
			what, fields = strconv.Itoa(int(l.Template)), strconv.Itoa(l.Fields)
			if l.Options {
				what += " of options"
			}
		}
		if l.Confirmed {
			confirmed = "yes"
		}
		if !e.InForce() {
			confirmed = "removed"
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Exporter, l.Version, l.Domain, what, fields,
			strings.Trim(strings.ReplaceAll(fmt.Sprint(l.Ports), " ", ","), "[]"), l.Received, confirmed,
			console.QuoteOrDash(l.Replica))
	}
	if o.JSON {
		return nil
	}
	console.Linef(stderr, "%d definitions, %d facts", definitions, facts)
	return w.Flush()
}

// Show prints template definitions in the text form that Add reads. It returns an error when no template is
// selected.
func (t *Templates) Show(ctx context.Context, o *Selection, stdout, stderr io.Writer) error {
	all, err := t.entries(ctx, o, stderr)
	if err != nil {
		return err
	}
	found := 0
	for _, e := range all {
		if e.Template == nil {
			continue
		}
		l := listedOf(e)
		found++
		text := text.Append(nil, &text.Entry{
			Exporter: e.Exporter, Version: uint8(l.Version), Domain: l.Domain, Template: *e.Template,
		})
		if _, err := fmt.Fprintf(stdout, "# received %s, first %s, from ports %v, by %s\n%s\n",
			l.Received, l.First, l.Ports, console.Quote(l.Replica), text); err != nil {
			return err
		}
	}
	if found == 0 {
		return errors.New("no such template on the topic; weir templates list prints those on it")
	}
	return nil
}

// Add publishes the templates of a file in text form, "-" for stdin. Their time of receipt is the current time.
func (t *Templates) Add(ctx context.Context, o *Selection, path string, stdin io.Reader, stdout io.Writer) error {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	all, err := text.Parse(in)
	if err != nil {
		return fmt.Errorf("%s:\n%w", console.InputName(path), err)
	}
	var records []templates.Record
	for i := range all {
		e := &all[i]
		if err := e.Owned(); err != nil {
			return fmt.Errorf("%s: %w", console.InputName(path), err)
		}
		both, err := templates.Added(t.operator, time.Now(), e.Exporter, e.Version, e.Domain, &e.Template)
		if err != nil {
			return fmt.Errorf("%s: template %d of %s: %w", console.InputName(path), e.Template.ID, e.Exporter, err)
		}
		records = append(records, both...)
	}
	if len(records) == 0 {
		return fmt.Errorf("%s: contains no template", console.InputName(path))
	}
	return t.write(ctx, o, len(all), records, "published", stdout)
}

// Remove publishes the removal of the selected entries, which is in force until the entry is received again. It
// returns an error when no entry is selected.
func (t *Templates) Remove(ctx context.Context, o *Selection, stdout io.Writer) error {
	all, err := t.entries(ctx, o, io.Discard)
	if err != nil {
		return err
	}
	var records []templates.Record
	for _, e := range all {
		both, err := templates.Removed(t.operator, time.Now(), e)
		if err != nil {
			return err
		}
		records = append(records, both...)
	}
	if len(records) == 0 {
		return errors.New("the topic has no record of this exporter, domain and template; " +
			"weir templates list prints those on it")
	}
	return t.write(ctx, o, len(all), records, "removed", stdout)
}

// write publishes records, which belong to the given number of entries.
func (t *Templates) write(
	ctx context.Context, o *Selection, entries int, all []templates.Record, done string, stdout io.Writer,
) error {
	if o.DryRun {
		console.Linef(stdout, "%d entries of %s would be %s", entries, t.topic, done)
		return nil
	}
	records := make([]kafka.Record, 0, len(all))
	for _, r := range all {
		records = append(records, kafka.Record{Key: r.Key, Value: r.Value})
	}
	if err := kafka.Write(ctx, t.c, t.topic, records); err != nil {
		return err
	}
	console.Linef(stdout, "%d entries of %s are %s", entries, t.topic, done)
	return nil
}
