package console

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Flags are a verb's flags and its usage text. Flags may stand before, between and after the other arguments;
// arguments after "--" are not flags.
type Flags struct {
	*flag.FlagSet
	synopsis string // after the verb's name
	about    string // paragraphs
}

// NewFlags returns the flags of a verb. synopsis follows the name in the usage line; about is the paragraphs of
// the help text.
func NewFlags(name, synopsis, about string) *Flags {
	f := &Flags{flag.NewFlagSet(name, flag.ContinueOnError), synopsis, about}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// ParseArgs parses args into the flags and returns the other arguments. ok is false when the verb must end with
// code: help was requested and printed to stdout, or a flag is wrong and that was printed to stderr.
func (f *Flags) ParseArgs(args []string, stdout, stderr io.Writer) (rest []string, code int, ok bool) {
	for {
		err := f.Parse(args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			f.PrintHelp(stdout)
			return nil, ExitDone, false
		case err != nil:
			return nil, f.UsageError(stderr, err.Error()), false
		}
		ended := f.NArg() < len(args) && args[len(args)-f.NArg()-1] == "--"
		if ended || f.NArg() == 0 {
			return append(rest, f.Args()...), ExitDone, true
		}
		rest, args = append(rest, f.Arg(0)), f.Args()[1:]
	}
}

// IsSet reports whether the flag was on the command line.
func (f *Flags) IsSet(name string) (yes bool) {
	f.Visit(func(g *flag.Flag) { yes = yes || g.Name == name })
	return yes
}

// UsageError prints one line with the error and the command that prints the help text, and returns ExitUsage.
func (f *Flags) UsageError(stderr io.Writer, problem string) int {
	Linef(stderr, "weir %s: %s; see weir %s --help", f.Name(), Literal(problem), f.Name())
	return ExitUsage
}

// UsageErrorLines is UsageError for a problem of several lines.
func (f *Flags) UsageErrorLines(stderr io.Writer, problem string) int {
	first, rest, _ := strings.Cut(problem, "\n")
	Linef(stderr, "weir %s: %s", f.Name(), first)
	for line := range strings.SplitSeq(rest, "\n") {
		Linef(stderr, "%s", line)
	}
	Linef(stderr, "see weir %s --help", f.Name())
	return ExitUsage
}

// PrintHelp prints the usage line, the paragraphs and the flags to w.
func (f *Flags) PrintHelp(w io.Writer) {
	Linef(w, "usage: weir %s %s\n\n%s\n\nflags:", f.Name(), f.synopsis, Literal(f.about))
	f.VisitAll(func(g *flag.Flag) {
		unit, usage := flag.UnquoteUsage(g)
		dashes := "--"
		if len(g.Name) == 1 {
			dashes = "-"
		}
		Linef(w, "  %-14s  %s", strings.TrimSpace(dashes+g.Name+" "+unit), usage)
	})
}

// PortFlag adds a flag for a port, 1 to 65535. The result is 0 when the flag is not given.
func PortFlag(f *Flags, name, usage string) *uint16 {
	port := new(uint16)
	f.Func(name, usage, func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no port: want 1 to 65535", s)
		}
		*port = uint16(n)
		return nil
	})
	return port
}

// ParseOctets parses a number of octets with a unit: B (or none), kB, MB, GB, TB are powers of 1000, KiB, MiB,
// GiB, TiB powers of 1024. A fraction of an octet is cut off.
func ParseOctets(s string) (int64, error) {
	units := []struct {
		name string
		n    float64
	}{
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
		{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
	}
	for _, u := range units {
		text, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil && n >= 0 && n*u.n < 1<<62 {
			return int64(n * u.n), nil
		}
		break
	}
	return 0, fmt.Errorf("%q: want a number of octets with a unit, such as 500MB or 2GiB", s)
}
