package cli

import (
	"bytes"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"weir/internal/cli/console"
	"weir/internal/weirtest/captures"
)

// asWeir is the environment variable that makes the test binary run as weir.
const asWeir = "WEIR_TEST_AS_WEIR"

func TestMain(m *testing.M) {
	_ = os.Setenv("DNS_ENABLED", "false") // no DNS query leaves the test; Setenv fails for invalid names only
	if os.Getenv(asWeir) != "" {          // a separate process that tests can kill
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// A ran is the result of a run of weir: output and exit code.
type ran struct {
	code        int
	out, errout string
}

func run(t testing.TB, stdin string, args ...string) ran {
	t.Helper()
	var out, errout bytes.Buffer
	code := Main(args, strings.NewReader(stdin), &out, &errout)
	return ran{code, out.String(), errout.String()}
}

// last returns the last line of standard error.
func (r ran) last() string {
	all := strings.Split(strings.TrimSuffix(r.errout, "\n"), "\n")
	return all[len(all)-1]
}

func TestUsage(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		code   int
		out    string // a part of standard output
		errout string // all of standard error
	}{
		{"weir alone lists the verbs", nil, 0, "\n  decode ", ""},
		{"help lists the verbs", []string{"help"}, 0, "\n  connections ", ""},
		{"--help lists the verbs", []string{"--help"}, 0, "\n  decode ", ""},
		{"help of a verb", []string{"help", "decode"}, 0, "usage: weir decode ", ""},
		{"help of an unknown verb", []string{"help", "decade"}, 2, "", "weir: no verb \"decade\", did you mean \"decode\"?; see weir help\n"},
		{"a mistyped verb", []string{"conections", "x"}, 2, "", "weir: no verb \"conections\", did you mean \"connections\"?; see weir help\n"},
		{"the beginning of a verb", []string{"dec"}, 2, "", "weir: no verb \"dec\", did you mean \"decode\"?; see weir help\n"},
		{"a verb like none", []string{"frobnicate"}, 2, "", "weir: no verb \"frobnicate\"; see weir help\n"},
		{"an unknown flag", []string{"decode", "--jsn", "x"}, 2, "", "weir decode: flag provided but not defined: -jsn; see weir decode --help\n"},
		{"a flag without its value", []string{"decode", "x", "--hex"}, 2, "", "weir decode: flag needs an argument: -hex; see weir decode --help\n"},
		{"no input", []string{"decode", "--json"}, 2, "", "weir decode: no FILE and no --hex; see weir decode --help\n"},
		{"a port that is none", []string{"decode", "--port", "65536", "x"}, 2, "", "weir decode: invalid value \"65536\" for flag -port: \"65536\" is no port: want 1 to 65535; see weir decode --help\n"},
		{"neither capture nor broker", []string{"connections"}, 2, "", "weir connections: no file, and for the topic the settings are wrong:\nKAFKA_BROKERS is not set: want host:port list (brokers to start from, comma separated)\n"},
		{"a flag for the topic with a file", []string{"connections", "--once", "x"}, 2, "", "weir connections: --once is for the topic, not for files; see weir connections --help\n"},
		{"a flag for files without one", []string{"connections", "--udp-port", "2055"}, 2, "", "weir connections: --udp-port is for files; --port is a connection's; see weir connections --help\n"},
		{"a host that is none", []string{"connections", "--host", "10.0.0.300"}, 2, "", "weir connections: invalid value \"10.0.0.300\" for flag -host: \"10.0.0.300\": want an address or a prefix (192.0.2.0/24); see weir connections --help\n"},
		{"two forms", []string{"connections", "--json", "--csv", "x"}, 2, "", "weir connections: --json, --csv and -v: want only one of these; see weir connections --help\n"},
		{"an order that is none", []string{"connections", "--sort", "size", "x"}, 2, "", "weir connections: invalid value \"size\" for flag -sort: \"size\": want start, octets, packets or duration; see weir connections --help\n"},
		{"top and limit", []string{"connections", "--top", "3", "--limit", "3", "x"}, 2, "", "weir connections: --top N is --sort octets --limit N: want only one of these; see weir connections --help\n"},
		{"top of what never ends", []string{"connections", "--top", "3"}, 2, "", "weir connections: --sort and --top need input that ends: files, or --once; see weir connections --help\n"},
		{"a limit that is none", []string{"connections", "--limit", "0", "x"}, 2, "", "weir connections: invalid value \"0\" for flag -limit: \"0\": want a number, 1 or more; see weir connections --help\n"},
		{"packets that are none", []string{"connections", "-p", "few", "x"}, 2, "", "weir connections: invalid value \"few\" for flag -p: \"few\": want a number of packets, 0 or more; see weir connections --help\n"},
		{"flows of nothing", []string{"flows"}, 2, "", "weir flows: no file, and for the topic the settings are wrong:\nKAFKA_BROKERS is not set: want host:port list (brokers to start from, comma separated)\n"},
		{"flows in two forms", []string{"flows", "--json", "-v", "x"}, 2, "", "weir flows: --json and -v: want only one of these; see weir flows --help\n"},
		{"a flag for the topic with a file of flows", []string{"flows", "--since", "1m", "x"}, 2, "", "weir flows: --since is for the topic, not for files; see weir flows --help\n"},
		{"both ends of the topic", []string{"flows", "--since", "1m", "--from-start"}, 2, "", "weir flows: --from-start and --since: want only one of these; see weir flows --help\n"},
		{"a limit of flows that is none", []string{"flows", "--limit", "x", "x"}, 2, "", "weir flows: invalid value \"x\" for flag -limit: \"x\": want a number, 1 or more; see weir flows --help\n"},
		{"replay of nothing", []string{"replay"}, 2, "", "weir replay: no FILE; see weir replay --help\n"},
		{"a speed that is none", []string{"replay", "--speed", "-1x", "x"}, 2, "", "weir replay: invalid value \"-1x\" for flag -speed: \"-1x\": want 10x, 0.5x or max; see weir replay --help\n"},
		{"a target that is none", []string{"replay", "--to", "2055", "x"}, 2, "", "weir replay: --to 2055: want host:port of a collector; see weir replay --help\n"},
		{"a target without a host", []string{"replay", "--to", ":2055", "x"}, 2, "", "weir replay: --to :2055: want host:port of a collector; see weir replay --help\n"},
		{"replay of a file that is not there", []string{"replay", "nowhere.pcap"}, 1, "", "0 datagrams sent, 0 B in 0.0 s; 0 of something else left out\nweir replay: nowhere.pcap: no such file or directory\n"},
		{"help of the sinks", []string{"sink"}, 0, "usage: weir sink sqlite FILE", ""},
		{"a sink that is none", []string{"sink", "postgres"}, 2, "", "weir sink: no sink \"postgres\", want sqlite; see weir sink --help\n"},
		{"collect without a file", []string{"collect"}, 2, "", "weir collect: no --out FILE; see weir collect --help\n"},
		{"a size that is none", []string{"collect", "--out", "x", "--rotate-size", "-1GB"}, 2, "", "weir collect: invalid value \"-1GB\" for flag -rotate-size: \"-1GB\": want a number of octets with a unit, such as 500MB or 2GiB; see weir collect --help\n"},
		{"an age that is none", []string{"collect", "--out", "x", "--rotate-every", "-1s"}, 2, "", "weir collect: --rotate-every -1s: want 0 or more; see weir collect --help\n"},
		{"collect into no directory", []string{"collect", "--listen", "127.0.0.1:0", "--out", "/nowhere/x.jsonl"}, 1, "", "weir collect: --out: open /nowhere/x.jsonl: no such file or directory\n"},
		{"an age of uptimes that is none", []string{"decode", "--uptime-max-age", "1m", "x"}, 2, "", "weir decode: invalid value \"1m\" for flag -uptime-max-age: \"1m\": want 2m0s to 1193h0m0s; see weir decode --help\n"},
		{"an age of uptimes for a topic", []string{"flows", "--uptime-max-age", "2h"}, 2, "", "weir flows: --uptime-max-age is for files; ingest has UPTIME_MAX_AGE; see weir flows --help\n"},
		{"a protocol that is none", []string{"connections", "--proto", "tpc"}, 2, "", "weir connections: invalid value \"tpc\" for flag -proto: \"tpc\" is no protocol: want a name as printed in the table, or a number up to 255; see weir connections --help\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, "", tt.args...)
			if got.code != tt.code || !strings.Contains(got.out, tt.out) || got.errout != tt.errout {
				t.Errorf("want exit code %d, output with %q, errors %q; got %d, %q, %q", tt.code, tt.out, tt.errout, got.code, got.out, got.errout)
			}
		})
	}
}

