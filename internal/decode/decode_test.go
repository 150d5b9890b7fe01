package decode

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/weirtest/tsv"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// decodeAll reads datagrams of one exporter in order.
func decodeAll(pkts ...[]byte) (flows []*flowpb.FlowMessage, options []OptionsRecord, unknown []Set, errs []wire.Error) {
	d := &Decoder{State: newMemory()}
	for _, p := range pkts {
		var r Result
		d.Read(p, &testMeta, &r)
		flows, options, unknown, errs = append(flows, r.Messages...), append(options, r.Options...), append(unknown, r.Unknown...), append(errs, r.Errors...)
	}
	return flows, options, unknown, errs
}

// Expected outcomes are hand-read from the octets by RFC 3954 and RFC 7011.
func TestDatagrams(t *testing.T) {
	tests := []struct {
		name    string
		pkts    string // hex, one datagram a line
		flows   int
		options int
		unknown int
		causes  []wire.Cause
		check   func(t *testing.T, f []*flowpb.FlowMessage)
	}{
		{name: "an empty datagram is short", pkts: "\n", causes: []wire.Cause{wire.Short}},
		{name: "a cut v9 header is short", pkts: "00090001000003e86553f100", causes: []wire.Cause{wire.Short}},
		{name: "v8 is not decoded", pkts: "0008ffffffff", causes: []wire.Cause{wire.UnknownVersion}},
		{name: "v5 with one record of three stated", pkts: "000500030000000100000001000000010000000100000000" + strings.Repeat("01", 48), flows: 1, causes: []wire.Cause{wire.Truncated}},
		{name: "v5 with octets beyond its count", pkts: "000500010000000100000001000000010000000100000000" + strings.Repeat("01", 50), flows: 1, causes: []wire.Cause{wire.Trailing}},
		{name: "v7 records have 52 octets", pkts: "000700010000000100000001000000010000000100000000" + strings.Repeat("01", 52), flows: 1},
		{name: "a v9 set length of 0 ends the datagram", pkts: "00090001000003e86553f1000000000100000000000000000000000000000000", causes: []wire.Cause{wire.BadLength}},
		{name: "a template without fields is refused", pkts: "00090001000003e86553f10000000001000000000000000801000000\n00090001000003e86553f10000000001000000000100000cffffffffffffffff", unknown: 1, causes: []wire.Cause{wire.BadTemplate}},
		{name: "a template of fields without octets is refused", pkts: "00090001000003e86553f100000000010000000000000010010000020008000000010000", causes: []wire.Cause{wire.BadTemplate}},
		{name: "a field count beyond the set", pkts: "00090001000003e86553f10000000001000000000000000c0100003200080004", causes: []wire.Cause{wire.BadTemplate}},
		{name: "zeros after a template are padding", pkts: "00090001000003e86553f1000000000100000000000000140100000200080004000c0004000000000100000c0a0000010a000002", flows: 1},
		{name: "data before its template in one datagram", pkts: "00090001000003e86553f10000000001000000000100000c0a0000010a000002000000100100000200080004000c0004", flows: 1},
		{name: "a set beyond the datagram gives its whole records", pkts: "00090001000003e86553f1000000000100000000000000100100000200080004000c0004\n00090001000003e86553f1000000000100000000010000640a0000010a0000020a00", flows: 1, causes: []wire.Cause{wire.Truncated}},
		{name: "known data is decoded beside unknown", pkts: "000a001c6553f10000000001000000000002000c0100000100080004\n000a00206553f1000000000100000000010000080a00000103e700080a000001", flows: 1, unknown: 1},
		{
			name: "seconds are those of 1970 to 2106", flows: 1,
			pkts: "000a00206553f100000000010000000000020010010000020096000400970004\n" +
				"000a001c6553f10000000001000000000100000cfffffffeffffffff",
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if s, e := f[0].TimeFlowStartNs, f[0].TimeFlowEndNs; s != 4_294_967_294e9 || e != 4_294_967_295e9 {
					t.Errorf("want the last two seconds before 2106-02-07 06:28:16, got %d to %d ns", s, e)
				}
			},
		},
		{name: "a reserved set is skipped", pkts: "000a00186553f10000000001000000000004000800000000", causes: []wire.Cause{wire.ReservedSet}},
		{name: "a withdrawal over UDP is ignored", pkts: "000a001c6553f10000000001000000000002000c0100000100080004\n000a00186553f10000000001000000000002000801000000\n000a00186553f1000000000100000000010000080a000001", flows: 1, causes: []wire.Cause{wire.Withdrawal}},
		{name: "IPFIX options without scope are refused", pkts: "000a001e6553f10000000001000000000003000e01000001000000290008", causes: []wire.Cause{wire.BadTemplate}},
		{name: "a message length beyond the datagram", pkts: "000a00c86553f10000000001000000000002000c0100000100080004", causes: []wire.Cause{wire.Truncated}},
		{name: "fields without octets are not to make much of nothing", pkts: "00090001000003e86553f1000000000100000000000000300100000a00040001005200000052000000520000005200000052000000520000005200000052000000520000", causes: []wire.Cause{wire.BadTemplate}},
		// Of its fields, the first read as a template 300 of their own.
		{name: "a refused options template is not read from its middle", pkts: "000a00266553f100000000010000000000030016010000030005012c00010001000800040000\n000a00186553f1000000000100000000012c00080a000001", unknown: 1, causes: []wire.Cause{wire.BadTemplate}},
		{
			name: "a direction out of its range is kept raw", pkts: "000a001c6553f10000000001000000000002000c01000001003d0004\n000a00186553f100000000010000000001000008ffffffff", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if len(f[0].Elements) != 1 || f[0].FlowDirection != 0 {
					t.Errorf("got %v", f[0])
				}
			},
		},
		{
			name: "a MAC address of four octets is kept raw", pkts: "000a001c6553f10000000001000000000002000c0100000100380004\n000a00186553f10000000001000000000100000800112233", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if len(f[0].Elements) != 1 || f[0].SrcMac != 0 {
					t.Errorf("got %v", f[0])
				}
			},
		},
		{
			name: "an Ethernet type of 0 says nothing beside an address", pkts: "000a00206553f1000000000100000000000200100100000200080004" + "01000002\n000a001a6553f10000000001000000000100000a0a0000010000", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if f[0].Etype != 0x0800 {
					t.Errorf("want 0x0800, got %#x", f[0].Etype)
				}
			},
		},
		{name: "v9 options of two records", pkts: "00090001000003e86553f10000000001000000000001001401000004000400020002002200040000010000100007000000640008000000c8", options: 2},
		{name: "v9 options with a scope of no octets", pkts: "00090001000003e86553f10000000001000000000001001801000004000800010000002300010022000400000100000c0200000001000000", options: 1},
		{
			name: "reverse elements make a biflow", pkts: "000a00286553f1000000000100000000000200180100000300080004000100048001000400007279\n000a00206553f1000000000100000000010000100a00000100000064000000c8", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if m := f[0]; !m.Biflow || m.Bytes != 100 || m.ReverseBytes != 200 {
					t.Errorf("want biflow 100/200, got %v %d/%d", m.Biflow, m.Bytes, m.ReverseBytes)
				}
			},
		},
		{
			name: "integers of 3 octets", pkts: "000a001c6553f10000000001000000000002000c0100000100010003\n000a00176553f100000000010000000001000007000102", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if f[0].Bytes != 258 {
					t.Errorf("want 258, got %d", f[0].Bytes)
				}
			},
		},
		{
			name: "a variable-length string", pkts: "000a00206553f10000000001000000000002001001000002000800040052ffff\n000a001d6553f10000000001000000000100000d0a0000010465746830", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if f[0].InterfaceName != "eth0" {
					t.Errorf("want eth0, got %q", f[0].InterfaceName)
				}
			},
		},
		{
			name: "an unknown enterprise element is kept raw", pkts: "000a00246553f1000000000100000000000200140100000200080004afcb000400000009\n000a001c6553f10000000001000000000100000c0a00000100000005", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if e := f[0].Elements; len(e) != 1 || e[0].Pen != 9 || e[0].Id != 12235 || string(e[0].Value) != "\x00\x00\x00\x05" {
					t.Errorf("want 9/12235 00000005, got %v", e)
				}
			},
		},
		{
			name: "of a repeated element the first counts and the next is kept raw", pkts: "00090001000003e86553f10000000001000000000000001401000003000100040001000400080004010000100000006f000000de0a000001", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if f[0].Bytes != 111 || len(f[0].Elements) != 1 || f[0].Elements[0].Value[3] != 222 {
					t.Errorf("want 111 and 222 raw, got %d %v", f[0].Bytes, f[0].Elements)
				}
			},
		},
		{
			name: "an address of three octets is kept raw", pkts: "000a001c6553f10000000001000000000002000c0100000100080003\n000a00176553f100000000010000000001000007010203", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if len(f[0].SrcAddr) != 0 || len(f[0].Elements) != 1 {
					t.Errorf("got %v", f[0])
				}
			},
		},
		{
			name: "invalid UTF-8 becomes U+FFFD", pkts: "000a00206553f100000000010000000000020010010000020052000400530002\n000a001a6553f10000000001000000000100000a65746830fffe", flows: 1,
			check: func(t *testing.T, f []*flowpb.FlowMessage) {
				if f[0].InterfaceName != "eth0" || f[0].InterfaceDescription != "\uFFFD" {
					t.Errorf("got %q %q", f[0].InterfaceName, f[0].InterfaceDescription)
				}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var pkts [][]byte
			for line := range strings.SplitSeq(strings.TrimSuffix(tt.pkts, "\n"), "\n") {
				pkts = append(pkts, fromHex(t, line))
			}
			flows, options, unknown, errs := decodeAll(pkts...)
			if len(flows) != tt.flows || len(options) != tt.options || len(unknown) != tt.unknown {
				t.Errorf("flows, options, unknown: want %d %d %d, got %d %d %d", tt.flows, tt.options, tt.unknown, len(flows), len(options), len(unknown))
			}
			var causes []wire.Cause
			for _, e := range errs {
				causes = append(causes, e.Cause)
			}
			if d := cmp.Diff(tt.causes, causes); d != "" {
				t.Errorf("causes (-want +got):\n%s", d)
			}
			if tt.check != nil && len(flows) == tt.flows {
				tt.check(t, flows)
			}
		})
	}
}

