package report

import (
	"encoding/hex"
	"testing"

	"weir/internal/ie"
)

func TestReadValue(t *testing.T) {
	tests := []struct {
		name   string
		typ    ie.Type
		octets string // hex
		json   string
		text   string
	}{
		{"unsigned of reduced size", ie.Unsigned, "000102", `258`, "258"},
		{"unsigned of eight octets", ie.Unsigned, "ffffffffffffffff", `18446744073709551615`, "18446744073709551615"},
		{"nine octets are no integer", ie.Unsigned, "000000000000000001", `"000000000000000001"`, "000000000000000001"},
		{"no octets are nothing", ie.Unsigned, "", `null`, "-"},
		{"signed", ie.Signed, "fffffffe", `-2`, "-2"},
		{"signed of reduced size is extended", ie.Signed, "80", `-128`, "-128"},
		{"signed of eight octets", ie.Signed, "8000000000000000", `-9223372036854775808`, "-9223372036854775808"},
		{"float64", ie.Float, "3fe0000000000000", `0.5`, "0.5"},
		{"float32", ie.Float, "3e800000", `0.25`, "0.25"},
		{"a float that JSON has no number for", ie.Float, "7ff0000000000000", `"+Inf"`, "+Inf"},
		{"1 is true", ie.Boolean, "01", `true`, "true"},
		{"2 is false", ie.Boolean, "02", `false`, "false"},
		{"0 is no boolean", ie.Boolean, "00", `"00"`, "00"},
		{"text without its padding", ie.String, "6574683000000000", `"eth0"`, "eth0"},
		{"empty text", ie.String, "0000", `""`, `""`},
		{"what is no UTF-8 is replaced", ie.String, "61ff", `"a` + "\uFFFD" + `"`, "a\uFFFD"},
		{"MAC", ie.MacAddress, "001122334455", `"00:11:22:33:44:55"`, "00:11:22:33:44:55"},
		{"a MAC of eight octets is raw", ie.MacAddress, "0011223344556677", `"0011223344556677"`, "0011223344556677"},
		{"IPv4", ie.IPv4, "0a000001", `"10.0.0.1"`, "10.0.0.1"},
		{"IPv6", ie.IPv6, "20010db8000000000000000000000001", `"2001:db8::1"`, "2001:db8::1"},
		{"an address of another length is raw", ie.IPv4, "010203", `"010203"`, "010203"},
		{"octets", ie.OctetArray, "00ff", `"00ff"`, "00ff"},
		{"seconds", ie.Seconds, "6553f100", `1700000000`, "2023-11-14T22:13:20Z"},
		{"milliseconds", ie.Milliseconds, "0000018bcfe569f4", `1700000000500`, "2023-11-14T22:13:20.5Z"},
		// RFC 5905 section 6: seconds since 1900, e8fe6f80h are 1700000000 of Unix.
		{"NTP microseconds", ie.Microseconds, "e8fe6f8080000000", `16788979058577768448`, "2023-11-14T22:13:20.5Z"},
		{"a time before 1970 is a number", ie.Nanoseconds, "00000000000000de", `222`, "222"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.octets)
			if err != nil {
				t.Fatal(err)
			}
			v := readValue(tt.typ, b)
			var j jsonLine
			v.json(&j)
			if string(j) != tt.json || v.String() != tt.text {
				t.Errorf("want %s and %s, got %s and %s", tt.json, tt.text, j, v)
			}
		})
	}
}

func FuzzReadValue(f *testing.F) {
	f.Add(uint8(ie.Float), []byte{0x7f, 0xf0, 0, 0, 0, 0, 0, 1})
	f.Add(uint8(ie.Milliseconds), []byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, typ uint8, b []byte) {
		v := readValue(ie.Type(typ%uint8(ie.List+1)), b)
		var j jsonLine
		v.json(&j)
		if len(j) == 0 || v.String() == "" {
			t.Fatalf("type %d of %x: %q and %q", typ, b, j, v)
		}
	})
}
