package report

import (
	"encoding/json"
	"math"
	"strconv"

	"weir/internal/cli/console"
)

// A jsonLine builds a JSON value and inserts the commas. 64-bit integers are written exactly, never through a
// float64.
type jsonLine []byte

// next writes the comma before a value that is not the first in its array or object.
func (j *jsonLine) next() {
	if n := len(*j); n > 0 {
		switch (*j)[n-1] {
		case '{', '[', ':':
		default:
			*j = append(*j, ',')
		}
	}
}

func (j *jsonLine) open(bracket byte) {
	j.next()
	*j = append(*j, bracket)
}

func (j *jsonLine) close(bracket byte) { *j = append(*j, bracket) }

func (j *jsonLine) key(name string) {
	j.text(name)
	*j = append(*j, ':')
}

func (j *jsonLine) uint(n uint64) {
	j.next()
	*j = strconv.AppendUint(*j, n, 10)
}

func (j *jsonLine) int(n int64) {
	j.next()
	*j = strconv.AppendInt(*j, n, 10)
}

func (j *jsonLine) bool(b bool) {
	j.next()
	*j = strconv.AppendBool(*j, b)
}

func (j *jsonLine) null() {
	j.next()
	*j = append(*j, "null"...)
}

// float writes a number. Infinities and NaN, which JSON numbers cannot represent (RFC 8259 section 6), become
// strings.
func (j *jsonLine) float(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		j.text(strconv.FormatFloat(f, 'g', -1, 64))
		return
	}
	j.next()
	*j = strconv.AppendFloat(*j, f, 'g', -1, 64)
}

// text writes a string. Octets that are not UTF-8 are replaced by U+FFFD.
func (j *jsonLine) text(s string) {
	j.next()
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			b, err := json.Marshal(s)
			if err != nil {
				panic(err) // cannot happen: a string always marshals
			}
			*j = append(*j, console.EscapeJSON(b)...)
			return
		}
	}
	*j = append(*j, '"')
	*j = append(*j, s...)
	*j = append(*j, '"')
}
