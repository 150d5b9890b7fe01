package failure

import (
	"errors"
	"testing"
	"time"
)

func TestOnlyNewFailuresAreReported(t *testing.T) {
	full, denied := errors.New("no space left on device"), errors.New("permission denied")
	start := time.Unix(1_700_000_000, 0)
	for _, tt := range []struct {
		name  string
		every time.Duration
		steps []any // a failure, nil for a success, or a duration that passes
		want  string
	}{
		{"a failure that repeats is reported once", 0, []any{full, full, time.Hour, full}, "n.."},
		{"another failure is new, and so is the first after it", 0, []any{full, denied, denied, full}, "nn.n"},
		{"after a success the same failure is new", 0, []any{nil, full, full, nil, nil, full}, "sn.rsn"},
		{"every 30 s the same failure is new", 30 * time.Second, []any{full, 29 * time.Second, full, time.Second, full, 29 * time.Second, full}, "n.n."},
	} {
		r, now, got := Repeats{Every: tt.every}, start, ""
		for _, s := range tt.steps {
			switch s := s.(type) {
			case time.Duration:
				now = now.Add(s)
			case error:
				if r.IsNew(s, now) {
					got += "n"
				} else {
					got += "."
				}
			case nil:
				if r.Recovered() {
					got += "r"
				} else {
					got += "s"
				}
			}
		}
		if got != tt.want {
			t.Errorf("%s: want %q (n: new, .: repeat, r: recovered, s: success after success), got %q", tt.name, tt.want, got)
		}
	}
}
