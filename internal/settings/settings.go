// Package settings parses a service's settings from environment variables, prints their
// documentation, and reports all mistakes at once.
package settings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/caarlos0/env/v11"

	"weir/internal/spelling"
	"weir/internal/telemetry"
)

// A Validator checks rules that types cannot express. Each error must begin with the name
// of the variable, followed by "=", ":" or a space; errors.Join joins several.
type Validator interface{ Validate() error }

// Parse fills a T from environ (name → value). The error lists every wrong or missing
// variable with its value and the expected form. Values are checked by the types of the
// fields and by Validate of T and of each struct in T.
func Parse[T any](environ map[string]string) (T, error) {
	c, err := env.ParseAsWithOptions[T](env.Options{Environment: environ, FuncMap: wideIntegers})
	empty(reflect.ValueOf(&c).Elem(), "", environ)
	choose(reflect.ValueOf(&c).Elem(), fields[T](), environ)
	var errs []error
	bad := map[string]bool{}
	if err != nil {
		errs, bad = explain(err, fields[T](), environ)
	}
	for _, e := range append(prefixErrors(reflect.ValueOf(&c).Elem(), ""), validate(reflect.ValueOf(&c).Elem())...) {
		// A variable that the parser rejected has no value to validate.
		if !bad[subject(e)] {
			errs = append(errs, errors.New(e))
		}
	}
	if len(errs) > 0 {
		var zero T
		return zero, errors.Join(errs...)
	}
	return c, nil
}

// wideIntegers replaces the library's parsers of int and uint, which reject values beyond
// 32 bits: a limit of 2 GiB would be impossible.
var wideIntegers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[int](): func(v string) (any, error) { return strconv.Atoi(v) },
	reflect.TypeFor[uint](): func(v string) (any, error) {
		n, err := strconv.ParseUint(v, 10, strconv.IntSize)
		return uint(n), err
	},
}

// Chosen holds true for the variables that the environment sets, so that a service can
// distinguish a chosen value from a default. Parse fills fields of this type, which must
// have the tag env:"-"; it never leaves them nil.
type Chosen map[string]bool

// choose fills the fields of type Chosen in v.
func choose(v reflect.Value, fs []field, environ map[string]string) {
	for sf, f := range v.Fields() {
		switch {
		case !sf.IsExported():
		case sf.Type == reflect.TypeFor[Chosen]():
			c := Chosen{}
			for _, of := range fs {
				c[of.Name] = environ[of.Name] != ""
			}
			f.Set(reflect.ValueOf(c))
		case f.Kind() == reflect.Struct:
			choose(f, fs, environ)
		}
	}
}

// empty sets a text field to "" if its variable is set and empty. The parser would use
// the default.
func empty(v reflect.Value, prefix string, environ map[string]string) {
	for sf, f := range v.Fields() {
		name, _, _ := strings.Cut(sf.Tag.Get("env"), ",")
		switch {
		case !sf.IsExported() || name == "-":
		case name == "" && f.Kind() == reflect.Struct:
			empty(f, prefix+sf.Tag.Get("envPrefix"), environ)
		case f.Kind() == reflect.String:
			if s, set := environ[prefix+name]; set && s == "" {
				f.SetString("")
			}
		}
	}
}

// WithPrefix returns the variables of an environment (NAME=value) that begin with any of
// the prefixes. A value may be empty and may contain "=".
func WithPrefix(environ []string, prefixes ...string) map[string]string {
	m := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		for _, p := range prefixes {
			if strings.HasPrefix(name, p) {
				m[name] = value
			}
		}
	}
	return m
}

// explain turns the parser's errors into errors with the variable, its value and the
// expected form. named holds the variables of these errors.
func explain(err error, fs []field, environ map[string]string) (errs []error, named map[string]bool) {
	named = map[string]bool{}
	list := []error{err}
	if all := (env.AggregateError{}); errors.As(err, &all) {
		list = all.Errors
	}
	for _, e := range list {
		var parse env.ParseError
		var unset env.VarIsNotSetError
		var empty env.EmptyVarError
		switch {
		case errors.As(e, &parse):
			i := slices.IndexFunc(fs, func(f field) bool {
				return f.member == parse.Name && f.typ == parse.Type && !named[f.Name] && environ[f.Name] != ""
			})
			if i < 0 {
				errs = append(errs, e)
				continue
			}
			named[fs[i].Name] = true
			errs = append(errs, fmt.Errorf("%s=%q: want %s", fs[i].Name, environ[fs[i].Name], fs[i].expected()))
		case errors.As(e, &unset):
			named[unset.Key] = true
			errs = append(errs, missing(fs, unset.Key))
		case errors.As(e, &empty):
			named[empty.Key] = true
			errs = append(errs, missing(fs, empty.Key))
		default:
			errs = append(errs, e)
		}
	}
	return errs, named
}

func missing(fs []field, name string) error {
	for _, f := range fs {
		if f.Name == name {
			return fmt.Errorf("%s is not set: want %s (%s)", name, f.expected(), f.Help)
		}
	}
	return fmt.Errorf("%s is not set", name)
}

// subject returns the variable at the start of a line of Validate. The name ends at "=",
// ":" or a space.
func subject(line string) string {
	if i := strings.IndexAny(line, "=: "); i >= 0 {
		return line[:i]
	}
	return line
}

