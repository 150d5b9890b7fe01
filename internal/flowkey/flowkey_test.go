package flowkey

import (
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

func addr(s string) [16]byte { return netip.MustParseAddr(s).As16() }

func tuple(src, dst string, proto uint8, sport, dport uint16) Tuple {
	t := Tuple{Src: addr(src), Dst: addr(dst), Proto: proto, SrcPort: sport, DstPort: dport}
	if proto == ICMP || proto == ICMPv6 {
		t.ICMPType, t.ICMPCode, t.SrcPort, t.DstPort = uint8(sport), uint8(dport), 0, 0
	}
	return t
}

// Vectors: the baseline of the Community ID specification.
func TestCommunityIDs(t *testing.T) {
	tests := []struct {
		name string
		in   Tuple
		seed uint16
		want string
	}{
		{"TCP", tuple("1.2.3.4", "5.6.7.8", TCP, 1122, 3344), 0, "1:wCb3OG7yAFWelaUydu0D+125CLM="},
		{"TCP reversed", tuple("5.6.7.8", "1.2.3.4", TCP, 3344, 1122), 0, "1:wCb3OG7yAFWelaUydu0D+125CLM="},
		{"TCP with seed 1", tuple("1.2.3.4", "5.6.7.8", TCP, 1122, 3344), 1, "1:HhA1B+6CoLbiKPEs5nhNYN4XWfk="},
		{"UDP", tuple("1.2.3.4", "5.6.7.8", UDP, 1122, 3344), 0, "1:0Mu9InQx6z4ZiCZM/7HXi2WMhOg="},
		{"SCTP", tuple("1.2.3.4", "5.6.7.8", SCTP, 1122, 3344), 0, "1:EKt4MsxuyaE6mL+hmrEkQ9csDD8="},
		{"ICMP echo", tuple("1.2.3.4", "5.6.7.8", ICMP, 8, 0), 0, "1:crodRHL2FEsHjbv3UkRrfbs4bZ0="},
		{"ICMP echo reply", tuple("5.6.7.8", "1.2.3.4", ICMP, 0, 0), 0, "1:crodRHL2FEsHjbv3UkRrfbs4bZ0="},
		{"ICMP one-way", tuple("1.2.3.4", "5.6.7.8", ICMP, 11, 0), 0, "1:f/YiSyWqczrTgfUCZlBUnvHRcPk="},
		{"ICMPv6 echo", tuple("fe80:1:203:405:607:809:a0b:c0d", "fe80:1011:1213:1415:1617:1819:1a1b:1c1d", ICMPv6, 128, 0), 0, "1:0bf7hyMJUwt3fMED7z8LIfRpBeo="},
		{"ICMPv6 one-way", tuple("fe80:1:203:405:607:809:a0b:c0d", "fe80:1011:1213:1415:1617:1819:1a1b:1c1d", ICMPv6, 146, 0), 0, "1:fYC8+pz24E+EhANP1EZhpX0Dw10="},
		{"RSVP has no ports", tuple("1.2.3.4", "5.6.7.8", 46, 7, 9), 0, "1:ikv3kmf89luf73WPz1jOs49S768="},
		{"DNS", tuple("192.168.1.52", "8.8.8.8", UDP, 54585, 53), 0, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{"TCP over IPv6", tuple("2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", TCP, 63943, 25), 0, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, _ := tt.in.Canon()
			if got := k.CommunityID(tt.seed); got != tt.want {
				t.Errorf("want %s, got %s", tt.want, got)
			}
		})
	}
}

// The test checks all rows of the baseline of the Community ID specification.
func TestScenario25CommunityIDsOfTheBaseline(t *testing.T) {
	text, err := os.ReadFile("testdata/community_id.tsv")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.TrimSpace(line), "\t")
		number := func(s string) uint16 {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil && s != "-" {
				t.Fatal(err)
			}
			return uint16(n)
		}
		proto := uint8(number(f[0]))
		in := tuple(f[1], f[2], proto, number(f[3]), number(f[4]))
		if _, answered := Counterpart(proto, in.ICMPType); answered {
			in.ICMPCode = 0 // the column has the type that answers
		}
		seed, isHex := uint16(0), f[5] == "hex"
		if !isHex {
			seed = number(f[5])
		}
		k, _ := in.Canon()
		got := k.CommunityID(seed)
		if isHex {
			sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(got, "1:"))
			if err != nil {
				t.Fatal(err)
			}
			got = "1:" + hex.EncodeToString(sum)
		}
		if got != f[6] {
			t.Errorf("%s: got %s", strings.TrimSpace(line), got)
		}
		rows++
	}
	if rows != 69 {
		t.Errorf("want 69 rows, got %d", rows)
	}
}

