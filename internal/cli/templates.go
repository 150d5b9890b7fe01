package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"weir/internal/cli/console"
	"weir/internal/cli/topics"
)

const templatesAbout = `Shows and changes the template definitions and facts of options data that the
replicas share on the topic PREFIXtemplates.

  list             one line each
  show             as weir decode prints templates, with remarks: a file of templates
  add FILE         publish the templates of FILE ("-": standard input) as received
                   now; each line "template …" must end in "of ADDRESS"
  remove ADDRESS   remove the entries of an exporter until they are received again

Kafka is reached as by ingest: KAFKA_BROKERS, KAFKA_TLS…, TOPIC_PREFIX.

exit code: 0 done; 1 Kafka is not available, or no entry matches; 2 wrong usage`

// runTemplates implements the verb templates.
func runTemplates(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("templates", "list|show|add FILE|remove ADDRESS [flag]...", templatesAbout)
	o := &topics.Selection{}
	f.Func("exporter", "only entries of the exporter at `ADDRESS` (list, show)", func(s string) (err error) {
		o.Exporter, err = topics.ParseExporter(s)
		return err
	})
	number := func(name, usage string, to **uint64) {
		f.Func(name, usage, func(s string) error {
			n, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				return fmt.Errorf("%q: want a number", s)
			}
			*to = &n
			return nil
		})
	}
	number("domain", "only entries of the observation domain `N`", &o.Domain)
	number("template", "only the template `ID`", &o.Template)
	f.BoolVar(&o.All, "all", false, "include removed entries that have not been received since")
	f.BoolVar(&o.Facts, "facts", false, "include facts of options data (list)")
	f.BoolVar(&o.JSON, "json", false, "print JSON Lines (list)")
	f.BoolVar(&o.DryRun, "dry-run", false,
		"print the number of entries to publish or remove, and do nothing (add, remove)")
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	if len(rest) == 0 {
		return f.UsageError(stderr, "no command: want list, show, add or remove")
	}
	word, rest := rest[0], rest[1:]
	want := map[string]int{"list": 0, "show": 0, "add": 1, "remove": 1}
	n, known := want[word]
	switch {
	case !known:
		return f.UsageError(stderr, fmt.Sprintf("unknown command %q: want list, show, add or remove", word))
	case len(rest) != n:
		return f.UsageError(stderr, fmt.Sprintf("%s: want %d arguments, got %d", word, n, len(rest)))
	}
	if word == "remove" {
		var err error
		if o.Exporter, err = topics.ParseExporter(rest[0]); err != nil {
			return f.UsageError(stderr, err.Error())
		}
	}
	settings, err := topics.FromEnvironment()
	if err != nil {
		console.Linef(stderr, "weir templates: settings:\n%v", err)
		return console.ExitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	topic := topics.NewTemplates(settings)
	switch word {
	case "list":
		err = topic.List(ctx, o, stdout, stderr)
	case "show":
		err = topic.Show(ctx, o, stdout, stderr)
	case "add":
		err = topic.Add(ctx, o, rest[0], stdin, stdout)
	case "remove":
		err = topic.Remove(ctx, o, stdout)
	}
	if err != nil {
		console.Linef(stderr, "weir templates %s: %v", word, err)
		return console.ExitFailed
	}
	return console.ExitDone
}