// Vectors checked by hand. Base: export 1700000000.500 s.
func TestScenario11Instants(t *testing.T) {
	const base = int64(1_700_000_000_500_000_000)
	ms := int64(1e6)
	for _, tt := range []struct {
		name      string
		uptime, t uint32
		want      int64 // against export
	}{
		{"a wrap between start and header", 100, 0xfffffff0, -116 * ms},
		{"a little before the header", 100, 5, -95 * ms},
		{"stamped 400 ms after the header", 1000, 1400, 400 * ms},
		{"half the range is an age: 24 d 20 h 31 m 23.664 s", 16, 0x80000000, -(24*86400+20*3600+31*60+23)*1000*ms - 664*ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := -age(tt.uptime, tt.t) * ms; got != tt.want {
				t.Errorf("want %d, got %d", tt.want, got)
			}
		})
	}
	for _, tt := range []struct {
		name string
		in   uint64
		unit int64
		want int64
	}{
		{"NTP µs, half a second", 0xe8fe6f80_80000000, 1e3, base},
		{"NTP µs, low bits are not counted", 0xe8fe6f80_1f9acffa, 1e3, 1_700_000_000_123_456_000},
		{"NTP µs, rounded to the nearest", 0xe8fe6f80_1f9ac800, 1e3, 1_700_000_000_123_456_000},
		{"Unix µs where NTP should be", 0x00060a24_18202240, 1e3, 1_700_000_000_123_456_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _ := ntp(tt.in, base, tt.unit); got != tt.want {
				t.Errorf("want %d, got %d", tt.want, got)
			}
		})
	}
}

