package pynetflow

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func line(header, flows string) []byte {
	return []byte(`{"1700000000.25": {"client": ["192.0.2.1", 40000], "header": ` + header + `, "flows": ` + flows + `}}`)
}

// The expected octets are laid out by hand from RFC 3954 sections 5 and 8 and RFC 7011 sections 3.1 to 3.4.
func TestDatagrams(t *testing.T) {
	const v9 = `{"version": 9, "count": 1, "uptime": 3, "timestamp": 4, "sequence": 5, "source_id": 6}`
	const ipfix = `{"version": 10, "length": 1, "export_uptime": 3, "sequence_number": 4, "obervation_domain_id": 5}`
	for _, tt := range []struct {
		name          string
		header, flows string
		want          []string // hex, in words
		left          []string
	}{
		{"v9", v9, `[{"IPV4_SRC_ADDR": "10.0.0.1", "IN_BYTES": 7}]`, []string{
			"0009 0002 00000003 00000004 00000005 00000006" + "0000 0010 0100 0002 0001 0004 0008 0004" + "0100 000c 00000007 0a000001",
		}, nil},
		{"v9: a long number, a MAC address, a field that is not known", v9, `[{"IN_BYTES": 4294967296, "IN_SRC_MAC": 255, "UNKNOWN_FIELD_TYPE": 1}]`, []string{
			"0009 0002 00000003 00000004 00000005 00000006" + "0000 0010 0100 0002 0001 0008 0038 0006" + "0100 0012 0000000100000000 0000000000ff",
		}, []string{"UNKNOWN_FIELD_TYPE"}},
		{"v9: a text that looks like an address", v9, `[{"IF_NAME": "10.0.0.1", "IPV4_DST_ADDR": "10.0.0.2"}]`, []string{
			"0009 0002 00000003 00000004 00000005 00000006" + "0000 0010 0100 0002 000c 0004 0052 0008" +
				"0100 0010 0a000002 31302e302e302e31",
		}, nil},
		{"v9: a counter beyond 64 bits", v9, `[{"IN_BYTES": 18446744073709551616}]`, []string{
			"0009 0002 00000003 00000004 00000005 00000006" + "0000 000c 0100 0001 0001 0008" + "0100 000c ffffffffffffffff",
		}, nil},
		{"IPFIX: a counter beyond 64 bits", ipfix, `[{"octetDeltaCount": 1000000000000000000000000}]`, []string{
			"000a 0028 00000003 00000004 00000005" + "0002 000c 0100 0001 0001 0008" + "0100 000c ffffffffffffffff",
		}, nil},
		{"IPFIX: an address is a number, a time a list, a text a text", ipfix, `[{"sourceIPv4Address": 167772161, "flowStartMicroseconds": [1, 2], "userName": "ab"}]`, []string{
			"000a 0036 00000003 00000004 00000005" + "0002 0014 0100 0003 0008 0004 009a 0008 0173 0002" + "0100 0012 0a000001 0000000100000002 6162",
		}, nil},
		{"IPFIX: a truth", ipfix, `[{"dataRecordsReliability": false}, {"dataRecordsReliability": true}]`, []string{
			"000a 0032 00000003 00000004 00000005" + "0002 000c 0100 0001 0114 0001" + "0100 0005 02" + "0002 000c 0101 0001 0114 0001" + "0101 0005 01",
		}, nil},
		{"v5", `{"version": 5, "count": 1, "uptime": 1, "timestamp": 2, "timestamp_nano": 3, "sequence": 4, "engine_type": 5, "engine_id": 6, "sampling_interval": 7}`,
			`[{"IPV4_SRC_ADDR": 167772161, "IPV4_DST_ADDR": 167772162, "NEXT_HOP": 0, "INPUT": 1, "OUTPUT": 2, "IN_PACKETS": 3, "IN_OCTETS": 4, "FIRST_SWITCHED": 5, "LAST_SWITCHED": 6,
			"SRC_PORT": 7, "DST_PORT": 8, "TCP_FLAGS": 9, "PROTO": 10, "TOS": 11, "SRC_AS": 12, "DST_AS": 13, "SRC_MASK": 14, "DST_MASK": 15}]`, []string{
				"0005 0001 00000001 00000002 00000003 00000004 05 06 0007" + "0a000001 0a000002 00000000 0001 0002 00000003 00000004 00000005 00000006 0007 0008 00 09 0a 0b 000c 000d 0e 0f 0000",
			}, nil},
		{"no flows", v9, `[]`, nil, nil},
	} {
		e, err := Parse(line(tt.header, tt.flows))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got, want []string
		for _, d := range e.Datagrams {
			got = append(got, hex.EncodeToString(d))
		}
		for _, w := range tt.want {
			want = append(want, strings.ReplaceAll(w, " ", ""))
		}
		if !slices.Equal(got, want) || !slices.Equal(e.LeftOut, tt.left) {
			t.Errorf("%s:\nwant %v, left out %v\ngot  %v, left out %v", tt.name, want, tt.left, got, e.LeftOut)
		}
		if e.From != netip.MustParseAddrPort("192.0.2.1:40000") || !e.Received.Equal(time.Unix(1700000000, 250e6)) {
			t.Errorf("%s: from %v at %v", tt.name, e.From, e.Received)
		}
	}
}

