// Package wire reads octets in network byte order with bounds checks. A failed read reports its
// place and cause.
package wire

import "fmt"

// A Cause is the reason for which a datagram, or a part of it, could not be decoded. The set is
// closed, since a Cause is a metric label.
type Cause string

// The causes.
const (
	Short           Cause = "short"            // fewer octets than the field needs
	BadLength       Cause = "bad_length"       // an impossible length field
	BadTemplate     Cause = "bad_template"     // a refused template
	UnknownVersion  Cause = "unknown_version"  // neither NetFlow v1, v5, v7, v9 nor IPFIX
	MissingTemplate Cause = "missing_template" // a data set whose template is unknown
	Truncated       Cause = "truncated"        // records or sets cut by the datagram's end
	Trailing        Cause = "trailing"         // octets beyond the header's count or length
	ReservedSet     Cause = "reserved_set"     // a set id without assigned meaning
	Withdrawal      Cause = "withdrawal"       // a template withdrawal over UDP, or of an unknown template: ignored
	BadField        Cause = "bad_field"        // a field that does not fit its record
	NoRecord        Cause = "no_record"        // a data set with content that is shorter than one record
	RecordTooSmall  Cause = "record_too_small" // flow records beyond one per 8 octets of data sets: not decoded
	BadHex          Cause = "bad_hex"          // invalid hex text (command line)
	BadLine         Cause = "bad_line"         // a line of JSON that is not a flow (command line)
)

// Error makes a Cause an error, so that errors.Is finds it in an Error.
func (c Cause) Error() string { return string(c) }

// An Error is a decoding failure at a known place of the datagram.
type Error struct {
	Off   int    // octets from the start of the datagram
	What  string // the field or part being read, e.g. "set length"
	Cause Cause
}

// Error returns the part, the place and the cause.
func (e *Error) Error() string {
	return fmt.Sprintf("%s at octet %d: %s", e.What, e.Off, string(e.Cause))
}

// Unwrap returns the Cause.
func (e *Error) Unwrap() error { return e.Cause }
