package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/sink"
	"weir/internal/cli/topics"
	"weir/internal/failure"
	"weir/internal/kafka"
)

const sinkAbout = `Stores the messages of a topic in a database: weir sink sqlite FILE. It executes a
separate program, weir-sqlite, since the database engine is larger than weir:
  go build -o bin/ ./cmd/weir ./cmd/weir-sqlite
builds both into one directory. weir looks for it in its own directory, then in PATH,
and exits with 2 when it is in neither.`

// sqliteProgram is the program that weir sink sqlite executes.
const sqliteProgram = "weir-sqlite"

// runSink implements the verb sink.
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
	code := console.ExitFailed
	if runtime.GOOS == "windows" { // which cannot replace the program of a process
		code, err = runChild(program, args[1:])
	} else {
		err = syscall.Exec(program, append([]string{program}, args[1:]...), os.Environ())
	}
	if err != nil {
		console.Linef(stderr, "weir sink: %s: %v", program, err)
	}
	return code
}

// runChild runs a program with the standard streams of this process and returns its exit code. An interrupt reaches
// both processes; runChild waits for the child, which then ends in good order.
func runChild(program string, args []string) (code int, err error) {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return console.ExitFailed, err
	}
	return console.ExitDone, nil
}

// findBeside returns the path of a program in the directory of this program or in PATH. It must not return a
// program of the current directory, even if PATH contains it.
func findBeside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		// LookPath adds .exe on Windows, and checks that the file is executable.
		if beside, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return beside, nil
		}
	}
	if found, err := exec.LookPath(name); err == nil { // exec.ErrDot for the current directory
		return found, nil
	}
	return "", fmt.Errorf("%s is neither beside this program nor in PATH: build both in Weir's source with\n"+
		"  go build -o bin/ ./cmd/weir ./cmd/%s\nand run bin/weir", name, name)
}

const sqliteAbout = `Reads the topic PREFIXconnections or PREFIXflows (committed records only) and stores
its messages as rows of FILE, an SQLite database. The offsets are written in the same
transaction as the rows, so each message is stored exactly once, also after kill -9. A
later report of a connection replaces the earlier report. FILE may hold both topics,
written by one process each; a second process for the same topic is refused.
Kafka is reached as by the services: KAFKA_BROKERS,
KAFKA_TLS…, TOPIC_PREFIX.

Old rows are deleted by age (--keep) or size (--max-size), and the file shrinks. Both
count and delete the rows of this topic only.
Tables and example queries: docs/sqlite.md.

exit code: 0 ended by a signal; 1 Kafka or the file failed; 2 wrong usage`

// SQLite implements the program weir-sqlite. open opens the database file.
func SQLite(args []string, stdout, stderr io.Writer, open func(context.Context, sink.Options) (sink.Sink, error)) int {
	f := console.NewFlags("sink sqlite", "FILE [flag]...", sqliteAbout)
	o := sink.Options{Rows: string(kafka.Connections)}
	once := f.Bool("once", false, "read the topic to its present end, and exit")
	f.Func("topic", "store `connections` (default) or flows", func(s string) error {
		if s != string(kafka.Connections) && s != string(kafka.Flows) {
			return fmt.Errorf("%q: want connections or flows", s)
		}
		o.Rows = s
		return nil
	})
	f.DurationVar(&o.Keep, "keep", 0, "delete rows published longer ago than `DURATION` (720h); default: none")
	const sizeUsage = "delete the oldest rows " +
		"once the topic's rows have more than `SIZE` octets in the file (10GB); default: none"
	f.Func("max-size", sizeUsage, func(s string) (err error) {
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

// A sinking runs a sink.Feed and prints its progress and failures.
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
				console.Linef(s.stderr, "%s at %s goes into %s; end with Ctrl-C",
					s.o.Topic, strings.Join(settings.Kafka.Brokers, ","), s.o.Path)
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
	console.Linef(s.stderr, "%d rows written, %d messages that are not %s, %d old rows deleted",
		kept.Rows, kept.Bad, s.o.Rows, kept.Deleted)
	return err
}

// notice prints a message, which need not be a current failure.
func (s *sinking) notice(event error) {
	s.show.Clear()
	console.Linef(s.stderr, "weir sink sqlite: %v", event)
}

// complain prints a failure, unless it equals the failure before it.
func (s *sinking) complain(err error) {
	if s.failures.IsNew(err, time.Time{}) {
		s.notice(err)
	}
}
