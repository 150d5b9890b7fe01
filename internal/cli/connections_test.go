package cli

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

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
			StartUnixNs: at("2023-11-14T22:13:20.5Z"), Protocol: 6, Service: "https",
			Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 5}, Port: 40000},
			Responder: &flowpb.Endpoint{Address: []byte{192, 0, 2, 80}, Port: 443, Name: "www.example.net"},
			Forward:   &flowpb.Traffic{Octets: 900, Packets: 9}, Reverse: &flowpb.Traffic{Octets: 123456789, Packets: 12},
			ConnState: flowpb.ConnState_CONN_STATE_SF, DirectionMethod: flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT,
		},
		{
			StartUnixNs: at("2023-11-14T22:13:21Z"), Protocol: 58, IcmpType: proto.Uint32(128), IcmpCode: proto.Uint32(0),
			Initiator: &flowpb.Endpoint{Address: []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, Port: 128},
			Responder: &flowpb.Endpoint{Address: []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, Port: 129},
			Forward:   &flowpb.Traffic{Octets: 56, Packets: 1}, DirectionMethod: flowpb.DirectionMethod_DIRECTION_METHOD_ICMP,
		},
		{Protocol: 250},
	}
	want := `start (UTC)              initiator          responder                       proto/service    packets  octets  packets back  octets back  state  direction by
2023-11-14 22:13:20.500  10.0.0.5:40000  →  192.0.2.80:443 www.example.net  tcp/https              9     900            12    123456789  SF     SERVICE_PORT
2023-11-14 22:13:21.000  2001:db8::1     →  2001:db8::2                     ipv6-icmp/128.0        1      56             -            -  -      ICMP
-                        ?               →  ?                               proto-250              -       -             -            -  -      -
`
	var b strings.Builder
	if err := writeTable(&b, list); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("want\n%s\ngot\n%s", want, b.String())
	}
}

func TestNamesCannotControlATerminal(t *testing.T) {
	c := &flowpb.Connection{Protocol: 6, Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 5}, Name: "\x1b[31mred"}}
	var b strings.Builder
	if err := writeTable(&b, []*flowpb.Connection{c}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), `"\x1b[31mred"`) {
		t.Errorf("got %q", b.String())
	}
}

func TestPairingSettingsComeFromTheEnvironment(t *testing.T) {
	c, err := pairConfig([]string{"PAIR_IDLE=10s", "IDLE=1h", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Idle != 10*time.Second || c.Linger != 5*time.Second {
		t.Errorf("want IDLE 10s and the default LINGER 5s, got %v and %v", c.Idle, c.Linger)
	}
	if _, err := pairConfig([]string{"PAIR_IDLE=soon"}); err == nil || !strings.Contains(err.Error(), "soon") {
		t.Errorf("want an error that names the value, got %v", err)
	}
}