// validate calls Validate of v and of the structs in it. It returns a line for each
// mistake.
func validate(v reflect.Value) (lines []string) {
	if c, ok := reflect.TypeAssert[Validator](v.Addr()); ok {
		lines = errorLines(c.Validate())
	}
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Struct && v.Type().Field(i).IsExported() {
			lines = append(lines, validate(f)...)
		}
	}
	return lines
}

// errorLines returns a line for each error that err joins. Line ends within an error are
// escaped.
func errorLines(err error) (lines []string) {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			lines = append(lines, errorLines(e)...)
		}
		return lines
	}
	return []string{strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(err.Error())}
}

// prefixErrors returns a line for each network in v and its structs that would not match
// as written: host bits would be ignored, and an IPv4 network written as IPv6 matches no
// address, since addresses are unmapped.
func prefixErrors(v reflect.Value, envPrefix string) (lines []string) {
	for sf, f := range v.Fields() {
		name, _, _ := strings.Cut(sf.Tag.Get("env"), ",")
		if !sf.IsExported() || name == "-" {
			continue
		}
		if name == "" && f.Kind() == reflect.Struct {
			lines = append(lines, prefixErrors(f, envPrefix+sf.Tag.Get("envPrefix"))...)
			continue
		}
		list, ok := reflect.TypeAssert[[]netip.Prefix](f)
		if !ok {
			continue
		}
		for _, p := range list {
			want := p.Masked()
			switch {
			case p.Addr().Is4In6() && p.Bits() >= 96:
				want = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
				lines = append(lines,
					fmt.Sprintf("%s: %s is an IPv4 network written as IPv6: want %s", envPrefix+name, p, want))
			case p != want:
				lines = append(lines,
					fmt.Sprintf("%s: %s has bits beyond its length: want %s", envPrefix+name, p, want))
			}
		}
	}
	return lines
}

// Unknown returns a line for each variable of environ that looks like a misspelt variable
// of T: its spelling.Distance to a variable of more than four letters is 1 or 2.
func Unknown[T any](environ map[string]string) (warnings []string) {
	var known []string
	for _, f := range fields[T]() {
		known = append(known, f.Name)
	}
	for name := range environ {
		if slices.Contains(known, name) {
			continue
		}
		for _, k := range known {
			if len(k) > 4 && spelling.Distance(name, k) <= 2 {
				warnings = append(warnings, fmt.Sprintf("%s is no setting: is %s meant?", name, k))
				break
			}
		}
	}
	slices.Sort(warnings)
	return warnings
}

// logging holds the settings that all services share.
type logging struct {
	Level  slog.Level `env:"LOG_LEVEL" envDefault:"info" unit:"debug, info, warn or error" help:"lowest severity that is logged"`
	Format string     `env:"LOG_FORMAT" envDefault:"text" unit:"text or json" help:"format of log lines on standard error"`
}

// Validate implements Validator.
func (l logging) Validate() error {
	if l.Format != "text" && l.Format != "json" {
		return fmt.Errorf("LOG_FORMAT=%q: want text or json", l.Format)
	}
	return nil
}

// all is T with the settings that all services share.
type all[T any] struct {
	Service T
	Logging logging
}

// Exit codes of a service.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs a service and ends the process. With -h it prints Usage and exits with 0,
// with health it checks the running service. Otherwise it parses the settings and calls
// run. It exits with 2 for wrong settings and with 1 for an error of run. SIGINT and
// SIGTERM end the context of run; a second signal kills the process.
func Main[T any](program, about string, run func(ctx context.Context, c T) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal is not caught
	os.Exit(service(ctx, program, about, run, os.Args[1:], env.ToMap(os.Environ()), os.Stdout, os.Stderr))
}

// service implements Main and returns the exit code.
func service[T any](
	ctx context.Context, program, about string, run func(context.Context, T) error,
	args []string, environ map[string]string, stdout, stderr io.Writer,
) int {
	if len(args) > 0 {
		switch args[0] {
		case "-h", "-help", "--help", "help":
			Usage[T](stdout, program, about)
			return exitDone
		case "health":
			return health[T](ctx, program, environ, stderr)
		}
		fmt.Fprintf(stderr, "%s takes no arguments (%q): its settings are environment variables, see %s -h\n",
			program, args[0], program)
		return exitUsage
	}
	c, err := Parse[all[T]](environ)
	if err != nil {
		lines := strings.Split(err.Error(), "\n")
		fmt.Fprintf(stderr, "%s: %d wrong settings (%s -h explains them):\n", program, len(lines), program)
		for _, l := range lines {
			fmt.Fprintf(stderr, "  %s\n", l)
		}
		return exitUsage
	}
	log := newLog(c.Logging, stderr)
	slog.SetDefault(log)
	for _, w := range Unknown[all[T]](environ) {
		log.Warn(w)
	}
	if err := run(ctx, c.Service); err != nil && !errors.Is(err, context.Canceled) {
		log.Error(program+" failed", "err", err)
		return exitFailed
	}
	return exitDone
}

// health checks whether the service that runs with these settings is ready. It serves as
// the health check of container images, which contain no other program.
func health[T any](ctx context.Context, program string, environ map[string]string, stderr io.Writer) int {
	addr := environ["METRICS_LISTEN"]
	for _, f := range fields[T]() {
		if _, set := environ[f.Name]; f.Name == "METRICS_LISTEN" && !set {
			addr = f.Default
		}
	}
	if err := telemetry.Check(ctx, addr); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", program, err)
		return exitFailed
	}
	return exitDone
}

func newLog(l logging, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
