package capture

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/wire"
)

func TestParseHex(t *testing.T) {
	bad := func(off int, what string) *wire.Error {
		return &wire.Error{Off: off, What: what, Cause: "bad_hex"}
	}
	tests := []struct {
		name, in, want string
		err            *wire.Error
	}{
		{"lower and upper case", "0a0B", "\x0a\x0b", nil},
		{"white space between octets and digits", " 0 a\t0b\r", "\x0a\x0b", nil},
		{"nothing is no octets", "", "", nil},
		{"white space alone is no octets", " \t\r", "", nil},
		{"one digit", "0", "", bad(0, "second hex digit of an octet")},
		{"an odd number of digits", "0a0b0", "", bad(2, "second hex digit of an octet")},
		{"no digit", "0a0bxx", "", bad(2, "hex digit")},
		{"the first mistake is reported", "0a0g0", "", bad(1, "hex digit")},
		{"a prefix is no digit", "0x0a", "", bad(0, "hex digit")},
		{"the largest payload", strings.Repeat("00", 65527), strings.Repeat("\x00", 65527), nil},
		{"one octet more than UDP carries", strings.Repeat("00", 65528), "", bad(65527, "end of the datagram")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseHex([]byte("kept"), []byte(tt.in))
			if d := cmp.Diff(tt.err, err); d != "" {
				t.Fatalf("error: -want +got\n%s", d)
			}
			if string(got) != "kept"+tt.want {
				t.Errorf("want %q, got %q", "kept"+tt.want, got)
			}
		})
	}
}

func TestALineIsADatagram(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
		bad      int
	}{
		{"the last line needs no end", "61\n62", []string{"a", "b"}, 0},
		{"an end of line does not begin a line", "61\n62\n", []string{"a", "b"}, 0},
		{"an empty line is an empty datagram", "\n61\n\n", []string{"", "a", ""}, 0},
		{"lines of Windows", "61\r\n\r\n62\r\n", []string{"a", "", "b"}, 0},
		{"a bad line spoils itself only", "61\n6\nzz\n62", []string{"a", "", "", "b"}, 2},
		{"a line longer than any buffer", "61\n" + strings.Repeat(" ", 1<<20) + "62\n" + strings.Repeat("0", 1<<20) + "\n63", []string{"a", "b", "", "c"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, stats, err := read([]byte(tt.in), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, payloads(got)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			bad := 0
			for _, d := range got {
				if d.Bad != nil {
					bad++
				}
			}
			if bad != tt.bad || stats.Packets != len(tt.want) {
				t.Errorf("want %d bad of %d, got %d of %d", tt.bad, len(tt.want), bad, stats.Packets)
			}
		})
	}
}

// FuzzParseHex compares ParseHex with encoding/hex, which does not accept white space.
func FuzzParseHex(f *testing.F) {
	for _, s := range []string{"", "0a0b", "0", " 0 A\n", "0g", "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, bad := ParseHex(nil, in)
		dense := bytes.Map(func(r rune) rune {
			if r < 128 && isSpace(byte(r)) {
				return -1
			}
			return r
		}, in)
		want, err := hex.DecodeString(string(dense))
		if len(want) > maxUDP {
			t.Skip("longer than UDP carries")
		}
		if (err != nil) != (bad != nil) {
			t.Fatalf("want error %v, got %v", err, bad)
		}
		if err == nil && !bytes.Equal(want, got) {
			t.Fatalf("want %x, got %x", want, got)
		}
	})
}
