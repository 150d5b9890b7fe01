// Package pair joins flow records into connections: a pure state machine whose
// clock is stream time, the greatest receive time it was given. It does no I/O
// and knows no wall clock, so a replay gives the same connections.
//
// A connection sums what one vantage reports over time, and of vantages that
// overlap takes the best, so that two routers on the path, or metering on both
// sides of one, do not count twice. Records belong together by the distance of
// their times, TCP connections end at FIN and RST; arrival order does not matter.
package pair

import (
	"errors"
	"fmt"
	"time"
)

// Config is the machine's constants; the environment names have the prefix PAIR_.
type Config struct {
	Idle            time.Duration `env:"IDLE" envDefault:"75s" help:"silence after which a connection is emitted; must exceed the exporters' active timeout"`
	Linger          time.Duration `env:"LINGER" envDefault:"5s" help:"wait after both directions ended, for what is still on its way"`
	LateGrace       time.Duration `env:"LATE_GRACE" envDefault:"60s" help:"how long an emitted connection can still be corrected by a late record"`
	TCPPause        time.Duration `env:"TCP_PAUSE" envDefault:"300s" help:"longest pause of a TCP connection that was not closed: a record without SYN continues it, also after its report; PAIR_IDLE where that is longer. A firewall's flow waits as long for its teardown"`
	ClockSkew       time.Duration `env:"CLOCK_SKEW" envDefault:"2s" help:"tolerance between the clocks of two exporters"`
	MaxClockSkew    time.Duration `env:"MAX_CLOCK_SKEW" envDefault:"10s" help:"export time further than this from receive time: times are shifted to the receiver's clock"`
	UpdateInterval  time.Duration `env:"UPDATE_INTERVAL" envDefault:"30m" help:"an open connection is reported this often; 0 = never"`
	ActiveTimeout   time.Duration `env:"ACTIVE_TIMEOUT" envDefault:"60s" help:"the exporters' active timeout"`
	InactiveTimeout time.Duration `env:"INACTIVE_TIMEOUT" envDefault:"15s" help:"the exporters' inactive timeout"`
	MaxOpen         int           `env:"MAX_OPEN" envDefault:"4000000" unit:"connections" help:"connections held, of the whole topic; each partition has its share"`
	Scope           string        `env:"SCOPE" envDefault:"global" unit:"global, exporter or vrf" help:"where an address names one host: everywhere, at one exporter, in one pair of VRFs. Private addresses are told apart by the exporter's address plan, by default its site, anyway (EXPORTERS_FILE)"`
	DedupContent    bool          `env:"DEDUP_CONTENT" envDefault:"false" help:"take records of equal content (vantage, times, counters, flags, interfaces, ToS) for one: for exporters that meter a flow at both interfaces without saying so"`

	// StateFormat is the format in which Deltas writes: 2 or 3; 0 means 2. Apply
	// reads both.
	StateFormat int `env:"-"`

	// Service tells whether a port is a known service; ports below 512 are services
	// anyway, and up to 1023 where it is nil.
	Service func(proto uint8, port uint16) bool `env:"-"`
}

// Long reports whether f spans clearly more than ActiveTimeout: by more than a tenth,
// as exporters look at their flows now and then, and 5 s.
func (c *Config) Long(f *Flow) bool {
	return f.End-f.Start > int64(c.ActiveTimeout+c.ActiveTimeout/10+5*time.Second)
}

// Validate reports every mistake at once, by variable and value.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, d := range []struct {
		name string
		is   time.Duration
		zero bool
	}{
		{"PAIR_IDLE", c.Idle, false},
		{"PAIR_LINGER", c.Linger, false},
		{"PAIR_LATE_GRACE", c.LateGrace, true},
		{"PAIR_TCP_PAUSE", c.TCPPause, true},
		{"PAIR_CLOCK_SKEW", c.ClockSkew, true},
		{"PAIR_MAX_CLOCK_SKEW", c.MaxClockSkew, false},
		{"PAIR_UPDATE_INTERVAL", c.UpdateInterval, true},
		{"PAIR_ACTIVE_TIMEOUT", c.ActiveTimeout, false},
		{"PAIR_INACTIVE_TIMEOUT", c.InactiveTimeout, false},
	} {
		if d.is < 0 || d.is == 0 && !d.zero || d.is > 7*24*time.Hour {
			bad("%s=%v: want a duration up to 168h, more than 0", d.name, d.is)
		}
	}
	if c.Idle > 0 && c.Idle <= c.ActiveTimeout {
		bad("PAIR_IDLE=%v: want more than PAIR_ACTIVE_TIMEOUT (%v), else a long flow is emitted between two of its records", c.Idle, c.ActiveTimeout)
	}
	if c.Linger > c.Idle {
		bad("PAIR_LINGER=%v: want at most PAIR_IDLE (%v)", c.Linger, c.Idle)
	}
	if c.MaxOpen < 1 {
		bad("PAIR_MAX_OPEN=%d: want at least 1", c.MaxOpen)
	}
	switch c.Scope {
	case "", ScopeGlobal, ScopeExporter, ScopeVRF:
	default:
		bad("PAIR_SCOPE=%q: want %s, %s or %s", c.Scope, ScopeGlobal, ScopeExporter, ScopeVRF)
	}
	return errors.Join(errs...)
}

// An Outcome is what Observe did with a record.
type Outcome uint8

// The outcomes.
const (
	Opened    Outcome = iota // a new connection
	Joined                   // an open or late connection took it
	Duplicate                // dropped: its identity is known
)
