package netflow_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"weir/pkg/netflow"
)

// read returns a datagram of the decoder's test data, hex text.
func read(name string) string {
	b, err := os.ReadFile(filepath.Join("..", "..", "internal", "decode", "testdata", name))
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(b))
}

// export sends a template and data.
func export(to net.Addr) {
	c, err := net.Dial("udp", to.String())
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close() }()
	for _, text := range []string{template, data} {
		b, err := hex.DecodeString(text)
		if err != nil {
			panic(err)
		}
		if _, err := c.Write(b); err != nil {
			panic(err)
		}
	}
}

var router = netip.MustParseAddrPort("192.0.2.1:40000")

func TestWhatCannotBeDecodedSaysWhy(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"another protocol", "002a0000", "unknown_version"},
		{"half a header", "00050001", "short"},
		{"nothing", "", "short"},
		{"no hex text", "xyz", "hex text of a datagram"},
	} {
		p, err := netflow.NewParser(nil).ParseHex(tt.text, router, time.Time{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: want %s, got %v", tt.name, tt.want, err)
		}
		var e *netflow.Error
		if tt.text != "xyz" && (!errors.As(err, &e) || e.Cause != tt.want || len(p.Errors) == 0) {
			t.Errorf("%s: %v, %+v", tt.name, err, p)
		}
	}
}

// A v9 options template and its record, laid out by hand (RFC 3954 section 6.1): scope System of 4 octets,
// samplingInterval (34) of 4, and an interface name (82) of 8.
func TestOptionsData(t *testing.T) {
	const text = "0009 0002 00000001 65000000 00000001 00000007" +
		"0001 0016 0101 0004 0008 0001 0004 0022 0004 0052 0008" +
		"0101 0014 00000000 00000064 6574683000000000"
	p, err := netflow.NewParser(nil).ParseHex(text, router, time.Now())
	if err != nil || len(p.Options) != 1 || len(p.Templates) != 1 {
		t.Fatalf("%v, %+v", err, p)
	}
	if p.Version != 9 || p.Uptime != time.Millisecond || p.Exported.Unix() != 0x65000000 || p.Sequence != 1 || p.Domain != 7 {
		t.Errorf("header: %+v", p)
	}
	if tm := p.Templates[0]; !tm.Options || tm.Scopes != 1 || tm.Fields[0].Name != "System" || tm.Fields[2].Name != "interfaceName" {
		t.Errorf("template: %+v", tm)
	}
	v := p.Options[0].Values
	if n, ok := v[1].Uint(); !v[0].Scope || v[1].Scope || n != 100 || !ok || v[2].Text() != "eth0" {
		t.Errorf("values: %+v", v)
	}
	if _, ok := (&netflow.Value{Octets: make([]byte, 9)}).Uint(); ok {
		t.Error("9 octets were accepted as a number")
	}
}

// Parsers of several goroutines share Templates: a template that one of them receives is known to all.
func TestParsersShareTemplates(t *testing.T) {
	known := netflow.NewTemplates(time.Now)
	if _, err := netflow.NewParser(known).ParseHex(template, router, time.Now()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			p := netflow.NewParser(known)
			for range 100 {
				packet, err := p.ParseHex(data, router, time.Now())
				if err != nil || len(packet.Flows) != 24 {
					t.Errorf("%d flows, %v", len(packet.Flows), err)
				}
			}
		})
	}
	wg.Wait()
	other, err := netflow.NewParser(known).ParseHex(data, netip.MustParseAddrPort("192.0.2.2:1"), time.Now())
	if err != nil || len(other.Flows) != 0 || len(other.Undecoded) != 1 || other.Undecoded[0].TemplateID != 260 {
		t.Errorf("another exporter: %d flows, %d sets, %v", len(other.Flows), len(other.Undecoded), err)
	}
}

func TestAPacketDoesNotAliasItsDatagram(t *testing.T) {
	b, err := hex.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	p := netflow.NewParser(nil)
	early, err := p.Parse(b, router, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if _, err := p.ParseHex(template, router, time.Now()); err != nil {
		t.Fatal(err)
	}
	again, err := hex.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	packet, err := p.Parse(again, router, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	was := prototext.Format(packet.Flows[0])
	clear(again)
	if is := prototext.Format(packet.Flows[0]); is != was {
		t.Errorf("a flow changed with its datagram:\n%s\n%s", was, is)
	}
	late, err := early.Undecoded[0].Decode()
	if err != nil || len(late.Flows) != 24 || late.Flows[0].GetBytes() == 0 {
		t.Errorf("%v, %+v", err, late)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"v5_30.hex", "v9_template.hex", "v9_data.hex", "ipfix_template.hex", "ipfix_data.hex"} {
		b, err := hex.DecodeString(read(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := netflow.NewParser(nil)
		packet, err := p.Parse(b, router, time.Unix(1, 0))
		if packet == nil || err != nil && len(packet.Errors) == 0 {
			t.Errorf("%+v, %v", packet, err)
		}
		for i := range packet.Undecoded {
			if _, err := packet.Undecoded[i].Decode(); err == nil {
				t.Error("a set was decoded without a template")
			}
		}
	})
}

// The flow has an uptime of 613 775 597 ms in a datagram of uptime 0: it is 2^32 ms less that value before
// the export, 42.6 days, if such an age is accepted.
func TestTheAgeOfUptimesIsBounded(t *testing.T) {
	b := []byte{0, 5, 0, 1}
	for _, v := range []uint32{0, 1_700_000_000, 0, 1, 0, 0x0a000001, 0x0a000002, 0, 0, 1, 100, 613_775_597, 613_775_597, 0, 0x1100, 0, 0} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	for age, want := range map[time.Duration]uint64{0: 1_700_000_000_000 + 613_775_597 - 1<<32, 24 * time.Hour: 1_700_000_000_000, 1193 * time.Hour: 1_700_000_000_000 + 613_775_597 - 1<<32} {
		p := netflow.NewParser(nil)
		if err := p.SetMaxUptimeAge(age); err != nil {
			t.Fatal(err)
		}
		packet, err := p.Parse(b, netip.MustParseAddrPort("192.0.2.1:9"), time.Unix(1_700_000_000, 0))
		if err != nil || len(packet.Flows) != 1 || packet.Flows[0].TimeFlowStartNs != want*1e6 {
			t.Errorf("age %v: want a flow at %d ms, got %v, %v", age, want, packet, err)
		}
	}
	for _, age := range []time.Duration{-1, time.Minute, 1194 * time.Hour} {
		if err := netflow.NewParser(nil).SetMaxUptimeAge(age); err == nil || !strings.Contains(err.Error(), "want 2m0s to 1193h0m0s") {
			t.Errorf("age %v: want an error with the valid range, got %v", age, err)
		}
	}
}