func TestEveryVerbExplainsItself(t *testing.T) {
	for _, v := range verbs {
		got := run(t, "", v.name, "--help")
		if got.code != 0 || !strings.HasPrefix(got.out, "usage: weir "+v.name) || got.errout != "" {
			t.Errorf("%s: exit code %d, output %q, errors %q", v.name, got.code, got.out, got.errout)
		}
	}
}

func TestFlagsMayStandBehindFiles(t *testing.T) {
	f := console.NewFlags("v", "", "")
	b := f.Bool("b", false, "")
	n := f.Int("n", 0, "")
	rest, _, ok := f.ParseArgs([]string{"one", "-b", "-", "--n", "7", "two", "--", "-b=false", "--", "-x"}, io.Discard, io.Discard)
	if want, got := "one - two -b=false -- -x", strings.Join(rest, " "); want != got || !ok || !*b || *n != 7 {
		t.Errorf("want %q with b and 7, got %q with %v and %d (%v)", want, got, *b, *n, ok)
	}
}

// failing is a writer that accepts some octets and then fails.
type failing struct {
	room int
	err  error
}

func (f *failing) Write(b []byte) (int, error) {
	if len(b) > f.room {
		return 0, f.err
	}
	f.room -= len(b)
	return len(b), nil
}

func TestStandardOutputThatFails(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		code   int
		errout string // before the last line
	}{
		{"a reader that has seen enough is no failure", syscall.EPIPE, 0, ""},
		{"a full disk is one", syscall.ENOSPC, 1, "weir decode: standard output: no space left on device\n"},
	}
	for _, tt := range tests {
		for _, room := range []int{0, 1 << 17} {
			t.Run(tt.name, func(t *testing.T) {
				var errout bytes.Buffer
				code := Main([]string{"decode", "--json", captures.File("softflowd_v10_big.pcap")}, nil, &failing{room, tt.err}, &errout)
				before, last, _ := strings.Cut(errout.String(), "datagrams=")
				if code != tt.code || before != tt.errout || !strings.HasSuffix(last, " undecoded=0 errors=0\n") {
					t.Errorf("want exit code %d and %q, got %d and %q", tt.code, tt.errout, code, errout.String())
				}
			})
		}
	}
}
