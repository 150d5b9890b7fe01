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

	"weir/internal/framing"
	"weir/internal/kafka"
	"weir/internal/sink"
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
	f := newFlags("sink", "sqlite FILE [flag]...", sinkAbout)
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		f.help(stdout)
		return exitDone
	}
	if args[0] != "sqlite" {
		return f.wrong(stderr, fmt.Sprintf("no sink %q, want sqlite", args[0]))
	}
	program, err := findBeside(sqliteProgram)
	if err != nil {
		tell(stderr, "weir sink: %v", err)
		return exitUsage
	}
	err = syscall.Exec(program, append([]string{program}, args[1:]...), os.Environ())
	tell(stderr, "weir sink: %s: %v", program, err)
	return exitFailed
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
	f := newFlags("sink sqlite", "FILE [flag]...", sqliteAbout)
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
		if o.MaxSize, err = octetsOption(s); err == nil && o.MaxSize < 1<<20 {
			err = fmt.Errorf("%q: want at least 1MiB", s)
		}
		return err
	})
	files, code, ok := f.parse(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(files) != 1:
		return f.wrong(stderr, fmt.Sprintf("want one FILE, got %d", len(files)))
	case o.Keep < 0:
		return f.wrong(stderr, fmt.Sprintf("--keep %v: want more than 0", o.Keep))
	}
	settings, err := kafkaFromEnvironment()
	if err != nil {
		tell(stderr, "weir sink sqlite: settings:\n%v", err)
		return exitUsage
	}
	o.Path, o.Topic = files[0], settings.Topics.Name(kafka.Topic(o.Rows))
	return untilEnd("sink sqlite", stderr, func(ctx context.Context) error {
		s, err := open(ctx, o)
		if err != nil {
			return err
		}
		r := &sinking{sink: s, o: o, once: *once, show: newProgress(stderr), stderr: stderr}
		return errors.Join(r.run(ctx, settings), s.Close())
	})
}

// A sinking feeds a sink.
type sinking struct {
	sink   sink.Sink
	o      sink.Options
	once   bool
	show   *progress
	stderr io.Writer

	rows, bad int
	deleted   int64
	trimmed   time.Time
	told      string // the last failure
}

// trimEvery is how often old rows are looked for.
const trimEvery = 10 * time.Second

// run reads the topic into the sink until ctx ends. Where the topic changes, the sink
// says again where to read on.
func (s *sinking) run(ctx context.Context, settings kafkaSettings) error {
	b, err := kafka.Begins(ctx, settings.Kafka, s.o.Topic)
	if err != nil {
		return err
	}
	if !s.once {
		tell(s.stderr, "%s at %s goes into %s; end with Ctrl-C", s.o.Topic, strings.Join(settings.Kafka.Brokers, ","), s.o.Path)
	}
	for {
		err = s.read(ctx, settings, b)
		if s.once || !errors.Is(err, kafka.ErrTopicChanged) {
			break
		}
		s.complain(err)
		if b, err = s.again(ctx, settings); err != nil {
			break
		}
	}
	s.show.clear()
	tell(s.stderr, "%d rows written, %d messages that are no %s, %d old rows deleted", s.rows, s.bad, s.o.Rows, s.deleted)
	return err
}

// beginEvery is how often a topic that changed is looked at until it can be read.
const beginEvery = time.Second

// again waits until the topic can be read, or ctx ends.
func (s *sinking) again(ctx context.Context, settings kafkaSettings) (kafka.Beginning, error) {
	for {
		select {
		case <-ctx.Done():
			return kafka.Beginning{}, nil
		case <-time.After(beginEvery):
		}
		b, err := kafka.Begins(ctx, settings.Kafka, s.o.Topic)
		if err == nil || ctx.Err() != nil {
			return b, nil
		}
		s.complain(err)
	}
}

// complain prints a failure, unless it is the last one again.
func (s *sinking) complain(err error) {
	if err.Error() == s.told {
		return
	}
	s.told = err.Error()
	s.show.clear()
	tell(s.stderr, "weir sink sqlite: %v", err)
}

// read reads the topic from where the sink ends.
func (s *sinking) read(ctx context.Context, settings kafkaSettings, b kafka.Beginning) error {
	if ctx.Err() != nil {
		return nil
	}
	at, err := s.sink.Begin(ctx, sink.Topic{ID: b.ID, First: b.First, End: b.End})
	if err != nil {
		return fmt.Errorf("%s: %w", s.o.Path, err)
	}
	s.show.clear()
	if at.Anew {
		tell(s.stderr, "weir sink sqlite: topic %s was made anew: it is read from its start", s.o.Topic)
	}
	if at.Missed > 0 {
		tell(s.stderr, "weir sink sqlite: %d records of %s were deleted from Kafka before they were read: the topic keeps less than this was away", at.Missed, s.o.Topic)
	}
	if at.Lost > 0 {
		tell(s.stderr, "weir sink sqlite: Kafka lost the last records of %s, %d of which are in %s: reading goes on at the end of the topic", s.o.Topic, at.Lost, s.o.Path)
	}
	return kafka.Tail{From: at.From, ID: b.ID, Once: s.once}.Read(ctx, settings.Kafka, s.o.Topic, func(records []kafka.Record) error {
		return s.take(context.WithoutCancel(ctx), records)
	}, s.complain)
}

// transactionMessages are how many messages a transaction has at least, where there
// are so many: what a kill in the middle of it takes back.
const transactionMessages = 5000

// take writes the records of a fetch.
func (s *sinking) take(ctx context.Context, records []kafka.Record) error {
	kind := &framing.Connections
	if s.o.Rows == string(kafka.Flows) {
		kind = &framing.Flows
	}
	var list []sink.Record
	messages := 0
	for i, r := range records {
		x := sink.Record{Partition: r.Partition, Offset: r.Offset, Time: r.Time}
		n, err := kind.Each(r.Value, func(m []byte) { x.Messages = append(x.Messages, m) })
		if err != nil {
			s.bad++
		}
		list, messages = append(list, x), messages+n
		if messages >= transactionMessages || i == len(records)-1 {
			rows, bad, err := s.sink.Write(ctx, list)
			if err != nil {
				return fmt.Errorf("%s: %w", s.o.Path, err)
			}
			s.rows, s.bad = s.rows+rows, s.bad+bad
			s.show.count("%d rows written, %d deleted", s.rows, s.deleted)
			list, messages = list[:0], 0
		}
	}
	if now := time.Now(); now.Sub(s.trimmed) >= trimEvery || s.once {
		s.trimmed = now
		n, err := s.sink.Trim(ctx, now)
		if s.deleted += n; err != nil {
			return fmt.Errorf("%s: deleting old rows: %w", s.o.Path, err)
		}
	}
	s.show.count("%d rows written, %d deleted", s.rows, s.deleted)
	return nil
}
