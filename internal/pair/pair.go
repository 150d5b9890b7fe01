// Package pair joins flow records into connections. It is a pure state machine: its clock is stream time, the
// greatest receive time so far. It does no I/O and reads no wall clock, so that a replay gives the same connections.
//
// An observation point (RFC 7011 section 2) is known as far as records identify it: by exporter, observation domain
// and flow direction. A connection sums the records of an observation point over time. Of observation points that
// overlap in time it counts the strongest alone, so that two routers on the path, or metering on both sides of a
// router, do not count packets twice. Records are assigned to connections by the distance of their times; TCP
// connections end at FIN and RST. The order of arrival does not matter.
//
// A record passes through the package as follows. FromMessage converts a message to a Flow, or refuses it. Observe
// looks up the entries with the key of the Flow, drops a duplicate, and adds the record to the closest entry or opens a
// new one. Each entry has a deadline in stream time and is in a queue; Advance emits the entries whose deadline has
// passed. An emitted entry remains in the table for PAIR_LATE_GRACE or longer, so that a late record corrects its
// report.
//
// The state survives a member as follows. Deltas writes the entries that changed since its last call. The caller
// appends them to the pairing topic, in the transaction that commits the offsets of the records. The next owner of the
// partition applies these pieces to a new Machine (docs/decisions/0003-delta-log-in-the-offset-commit.md).
//
// Determinism is a contract of the package: the same records and stream times must give the same emissions, on any
// member and after any restore. Code must not let the order of a map or of a hash chain reach an emission or the log;
// hashes of keys are seeded per process.
package pair

import (
	"errors"
	"fmt"
	"time"
)

// Config holds the settings of a Machine; the environment names have the prefix PAIR_.
//
// All durations are differences of stream time. Changed durations apply from the next restart on: Restored shortens the
// deadlines of open entries, but does not extend them. docs/connections.md describes the rules that the settings
// control.
type Config struct {
	Idle            time.Duration `env:"IDLE" envDefault:"75s" help:"silence after which a connection is emitted; must exceed the exporters' active timeout"`
	Linger          time.Duration `env:"LINGER" envDefault:"5s" help:"wait for late records after both directions ended"`
	LateGrace       time.Duration `env:"LATE_GRACE" envDefault:"60s" help:"time during which a late record can correct an emitted connection"`
	TCPPause        time.Duration `env:"TCP_PAUSE" envDefault:"300s" help:"longest pause of a TCP connection that was not closed: until then a record without SYN continues it, even after its report; PAIR_IDLE if that is longer. Also the time that a firewall's flow waits for its teardown"`
	ClockSkew       time.Duration `env:"CLOCK_SKEW" envDefault:"2s" help:"tolerance between the clocks of two exporters"`
	MaxClockSkew    time.Duration `env:"MAX_CLOCK_SKEW" envDefault:"10s" help:"greatest difference between export and receive time; beyond it, times are shifted to the receiver's clock"`
	UpdateInterval  time.Duration `env:"UPDATE_INTERVAL" envDefault:"30m" help:"interval between reports of an open connection; 0: no such reports"`
	ActiveTimeout   time.Duration `env:"ACTIVE_TIMEOUT" envDefault:"60s" help:"the exporters' active timeout"`
	InactiveTimeout time.Duration `env:"INACTIVE_TIMEOUT" envDefault:"15s" help:"the exporters' inactive timeout"`
	MaxOpen         int           `env:"MAX_OPEN" envDefault:"4000000" unit:"connections" help:"maximum number of connections in memory, for all partitions together; each partition has an equal share"`
	Scope           string        `env:"SCOPE" envDefault:"global" unit:"global, exporter or vrf" help:"scope in which an address identifies a host: global, a single exporter, or a pair of VRFs. Private addresses are always distinguished by the exporter's address plan, by default its site (EXPORTERS_FILE)"`
	DedupContent    bool          `env:"DEDUP_CONTENT" envDefault:"false" help:"drop records of equal content (observation point, times, counters, flags, interfaces, ToS) as duplicates: for exporters that meter a flow at two interfaces and do not report the direction"`

	// StateFormat is the format that Deltas writes: 2 or 3; 0 means 2. Apply reads both.
	StateFormat int `env:"-"`

	// Service reports whether a port is a known service. Ports below 512 always are; with a nil Service, all ports
	// below 1024. It must be a pure function: a replay must give the same result.
	Service func(proto uint8, port uint16) bool `env:"-"`
}

// Long reports whether f spans clearly more than ActiveTimeout: by more than a tenth plus 5 s, because exporters check
// their flows for timeouts only periodically. With the default of 60 s, a flow of more than 71 s is long. Such flows
// arrive after PAIR_IDLE may have ended their connection, so that it is reported in parts.
func (c *Config) Long(f *Flow) bool {
	return f.End-f.Start > int64(c.ActiveTimeout+c.ActiveTimeout/10+5*time.Second)
}

// Validate returns all mistakes, joined into one error, each with its variable and value.
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
		bad("PAIR_IDLE=%v: want more than PAIR_ACTIVE_TIMEOUT (%v), else a long flow is emitted between two of its records",
			c.Idle, c.ActiveTimeout)
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

// An Outcome is the result of Observe for a record.
type Outcome uint8

// The outcomes.
const (
	Opened    Outcome = iota // the record opened a connection
	Joined                   // the record was added to a connection, open or in grace
	Duplicate                // the record was dropped: its identity is known
)
