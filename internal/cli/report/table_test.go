package report

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/console"
	"weir/pkg/flowpb"
)

func TestTable(t *testing.T) {
	at := func(s string) int64 {
		u, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return u.UnixNano()
	}
	list := []*flowpb.Connection{
		{
			StartUnixNs: at("2023-11-14T22:13:20.5Z"), EndUnixNs: at("2023-11-14T22:28:47.5Z"), Protocol: 6, Service: "https",
			Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 5}, Port: 40000},
			Responder: &flowpb.Endpoint{Address: []byte{192, 0, 2, 80}, Port: 443, Name: "www.example.net"},
			Forward:   &flowpb.Traffic{Octets: 900, Packets: 9}, Reverse: &flowpb.Traffic{Octets: 123456789, Packets: 12},
			ConnState: flowpb.ConnState_CONN_STATE_SF, DirectionMethod: flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT,
		},
		{
			StartUnixNs: at("2023-11-14T22:13:21Z"), EndUnixNs: at("2023-11-14T22:13:21Z"), Protocol: 58, IcmpType: proto.Uint32(128), IcmpCode: proto.Uint32(0),
			Initiator: &flowpb.Endpoint{Address: []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, Port: 128},
			Responder: &flowpb.Endpoint{Address: []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, Port: 129},
			Forward:   &flowpb.Traffic{Octets: 56, Packets: 1}, DirectionMethod: flowpb.DirectionMethod_DIRECTION_METHOD_ICMP,
		},
		{Protocol: 250},
	}
	for _, tt := range []struct {
		form Form
		want string
	}{
		{Wide, `start (UTC)              initiator          responder                       proto/service    packets  octets  packets back  octets back   duration  state  direction by
2023-11-14 22:13:20.500  10.0.0.5:40000  →  192.0.2.80:443 www.example.net  tcp/https              9     900            12    123456789  15:27 min  SF     SERVICE_PORT
2023-11-14 22:13:21.000  2001:db8::1     →  2001:db8::2                     ipv6-icmp/128.0        1      56             -            -      0.0 s  -      ICMP
-                        ?               →  ?                               proto-250              -       -             -            -          -  -      -
`},
		{Brief, `start (UTC)              service            size   duration  packets  hosts
2023-11-14 22:13:20.500  tcp/https        123 MB  15:27 min       21  10.0.0.5 to 192.0.2.80 (www.example.net)
2023-11-14 22:13:21.000  ipv6-icmp/128.0    56 B      0.0 s        1  2001:db8::1 to 2001:db8::2                no answer seen
-                        proto-250           0 B          -        0  ? to ?                                    answers only
`},
		{CSV, `start,end,duration_s,protocol,service,initiator_address,initiator_port,initiator_name,responder_address,responder_port,responder_name,forward_octets,forward_packets,reverse_octets,reverse_packets,icmp_type,icmp_code,conn_state,direction_method,emit_reason,version,community_id,connection_id
2023-11-14T22:13:20.5Z,2023-11-14T22:28:47.5Z,927,tcp,https,10.0.0.5,40000,,192.0.2.80,443,www.example.net,900,9,123456789,12,,,SF,SERVICE_PORT,,0,,
2023-11-14T22:13:21Z,2023-11-14T22:13:21Z,0,ipv6-icmp,,2001:db8::1,,,2001:db8::2,,,56,1,,,128,0,,ICMP,,0,,
,,0,proto-250,,,,,,,,,,,,,,,,,0,,
`},
	} {
		var b strings.Builder
		p := NewConnectionPrinter(&b, tt.form)
		p.PrintAll(list)
		if d := cmp.Diff(tt.want, b.String()); d != "" || p.Err() != nil {
			t.Errorf("form %d: -want +got\n%s%v", tt.form, d, p.Err())
		}
	}
}

func TestNamesCannotControlATerminalOrASpreadsheet(t *testing.T) {
	for _, tt := range []struct{ name, table, csv string }{
		{"\x1b[31mred", `"\x1b[31mred"`, `"""\x1b[31mred"""`},
		{"=HYPERLINK(x)", `"=HYPERLINK(x)"`, `"""=HYPERLINK(x)"""`},
		{"-1", "-1", `"""-1"""`},
		{"a\nb", `"a\nb"`, `"""a\nb"""`},
	} {
		c := &flowpb.Connection{Protocol: 6, Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 5}, Name: tt.name}}
		for form, want := range map[Form]string{Brief: tt.table, Wide: tt.table, CSV: tt.csv} {
			var b strings.Builder
			NewConnectionPrinter(&b, form).PrintAll([]*flowpb.Connection{c})
			if strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), want) || strings.Count(b.String(), "\n") != 2 {
				t.Errorf("form %d: want %s, got %q", form, want, b.String())
			}
		}
	}
}

func TestATerminalGetsColoursAndItsWidth(t *testing.T) {
	var b strings.Builder
	g := newGrid(&b, []column{{name: "a", colour: green}, {name: "n", numeric: true}, {name: "rest"}}, console.Look{Width: 14, Colours: true})
	if err := g.row([]string{"x", "7", "0123456789"}); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[32mx\x1b[0m  7  0123456…\n"; b.String() != want {
		t.Errorf("want %q, got %q", want, b.String())
	}
}

func TestSizesAndDurationsForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 9994: "9.99 kB", 9996: "10.0 kB", 99960: "100 kB", 999499: "999 kB", 999500: "1.00 MB", 123456789: "123 MB", 1<<64 - 1: "18.4 EB"} {
		if got := FormatOctets(n); got != want {
			t.Errorf("%d: want %s, got %s", n, want, got)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 250 * time.Millisecond: "0.2 s", 59940 * time.Millisecond: "59.9 s", 59990 * time.Millisecond: "1:00 min", 927 * time.Second: "15:27 min",
		3599600 * time.Millisecond: "1:00:00 h", 26*time.Hour + 62*time.Second: "1 d 2:01 h", -time.Second: "-",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%v: want %s, got %s", d, want, got)
		}
	}
}