// Init 1699999000000 ms, uptime at start 999000 and at end 1000000 ms: the flow
// ends with the export, 1700000000 s; wrapped by 2^32 ms both ways.
func TestScenario11IPFIXUptimesUseTheInitTime(t *testing.T) {
	const export = int64(1_700_000_000) * second
	for _, tt := range []struct {
		name   string
		initMs uint64
		source flowpb.TimeSource
		start  int64
		end    int64
	}{
		{"init time as it is", 1_699_999_000_000, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME, export - second, export},
		{"uptime wrapped once since init", 1_699_999_000_000 - 1<<32, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME, export - second, export},
		{"a file read by an exporter that started later", 1_699_999_000_000 + 1<<32, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME, export - second, export},
		{"without init time the duration is kept", 0, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, export - second, export},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := context{header: Header{Version: 10, Export: export}, facts: &noFacts, initMs: tt.initMs}
			start, end, source, _ := c.uptimes(999_000, 1_000_000, true, true, &record{plan: &Plan{}})
			if start != tt.start || end != tt.end || source != tt.source {
				t.Errorf("want %d %d %v, got %d %d %v", tt.start, tt.end, tt.source, start, end, source)
			}
		})
	}
}

func TestSamplingRates(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  uint64
		want uint64
	}{
		{"10 sampled of 10+990", ratio(10+990, 10), 100},
		{"2 of 3 is nearer 2 than 1", ratio(3, 2), 2},
		{"none of some is unknown", ratio(5, 0), 0},
		{"probability 0.01", inverse(0.01), 100},
		{"probability 0 is none", inverse(0), 0},
		{"probability above 1 is none", inverse(1.5), 0},
		{"not a number is none", inverse(math.NaN()), 0},
		{"the greatest rate", possible(1<<32 - 1), 1<<32 - 1},
		{"beyond the greatest rate", possible(1 << 32), 0},
		{"2^33 in 1", ratio(1<<33, 1), 0},
		{"probability 1e-11", inverse(1e-11), 0},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: want %d, got %d", tt.name, tt.want, tt.got)
		}
	}
}