func TestRecordKeys(t *testing.T) {
	tests := []struct {
		name    string
		in      Tuple
		want    string // hex
		srcIsLo bool
	}{
		{"IPv4 TCP", tuple("10.0.0.1", "10.0.0.2", TCP, 50000, 443), "060a0000010a000002c35001bb", true},
		{"IPv4 TCP reversed", tuple("10.0.0.2", "10.0.0.1", TCP, 443, 50000), "060a0000010a000002c35001bb", false},
		{"equal addresses are put in order by port", tuple("10.0.0.1", "10.0.0.1", TCP, 443, 80), "060a0000010a000001005001bb", false},
		{"protocols without ports have zero ports", tuple("10.0.0.2", "10.0.0.1", 47, 5, 6), "2f0a0000010a00000200000000", false},
		{"echo reply meets its request", tuple("10.0.0.1", "10.0.0.2", ICMP, 0, 0), "010a0000010a00000200000008", true},
		{"one-way ICMP is not put in order", tuple("10.0.0.2", "10.0.0.1", ICMP, 3, 1), "010a0000020a00000100030001", true},
		{"IPv6", tuple("2001:db8::2", "2001:db8::1", UDP, 1, 2), "1120010db800000000000000000000000120010db800000000000000000000000200020001", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, srcIsLo := tt.in.Canon()
			if got := hex.EncodeToString(k.Append(nil)); got != tt.want {
				t.Errorf("want %s, got %s", tt.want, got)
			}
			if srcIsLo != tt.srcIsLo {
				t.Errorf("source is lo: want %v, got %v", tt.srcIsLo, srcIsLo)
			}
		})
	}
}

func TestKeysAllocateNothing(t *testing.T) {
	in := tuple("10.0.0.1", "10.0.0.2", TCP, 50000, 443)
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		k, _ := in.Canon()
		buf = k.Append(buf[:0])
	}); n != 0 {
		t.Errorf("want 0 allocations, got %v", n)
	}
}

func FuzzBothDirectionsHaveOneKey(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("fedcba9876543210"), uint16(1), uint16(2), uint8(6), uint8(0))
	f.Add([]byte("0123456789abcdef"), []byte("0123456789abcdef"), uint16(2), uint16(1), uint8(1), uint8(8))
	f.Fuzz(func(t *testing.T, src, dst []byte, sp, dp uint16, proto, typ uint8) {
		if len(src) < 16 || len(dst) < 16 {
			return
		}
		there := Tuple{Src: [16]byte(src), Dst: [16]byte(dst), SrcPort: sp, DstPort: dp, Proto: proto, ICMPType: typ}
		back := Tuple{Src: there.Dst, Dst: there.Src, SrcPort: dp, DstPort: sp, Proto: proto}
		if proto == ICMP || proto == ICMPv6 {
			c, ok := Counterpart(proto, typ)
			if !ok {
				return
			}
			if b, ok := Counterpart(proto, c); !ok || b != typ {
				t.Fatalf("the counterpart of %d is %d, whose counterpart is %d", typ, c, b)
			}
			back.ICMPType = c
		}
		a, _ := there.Canon()
		b, _ := back.Canon()
		if a != b {
			t.Fatalf("%+v and %+v", a, b)
		}
	})
}