func TestManyFlowsAreSeveralDatagrams(t *testing.T) {
	flows := strings.TrimSuffix(strings.Repeat(`{"IN_BYTES": 1},`, 2000), ",")
	e, err := Parse(line(`{"version": 9}`, "["+flows+"]"))
	if err != nil || len(e.Datagrams) != 2 { // 20 octets of each flow, 32 KiB in the first
		t.Fatalf("%d datagrams, %v", len(e.Datagrams), err)
	}
	for _, d := range e.Datagrams {
		if len(d) > 65535 {
			t.Errorf("%d octets", len(d))
		}
	}
}

func TestLinesThatAreNot(t *testing.T) {
	for text, want := range map[string]string{
		`{"a": {}}`:                              `"a" is not a time`,
		`{"1": {}}`:                              "client: want",
		`{"1": {}, "2": {}}`:                     "2 members",
		`{"1": {"client": ["x", 1]}}`:            "client: ",
		`{"1": {"client": ["10.0.0.1", 70000]}}`: "client: port",
		`{"1": {"client": ["10.0.0.1", 1], "header": {"version": 7}}}`:      `version "7"`,
		string(line(`{"version": 9, "uptime": 4294967296}`, `[]`)):          "header: uptime",
		string(line(`{"version": 9}`, `[{"IN_BYTES": -1}]`)):                "flow 1: IN_BYTES: -1 is below 0",
		string(line(`{"version": 9}`, `[{"IN_BYTES": 1.5}]`)):               "flow 1: IN_BYTES: 1.5 is not a whole number",
		string(line(`{"version": 9}`, `[{"IN_BYTES": null}]`)):              "is not a value",
		string(line(`{"version": 9}`, `[{"IN_SRC_MAC": 281474976710656}]`)): "does not fit 6 octets",
		string(line(`{"version": 5}`, `[{"PROTO": 6}]`)):                    "flow 1: IPV4_SRC_ADDR: want a number",
		`[]`: "not a line of the Python collector",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", text, want, err)
		}
	}
	for text, want := range map[string]bool{`{"1.5": {}}`: true, `{"1.5": 1}`: false, `{"a": {}}`: false, `{"1": {}, "2": {}}`: false, `{`: false} {
		if IsEntry([]byte(text)) != want {
			t.Errorf("IsEntry(%s): want %v", text, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(line(`{"version": 9, "count": 1}`, `[{"IPV4_SRC_ADDR": "10.0.0.1", "IN_BYTES": 7}]`))
	f.Add(line(`{"version": 10}`, `[{"sourceIPv6Address": 1, "flowStartMicroseconds": [1, 2], "userName": "ab"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		for _, d := range e.Datagrams {
			if len(d) > 65535 || err != nil {
				t.Errorf("%d octets, %v", len(d), err)
			}
		}
	})
}

// A number longer than any value must be rejected by its number of digits: parsing a million digits takes seconds.
func TestLongNumbersAreNotRead(t *testing.T) {
	const v9 = `{"version": 9, "count": 1, "uptime": 3, "timestamp": 4, "sequence": 5, "source_id": 6}`
	for digits, want := range map[int]string{
		3612:      "",                           // 10^3612 - 1 has 11999 bits
		3613:      "a number of 12003 bits",     // 10^3613 - 1
		1_000_000: "a number of 1000000 digits", // rejected without parsing
	} {
		_, err := Parse(line(v9, `[{"APPLICATION_NAME": `+strings.Repeat("9", digits)+`}]`))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d digits: want %q, got %v", digits, want, err)
		}
	}
}

func TestEachAddressOfV9IsAnAddress(t *testing.T) {
	for name, id := range v9Names {
		if !strings.Contains(name, "_ADDR") && !strings.Contains(name, "NEXT_HOP") {
			continue
		}
		text, want := "10.0.0.1", 4
		if strings.Contains(name, "IPV6") {
			text, want = "2001:db8::1", 16
		}
		if b, err := value(9, id, text); err != nil || len(b) != want {
			t.Errorf("%s: %x, %v; want %d octets", name, b, err, want)
		}
	}
}
