// Package variables has what the tests of the services' settings share.
package variables

import (
	"strings"
	"testing"

	"weir/internal/settings"
)

// Fuzz sets every variable of a Config to the same text: no text panics, and each mistake
// is one line that names a variable.
func Fuzz[Config any](f *testing.F) {
	f.Helper()
	for _, s := range []string{"", "\n", "a\n\nb", "-1", "9223372036854775807", "0.0.0.0/0", "::ffff:10.0.0.0/104", "a:1,", "1h", "true", "=", "\x1b[2J"} {
		f.Add(s)
	}
	var names []string
	for _, v := range settings.Variables[Config]() {
		names = append(names, v.Name)
	}
	f.Fuzz(func(t *testing.T, value string) {
		environ := map[string]string{}
		for _, name := range names {
			environ[name] = value
		}
		_, err := settings.Parse[Config](environ)
		if err == nil {
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if line == "" || line[0] < 'A' || line[0] > 'Z' {
				t.Errorf("%q: a mistake %q", value, line)
			}
		}
	})
}