func TestARefusedTemplateSaysWhatAndLeavesTheGoodOneAlone(t *testing.T) {
	_, err := Compile(10, &Template{ID: 256, Options: true, Scopes: 2, Fields: []Field{{ID: 149, Length: 4}}})
	if !errors.Is(err, wire.BadTemplate) || !strings.Contains(err.Error(), "scope count") {
		t.Errorf("got %v", err)
	}
	good := fromHex(t, "000a001c6553f10000000001000000000002000c0100000100080004")
	bad := fromHex(t, "000a001c6553f10000000001000000000002000c0100000900080004")
	data := fromHex(t, "000a00186553f1000000000100000000010000080a000001")
	flows, _, _, _ := decodeAll(good, bad, data)
	if len(flows) != 1 || netip.AddrFrom4([4]byte(flows[0].SrcAddr)).String() != "10.0.0.1" {
		t.Errorf("want 1 flow of 10.0.0.1, got %v", flows)
	}
}

// Counts of every public capture beside those of a structural decoder. That one
// keys templates by port too, so here may be more, never fewer.
func TestRecordCountsOfTheCorpus(t *testing.T) {
	const dir = "../../../shared/corpus"
	index := filepath.Join(dir, "INDEX.tsv")
	if _, err := os.Stat(index); err != nil {
		t.Skipf("SKIPPED: no corpus: %v", err)
	}
	files := 0
	for _, row := range tsv.Read(t, index) {
		file := row.At("file")
		want, err := strconv.Atoi(row.At("records_ref"))
		if err != nil {
			continue
		}
		late, _ := strconv.Atoi(row.At("late_records_ref"))
		path := filepath.Join(dir, "pcap", strings.TrimPrefix(file, "pcap/"))
		if _, err := os.Stat(path); err != nil {
			path += ".pcap"
		}
		if _, err := os.Stat(path); err != nil {
			continue
		}
		files++
		d := &Decoder{State: newMemory()}
		got := 0
		var waiting []Set
		for _, pkt := range captured(t, path) {
			var r Result
			d.Read(pkt, &testMeta, &r)
			got += len(r.Messages) + len(r.Options)
			waiting = append(waiting, r.Unknown...)
		}
		gotLate := 0
		for i := range waiting {
			k := waiting[i].Key()
			if p := d.State.Plan(&k, nil, nil); p != nil {
				var r Result
				d.ReadSet(&waiting[i], p, &r)
				gotLate += len(r.Messages) + len(r.Options)
			}
		}
		if strings.Contains(row.At("features"), "scope-count-0") {
			want -= 1 // its options template without scope is refused, RFC 7011 section 3.4.2.2
		}
		if got+gotLate < want {
			t.Errorf("%s: reference %d records (%d late), got %d (%d late)", file, want, late, got, gotLate)
		}
	}
	if files == 0 {
		t.Error("no capture of the index was found")
	}
	t.Logf("%d captures", files)
}

// Every odd input ends, and gives what Read gives.
func TestOddInputsEnd(t *testing.T) {
	b, err := os.ReadFile("../../../shared/inputs/odd_inputs.json")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	var rows []struct {
		ID      string   `json:"id"`
		Packets []string `json:"packets_hex"`
	}
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		t.Run(row.ID, func(t *testing.T) {
			ds := newDecoders()
			for _, p := range row.Packets {
				same(t, ds, fromHex(t, p))
			}
		})
	}
}
