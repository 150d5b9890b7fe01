package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// networks is a struct of settings whose Validate prints a value as it is.
type networks struct {
	Trusted []netip.Prefix `env:"TRUSTED"`
	Name    string         `env:"NAME"`
	Inner   struct {
		Home []netip.Prefix `env:"HOME_NETS"`
	} `envPrefix:"IN_"`
}

func (n networks) Validate() error {
	if n.Name == "" {
		return nil
	}
	return errors.Join(fmt.Errorf("NAME=%s: want none", n.Name), errors.New("TRUSTED is not judged"))
}

func TestNetworksAreWrittenAsTheyMatch(t *testing.T) {
	for value, want := range map[string]string{
		"10.0.0.0/8":                "",
		"0.0.0.0/0,::/0":            "",
		"192.0.2.7/32,fd00::/8":     "",
		"10.1.2.3/8":                "10.1.2.3/8 has bits beyond its length: want 10.0.0.0/8",
		"10.0.0.0/8,2001:db8::1/32": "2001:db8::1/32 has bits beyond its length: want 2001:db8::/32",
		"::ffff:10.0.0.0/104":       "::ffff:10.0.0.0/104 is an IPv4 network written as IPv6: want 10.0.0.0/8",
		"::ffff:10.1.2.3/104":       "::ffff:10.1.2.3/104 is an IPv4 network written as IPv6: want 10.0.0.0/8",
		"::ffff:0.0.0.0/96":         "::ffff:0.0.0.0/96 is an IPv4 network written as IPv6: want 0.0.0.0/0",
	} {
		for _, name := range []string{"TRUSTED", "IN_HOME_NETS"} {
			_, err := Parse[networks](map[string]string{name: value})
			switch {
			case want == "" && err != nil:
				t.Errorf("%s=%s: want no error, got %v", name, value, err)
			case want != "" && (err == nil || err.Error() != name+": "+want):
				t.Errorf("%s=%s: want %q, got %v", name, value, want, err)
			}
		}
	}
}

func TestAValueWithLineEndsIsOneMistake(t *testing.T) {
	for _, value := range []string{"a\n", "\n", "\n\nb", "a\n\nb", "a\r\nb"} {
		_, err := Parse[networks](map[string]string{"NAME": value})
		if err == nil {
			t.Fatalf("%q: want an error", value)
		}
		want := "NAME=" + strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(value) + ": want none\nTRUSTED is not judged"
		if err.Error() != want {
			t.Errorf("%q: want %q, got %q", value, want, err.Error())
		}
	}
}

// FuzzParse checks that no environment makes Parse panic, that each error is a line that is not empty, and
// that accepted networks have no bits beyond their length and no mapped IPv4 address.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "\n", "10.0.0.0/8", "10.1.2.3/8", "::ffff:10.0.0.0/104", "a\n\nb", "1e9", "15s", "a:1,\n", "::1%eth0/64"} {
		f.Add(s, s, s)
		f.Add("192.0.2.0/24", s, "")
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		n, err := Parse[networks](map[string]string{"TRUSTED": a, "IN_HOME_NETS": b, "NAME": c})
		if err == nil {
			for _, p := range append(n.Trusted, n.Inner.Home...) {
				if p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 {
					t.Errorf("%v was accepted", p)
				}
			}
		} else if strings.Contains(err.Error()+"\n", "\n\n") {
			t.Errorf("an empty line in %q", err.Error())
		}
		o, err := Parse[outer](map[string]string{"LISTEN": a, "COUNT_OF": b, "IN_HOSTS": c, "IN_WAIT": b})
		if err != nil && !reflect.ValueOf(o).IsZero() {
			t.Errorf("an error and %+v", o)
		}
	})
}

func TestWithPrefixSelectsByName(t *testing.T) {
	got := WithPrefix([]string{"PAIR_IDLE=1s", "DNS_SERVERS=a=b", "KAFKA_BROKERS=x:1", "PAIRS=1", "=C:=weird"}, "PAIR_", "DNS_")
	if len(got) != 2 || got["PAIR_IDLE"] != "1s" || got["DNS_SERVERS"] != "a=b" {
		t.Errorf("got %v", got)
	}
}
