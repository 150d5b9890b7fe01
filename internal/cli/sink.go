package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/sink"
	"weir/internal/cli/topics"
	"weir/internal/failure"
	"weir/internal/kafka"
)

const sinkAbout = `Keeps the rows of a topic in a database: weir sink sqlite FILE. It is a program of
its own, weir-sqlite, since the database is more code than all of weir:
  go build -o bin/ ./cmd/weir ./cmd/weir-sqlite
puts both in one place. weir runs it from beside itself or from PATH, and exits with 2
when it is in neither.`

// sqliteProgram is the program behind weir sink sqlite.
const sqliteProgram = "weir-sqlite"

// runSink is the verb sink.
func runSink(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("sink", "sqlite FILE [flag]...", sinkAbout)
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		f.PrintHelp(stdout)
		return console.ExitDone
	}
	if args[0] != "sqlite" {
		return f.UsageError(stderr, fmt.Sprintf("no sink %q, want sqlite", args[0]))
	}
	program, err := findBeside(sqliteProgram)
	if err != nil {
		console.Linef(stderr, "weir sink: %v", err)
		return console.ExitUsage
	}
	err = syscall.Exec(program, append([]string{program}, args[1:]...), os.Environ())
	console.Linef(stderr, "weir sink: %s: %v", program, err)
	return console.ExitFailed
}

// findBeside returns the path of a program of ours: beside this one, or in PATH. What
// lies in the current directory is never run, whatever PATH says.
func findBeside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), name); isProgram(beside) {
			return beside, nil
		}
	}
	if found, err := exec.LookPath(name); err == nil { // exec.ErrDot for the current directory
		return found, nil
	}
	return "", fmt.Errorf("%s is neither beside this program nor in PATH: build both in Weir's source with\n  go build -o bin/ ./cmd/weir ./cmd/%s\nand run bin/weir", name, name)
}

func isProgram(path string) bool {
	s, err := os.Stat(path)
	return err == nil && s.Mode().IsRegular() && s.Mode()&0o111 != 0
}

const sqliteAbout = `Reads the topic PREFIXconnections or PREFIXflows (only what is committed) and keeps
its messages as rows of FILE, an SQLite database. The offsets up to which it read are
written with the rows: each is there exactly once, also after kill -9. A connection
that is reported again replaces what was known of it. FILE may hold both topics, from
a process each. Kafka is reached as by the services: KAFKA_BROKERS, KAFKA_TLS…,
TOPIC_PREFIX.

Old rows are deleted by age (--keep) or size (--max-size); the space is given back.
The tables and queries to try: docs/sqlite.md.

exit code: 0 ended as told; 1 Kafka or the file failed; 2 wrong usage`

// SQLite is the program weir-sqlite; open opens its file.
func SQLite(args []string, stdout, stderr io.Writer, open func(context.Context, sink.Options) (sink.Sink, error)) int {
	f := console.NewFlags("sink sqlite", "FILE [flag]...", sqliteAbout)
	o := sink.Options{Rows: string(kafka.Connections)}
	once := f.Bool("once", false, "end when what is on the topic now is in the file")
	f.Func("topic", "keep `connections` (default) or flows", func(s string) error {
		if s != string(kafka.Connections) && s != string(kafka.Flows) {
			return fmt.Errorf("%q: want connections or flows", s)
		}
		o.Rows = s
		return nil
	})
	f.DurationVar(&o.Keep, "keep", 0, "delete rows published longer ago than `DURATION` (720h); default: none")
	f.Func("max-size", "delete the oldest rows once the file has more than `SIZE` octets (10GB); default: none", func(s string) (err error) {
		if o.MaxSize, err = console.ParseOctets(s); err == nil && o.MaxSize < 1<<20 {
			err = fmt.Errorf("%q: want at least 1MiB", s)
		}
		return err
	})
	files, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(files) != 1:
		return f.UsageError(stderr, fmt.Sprintf("want one FILE, got %d", len(files)))
	case o.Keep < 0:
		return f.UsageError(stderr, fmt.Sprintf("--keep %v: want more than 0", o.Keep))
	}
	settings, err := topics.FromEnvironment()
	if err != nil {
		console.Linef(stderr, "weir sink sqlite: settings:\n%v", err)
		return console.ExitUsage
	}
	o.Path, o.Topic = files[0], settings.Topics.Name(kafka.Topic(o.Rows))
	return console.RunUntilSignal("sink sqlite", stderr, func(ctx context.Context) error {
		s, err := open(ctx, o)
		if err != nil {
			return err
		}
		r := &sinking{sink: s, o: o, once: *once, show: console.NewProgress(stderr), stderr: stderr}
		return errors.Join(r.run(ctx, settings), s.Close())
	})
}

// A sinking shows how a sink is fed.
type sinking struct {
	sink     sink.Sink
	o        sink.Options
	once     bool
	show     *console.Progress
	stderr   io.Writer
	failures failure.Repeats
}

// run reads the topic into the sink until ctx ends.
func (s *sinking) run(ctx context.Context, settings topics.Settings) error {
	found := false
	feed := sink.Feed{
		Sink: s.sink, Options: s.o, Kafka: settings.Kafka, Once: s.once,
		Began: func() {
			found = true
			if !s.once {
				console.Linef(s.stderr, "%s at %s goes into %s; end with Ctrl-C", s.o.Topic, strings.Join(settings.Kafka.Brokers, ","), s.o.Path)
			}
		},
		Notice: s.notice, Failed: s.complain,
		Progress: func(k sink.Kept) { s.show.Count("%d rows written, %d deleted", k.Rows, k.Deleted) },
	}
	kept, err := feed.Run(ctx)
	if !found {
		return err
	}
	s.show.Clear()
	console.Linef(s.stderr, "%d rows written, %d messages that are no %s, %d old rows deleted", kept.Rows, kept.Bad, s.o.Rows, kept.Deleted)
	return err
}

// notice prints something that is no failure of this moment.
func (s *sinking) notice(what error) {
	s.show.Clear()
	console.Linef(s.stderr, "weir sink sqlite: %v", what)
}

// complain prints a failure, unless it is the last one again.
func (s *sinking) complain(err error) {
	if s.failures.IsNew(err, time.Time{}) {
		s.notice(err)
	}
}
