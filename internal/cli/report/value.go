package report

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"weir/internal/cli/console"
	"weir/internal/ie"
)

// A value holds the octets of a field, decoded by the data type of its element (RFC 7011 section 6.1). Octets of a
// length that the type does not allow, and types without a readable form, become hexadecimal text.
type value struct {
	kind   valueKind
	number uint64 // kinds unsigned and bool; signed and float: the bits
	text   string // kind text
	typ    ie.Type
	raw    bool // text holds the octets in hexadecimal
}

type valueKind uint8

const (
	isText valueKind = iota
	isUnsigned
	isSigned
	isFloat
	isBool
	isNothing // no octets
)

// readValue decodes octets. A number of at most 8 octets may have reduced-size encoding (RFC 7011 section 6.2).
func readValue(t ie.Type, b []byte) value {
	v := value{typ: t}
	switch n := len(b); t {
	case ie.Unsigned, ie.Seconds, ie.Milliseconds, ie.Microseconds, ie.Nanoseconds:
		if n >= 1 && n <= 8 {
			v.kind, v.number = isUnsigned, bigEndian(b)
			return v
		}
	case ie.Signed:
		if n >= 1 && n <= 8 {
			shift := 64 - 8*n
			v.kind, v.number = isSigned, uint64(int64(bigEndian(b)<<shift)>>shift)
			return v
		}
	case ie.Float:
		switch n {
		case 4:
			v.kind, v.number = isFloat, math.Float64bits(float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
			return v
		case 8:
			v.kind, v.number = isFloat, binary.BigEndian.Uint64(b)
			return v
		}
	case ie.Boolean: // RFC 7011 section 6.1.5: 1 is true, 2 is false
		if n == 1 && (b[0] == 1 || b[0] == 2) {
			v.kind, v.number = isBool, uint64(2-b[0])
			return v
		}
	case ie.String:
		v.text = strings.ToValidUTF8(strings.TrimRight(string(b), "\x00"), "\uFFFD")
		return v
	case ie.MacAddress:
		if n == 6 {
			v.text = macText(b)
			return v
		}
	case ie.IPv4, ie.IPv6:
		if n == 4 && t == ie.IPv4 || n == 16 && t == ie.IPv6 {
			v.text = addressText(b)
			return v
		}
	}
	if len(b) == 0 {
		v.kind = isNothing
		return v
	}
	v.text, v.raw = hex.EncodeToString(b), true
	return v
}

// json writes v. Times are written as the number in the record.
func (v value) json(j *jsonLine) {
	switch v.kind {
	case isText:
		j.text(v.text)
	case isUnsigned:
		j.uint(v.number)
	case isSigned:
		j.int(int64(v.number))
	case isFloat:
		j.float(math.Float64frombits(v.number))
	case isBool:
		j.bool(v.number == 1)
	case isNothing:
		j.null()
	}
}

// String formats v for people; times are printed as instants.
func (v value) String() string {
	switch v.kind {
	case isUnsigned:
		if t, ok := v.instant(); ok {
			return timeText(t)
		}
		return strconv.FormatUint(v.number, 10)
	case isSigned:
		return strconv.FormatInt(int64(v.number), 10)
	case isFloat:
		return strconv.FormatFloat(math.Float64frombits(v.number), 'g', -1, 64)
	case isBool:
		return strconv.FormatBool(v.number == 1)
	case isNothing:
		return "-"
	default:
		return console.Quote(v.text)
	}
}

// instant returns the time of a dateTime element, RFC 7011 sections 6.1.7 to 6.1.10. ok is false for other types
// and for times out of range.
func (v value) instant() (t time.Time, ok bool) {
	switch v.typ {
	case ie.Seconds:
		return time.Unix(int64(v.number), 0), v.number <= math.MaxUint32
	case ie.Milliseconds:
		return time.UnixMilli(int64(v.number)), v.number <= math.MaxInt64/1_000_000
	case ie.Microseconds, ie.Nanoseconds:
		const unixEpoch = 2_208_988_800 // 1970 in NTP seconds, RFC 5905 section 6
		nanos := (v.number & math.MaxUint32 * 1e9) >> 32
		return time.Unix(int64(v.number>>32)-unixEpoch, int64(nanos)), v.number>>32 >= unixEpoch
	}
	return time.Time{}, false
}

func hexText(b []byte) string { return hex.EncodeToString(b) }

func bigEndian(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// addressText formats an address of 4 or 16 octets; other lengths become hexadecimal text.
func addressText(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return hex.EncodeToString(b)
}

// macText formats octets as aa:bb:cc:dd:ee:ff.
func macText(b []byte) string {
	var s strings.Builder
	for i, c := range b {
		if i > 0 {
			s.WriteByte(':')
		}
		s.WriteString(hex.EncodeToString([]byte{c}))
	}
	return s.String()
}

func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999999Z") }
