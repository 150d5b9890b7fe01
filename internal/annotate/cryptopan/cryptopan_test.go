package cryptopan

import (
	"bytes"
	"math/bits"
	"net/netip"
	"strings"
	"testing"
)

// The key and the IPv4 vectors are those of the sample that comes with the
// authors' program; the IPv6 vectors are those of its extension to IPv6, under the
// same key.
var sampleKey = []byte{
	21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16,
	216, 152, 143, 131, 121, 121, 101, 39, 98, 87, 76, 45, 42, 132, 34, 2,
}

func sample(t testing.TB) *Map {
	t.Helper()
	m, err := New(sampleKey)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPublishedVectors(t *testing.T) {
	m := sample(t)
	for _, v := range [][2]string{
		{"128.11.68.132", "135.242.180.132"},
		{"129.118.74.4", "134.136.186.123"},
		{"130.132.252.244", "133.68.164.234"},
		{"141.223.7.43", "141.167.8.160"},
		{"141.233.145.108", "141.129.237.235"},
		{"152.163.225.39", "151.140.114.167"},
		{"156.29.3.236", "147.225.12.42"},
		{"165.247.96.84", "162.9.99.234"},
		{"166.107.77.190", "160.132.178.185"},
		{"192.102.249.13", "252.138.62.131"},
		{"192.215.32.125", "252.43.47.189"},
		{"192.233.80.103", "252.25.108.8"},
		{"192.41.57.43", "252.222.221.184"},
		{"193.150.244.223", "253.169.52.216"},
		{"195.205.63.100", "255.186.223.5"},
		{"198.200.171.101", "249.199.68.213"},
		{"198.26.132.101", "249.36.123.202"},
		{"198.36.213.5", "249.7.21.132"},
		{"198.51.77.238", "249.18.186.254"},
		{"199.217.79.101", "248.38.184.213"},
		{"202.49.198.20", "245.206.7.234"},
		{"203.12.160.252", "244.248.163.4"},
		{"204.184.162.189", "243.192.77.90"},
		{"204.202.136.230", "243.178.4.198"},
		{"204.29.20.4", "243.33.20.123"},
		{"205.178.38.67", "242.108.198.51"},
		{"205.188.147.153", "242.96.16.101"},
		{"205.188.248.25", "242.96.88.27"},
		{"205.245.121.43", "242.21.121.163"},
		{"207.105.49.5", "241.118.205.138"},
		{"207.135.65.238", "241.202.129.222"},
		{"207.155.9.214", "241.220.250.22"},
		{"207.188.7.45", "241.255.249.220"},
		{"207.25.71.27", "241.33.119.156"},
		{"207.33.151.131", "241.1.233.131"},
		{"208.147.89.59", "227.237.98.191"},
		{"208.234.120.210", "227.154.67.17"},
		{"208.28.185.184", "227.39.94.90"},
		{"208.52.56.122", "227.8.63.165"},
		{"::1", "78ff:f001:9fc0:20df:8380:b1f1:704:ed"},
		{"::2", "78ff:f001:9fc0:20df:8380:b1f1:704:ef"},
		{"::ffff", "78ff:f001:9fc0:20df:8380:b1f1:704:f838"},
		{"2001:db8::1", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e"},
		{"2001:db8::2", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c"},
	} {
		if got := m.Addr(netip.MustParseAddr(v[0])); got != netip.MustParseAddr(v[1]) {
			t.Errorf("%s: want %s, got %s", v[0], v[1], got)
		}
	}
	if a, b := m.Addr(netip.MustParseAddr("::ffff:128.11.68.132")), m.Addr(netip.MustParseAddr("128.11.68.132")); a != b {
		t.Errorf("v4-mapped: want %s, got %s", b, a)
	}
	if a := m.Addr(netip.Addr{}); a.IsValid() {
		t.Errorf("no address: got %s", a)
	}
}

// common returns the length of the common prefix of a and b, bits.
func common(a, b [4]byte) (n int) {
	for i := range a {
		if d := a[i] ^ b[i]; d != 0 {
			return n + bits.LeadingZeros8(d)
		}
		n += 8
	}
	return n
}

func FuzzPrefixesArePreserved(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, []byte{10, 0, 0, 2})
	m := sample(f)
	f.Fuzz(func(t *testing.T, x, y []byte) {
		if len(x) != 4 || len(y) != 4 {
			return
		}
		a, b := [4]byte(x), [4]byte(y)
		if want, got := common(a, b), common(m.Addr(netip.AddrFrom4(a)).As4(), m.Addr(netip.AddrFrom4(b)).As4()); want != got {
			t.Errorf("%v %v: %d bits in common, their images %d", a, b, want, got)
		}
	})
}

func TestKeys(t *testing.T) {
	digits := "15221 78d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202"
	digits = strings.ReplaceAll(digits, " ", "")
	for _, tt := range []struct {
		name, text string
		ok         bool
	}{
		{"octets", string(sampleKey), true},
		{"digits", digits, true},
		{"digits in a line", digits + "\n", true},
		{"too short", "abcd", false},
		{"no digits", strings.Repeat("x", 64), false},
		{"empty", "", false},
	} {
		key, err := ParseKey([]byte(tt.text))
		if (err == nil) != tt.ok || tt.ok && !bytes.Equal(key, sampleKey) {
			t.Errorf("%s: %x, %v", tt.name, key, err)
		}
	}
	if _, err := New(sampleKey[:31]); err == nil {
		t.Error("31 octets are taken for a key")
	}
}

func TestTagsTellPartsApart(t *testing.T) {
	m := sample(t)
	a := m.Tag([]byte("ab"), []byte("c"))
	if b := m.Tag([]byte("a"), []byte("bc")); bytes.Equal(a, b) {
		t.Error("other parts have the same tag")
	}
	if b := m.Tag([]byte("ab"), []byte("c")); !bytes.Equal(a, b) || len(a) != 16 {
		t.Errorf("the same parts: %x and %x", a, b)
	}
}

func BenchmarkAddr(b *testing.B) {
	m := sample(b)
	for _, s := range []string{"192.0.2.1", "2001:db8::1"} {
		a := netip.MustParseAddr(s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a = m.Addr(a)
			}
		})
	}
}
