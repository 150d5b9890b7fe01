package settings

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

type inner struct {
	Host []string      `env:"HOSTS,required" unit:"host:port list" help:"where to"`
	Wait time.Duration `env:"WAIT" envDefault:"15s" help:"how long"`
}

func (i inner) Validate() error {
	if i.Wait < time.Second {
		return fmt.Errorf("IN_WAIT=%v: want at least 1s", i.Wait)
	}
	return nil
}

type outer struct {
	Listen []netip.AddrPort `env:"LISTEN" envDefault:"[::]:2055" help:"addresses"`
	Count  int              `env:"COUNT_OF" envDefault:"5" unit:"records" help:"how many"`
	Inner  inner            `envPrefix:"IN_"`
}

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want []string // parts of the error; none = no error
	}{
		{"defaults", map[string]string{"IN_HOSTS": "a:1"}, nil},
		{"a missing variable is named", nil, []string{`IN_HOSTS is not set: want host:port list`}},
		{
			"all mistakes at once",
			map[string]string{"LISTEN": "2055", "COUNT_OF": "many", "IN_WAIT": "fast"},
			[]string{
				`LISTEN="2055": want addresses with ports`, `COUNT_OF="many": want a whole number (records)`,
				`IN_WAIT="fast": want a duration like 500ms`, `IN_HOSTS is not set`,
			},
		},
		{"what types cannot say", map[string]string{"IN_HOSTS": "a:1", "IN_WAIT": "1ms"}, []string{"IN_WAIT=1ms: want at least 1s"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse[outer](tt.env)
			if len(tt.want) == 0 {
				if err != nil || c.Count != 5 || c.Inner.Wait != 15*time.Second || len(c.Listen) != 1 {
					t.Errorf("got %+v, %v", c, err)
				}
				return
			}
			for _, w := range tt.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("want %q in %v", w, err)
				}
			}
		})
	}
}

func TestIntegersAreAsWideAsTheirType(t *testing.T) {
	type integers struct {
		Octets  int   `env:"OCTETS" envDefault:"1"`
		Count   uint  `env:"COUNT" envDefault:"1"`
		Long    int64 `env:"LONG" envDefault:"1"`
		Medium  int32 `env:"MEDIUM" envDefault:"1"`
		Short   int16 `env:"SHORT" envDefault:"1"`
		Octet   uint8 `env:"OCTET" envDefault:"1"`
		Several []int `env:"SEVERAL"`
	}
	for _, tt := range []struct {
		env  map[string]string
		want integers
		err  string
	}{
		{map[string]string{"OCTETS": "3221225472"}, integers{3 << 30, 1, 1, 1, 1, 1, nil}, ""},
		{map[string]string{"OCTETS": "1099511627776"}, integers{1 << 40, 1, 1, 1, 1, 1, nil}, ""},
		{map[string]string{"OCTETS": "-3221225472"}, integers{-3 << 30, 1, 1, 1, 1, 1, nil}, ""},
		{map[string]string{"COUNT": "1099511627776"}, integers{1, 1 << 40, 1, 1, 1, 1, nil}, ""},
		{map[string]string{"LONG": "1099511627776"}, integers{1, 1, 1 << 40, 1, 1, 1, nil}, ""},
		{map[string]string{"SEVERAL": "3221225472,2"}, integers{1, 1, 1, 1, 1, 1, []int{3 << 30, 2}}, ""},
		{map[string]string{"OCTETS": "9223372036854775808"}, integers{}, `OCTETS="9223372036854775808": want a whole number`},
		{map[string]string{"COUNT": "-1"}, integers{}, `COUNT="-1": want a whole number, 0 or more`},
		{map[string]string{"MEDIUM": "3221225472"}, integers{}, `MEDIUM="3221225472": want a whole number up to 2147483647`},
		{map[string]string{"SHORT": "32768"}, integers{}, `SHORT="32768": want a whole number up to 32767`},
		{map[string]string{"OCTET": "256"}, integers{}, `OCTET="256": want a whole number, 0 to 255`},
	} {
		got, err := Parse[integers](tt.env)
		if !reflect.DeepEqual(got, tt.want) || (err != nil) != (tt.err != "") || err != nil && err.Error() != tt.err {
			t.Errorf("%v: want %+v, %q; got %+v, %v", tt.env, tt.want, tt.err, got, err)
		}
	}
}

func TestATextThatIsSetToNothingIsEmpty(t *testing.T) {
	type nested struct {
		Prefix string `env:"PREFIX" envDefault:"netflow."`
	}
	type texts struct {
		Metrics string `env:"METRICS" envDefault:"127.0.0.1:9108"`
		Nested  nested `envPrefix:"IN_"`
	}
	for _, tt := range []struct {
		env  map[string]string
		want texts
	}{
		{nil, texts{"127.0.0.1:9108", nested{"netflow."}}},
		{map[string]string{"METRICS": "", "IN_PREFIX": ""}, texts{"", nested{""}}},
	} {
		if got, err := Parse[texts](tt.env); err != nil || got != tt.want {
			t.Errorf("%v: want %+v, got %+v, %v", tt.env, tt.want, got, err)
		}
	}
}

func TestService(t *testing.T) {
	good := map[string]string{"IN_HOSTS": "a:1"}
	tests := []struct {
		name   string
		args   []string
		env    map[string]string
		err    error
		code   int
		stdout string
		stderr string
	}{
		{"help explains every variable", []string{"-h"}, nil, nil, 0, "IN_WAIT", ""},
		{"an argument is refused", []string{"--listen"}, good, nil, 2, "", "takes no arguments"},
		{"wrong settings", nil, map[string]string{"COUNT_OF": "x"}, nil, 2, "", "2 wrong settings"},
		{"a failure is logged", nil, good, errors.New("port taken"), 1, "", "port taken"},
		{"the end of the context is no failure", nil, good, context.Canceled, 0, "", ""},
		{"a misspelt variable is pointed out", nil, map[string]string{"IN_HOSTS": "a:1", "IN_HOST": "b:1"}, nil, 0, "", "IN_HOST is no setting: is IN_HOSTS meant?"},
		{"a wrong log level", nil, map[string]string{"IN_HOSTS": "a:1", "LOG_FORMAT": "xml"}, nil, 2, "", "LOG_FORMAT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut strings.Builder
			code := service(t.Context(), "prog", "does things", func(context.Context, outer) error { return tt.err }, tt.args, tt.env, &out, &errOut)
			if code != tt.code || !strings.Contains(out.String(), tt.stdout) || !strings.Contains(errOut.String(), tt.stderr) {
				t.Errorf("want %d %q %q, got %d\nstdout: %s\nstderr: %s", tt.code, tt.stdout, tt.stderr, code, out.String(), errOut.String())
			}
		})
	}
}

func TestUsageNamesDefaultUnitAndMeaning(t *testing.T) {
	var b strings.Builder
	Usage[outer](&b, "prog", "does things")
	for _, want := range []string{"COUNT_OF", "how many", "records; default 5", "host:port list; required", "LOG_LEVEL"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("want %q in\n%s", want, b.String())
		}
	}
}
