package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/klauspost/compress/zstd"
)

// read returns all datagrams of an input, the counters, and the error at its end.
func read(in []byte, o Options) (got []Datagram, s Stats, err error) {
	r, err := Open(bytes.NewReader(in), o)
	if err != nil {
		return nil, Stats{}, err
	}
	for {
		var d Datagram
		if err := r.Next(&d); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return got, r.Stats(), err
		}
		d.Payload = bytes.Clone(d.Payload)
		got = append(got, d)
	}
}

// payloads returns the payloads of datagrams as strings.
func payloads(ds []Datagram) []string {
	out := []string{}
	for _, d := range ds {
		out = append(out, string(d.Payload))
	}
	return out
}

// udp4 returns an IPv4 packet 192.0.2.1:4000 → 192.0.2.2:port with an Ethernet header.
func udp4(port uint16, payload string) []byte {
	return append(ether(etherIPv4), ipv4(nil, udp(port, payload))...)
}

func ether(typ uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"), typ)
}

func ipv4(options, content []byte) []byte {
	b := []byte{byte(0x45 + len(options)/4), 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	b = append(append(b, options...), content...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func udp(port uint16, payload string) []byte {
	b := []byte{0x0f, 0xa0, byte(port >> 8), byte(port), 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

type packet struct {
	data []byte
	wire int // octets on the wire; 0 = as many as data has
}

var t0 = time.Unix(1700000000, 123456789).UTC()

// pcapFile writes packets, a second apart, with nanoseconds or microseconds.
func pcapFile(t testing.TB, nanos bool, link layers.LinkType, packets ...packet) []byte {
	var buf bytes.Buffer
	w := pcapgo.NewWriter(&buf)
	if nanos {
		w = pcapgo.NewWriterNanos(&buf)
	}
	if err := w.WriteFileHeader(65535, link); err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		if err := w.WritePacket(info(i, p), p.data); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func info(i int, p packet) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{
		Timestamp:     t0.Add(time.Duration(i) * time.Second),
		CaptureLength: len(p.data),
		Length:        max(p.wire, len(p.data)),
	}
}

func TestADatagramHasAddressesAndCaptureTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nanos bool
		want  int64
	}{
		{"nanoseconds", true, 1700000000123456789},
		{"microseconds", false, 1700000000123456000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := read(pcapFile(t, tt.nanos, layers.LinkTypeEthernet, packet{data: udp4(2055, "flow")}), Options{})
			if err != nil || len(got) != 1 {
				t.Fatalf("want one datagram, got %d (%v)", len(got), err)
			}
			want := Datagram{
				Src: netip.MustParseAddrPort("192.0.2.1:4000"), Dst: netip.MustParseAddrPort("192.0.2.2:2055"),
				Time: tt.want, Payload: []byte("flow"),
			}
			if d := cmp.Diff(want, got[0], cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestWhatIsNotAWholeDatagramIsCounted(t *testing.T) {
	whole := udp4(2055, "whole")
	fragment := udp4(2055, "first")
	fragment[14+6] = 0x20 // more fragments
	later := udp4(2055, "later")
	later[14+7] = 3 // fragment offset
	tcp := udp4(2055, "tcp")
	tcp[14+9] = 6
	lying := udp4(2055, "lying")
	lying[14+20+5] = 200 // UDP length
	in := pcapFile(t, true, layers.LinkTypeEthernet,
		packet{data: whole},
		packet{data: fragment}, packet{data: later},
		packet{data: tcp},
		packet{data: lying},
		packet{data: whole[:len(whole)-1], wire: len(whole)},
		packet{data: udp4(53, "another port")},
		packet{data: ether(0x0806)},
		packet{data: append(bytes.Clone(whole), "trailer"...)},
	)
	got, stats, err := read(in, Options{Port: 2055})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"whole", "whole"}, payloads(got)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	want := Stats{Packets: 9, Fragments: 2, Other: 2, Malformed: 1, Cut: 1, OtherPort: 1}
	if d := cmp.Diff(want, stats); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestACutFileGivesWhatCameBefore(t *testing.T) {
	for name, file := range map[string][]byte{
		"pcap":   pcapFile(t, true, layers.LinkTypeEthernet, packet{data: udp4(1, "a")}, packet{data: udp4(1, "bb")}),
		"pcapng": pcapngFile(t, packet{data: udp4(1, "a")}, packet{data: udp4(1, "bb")}),
	} {
		whole, _, err := read(file, Options{})
		if err != nil || len(whole) != 2 {
			t.Fatalf("%s: want two datagrams of the whole file, got %d (%v)", name, len(whole), err)
		}
		ends := 0                        // cuts at which a file could have ended
		for n := 6; n < len(file); n++ { // the first octets of a pcapng could be text
			got, _, err := read(file[:n], Options{})
			switch {
			case err == nil:
				ends++
			case !errors.Is(err, ErrCut):
				t.Fatalf("%s cut to %d octets: want ErrCut, got %v", name, n, err)
			}
			if len(got) > 1 {
				t.Fatalf("%s cut to %d octets gives %d datagrams", name, n, len(got))
			}
		}
		// A file may end before the first packet and before the second; a pcapng file also behind the section
		// header.
		if want := map[string]int{"pcap": 2, "pcapng": 3}[name]; ends != want {
			t.Errorf("%s: want %d cuts at the end of a block or packet, got %d", name, want, ends)
		}
	}
}

// pcapngFile writes one Ethernet interface and packets.
func pcapngFile(t testing.TB, packets ...packet) []byte {
	var buf bytes.Buffer
	w, err := pcapgo.NewNgWriter(&buf, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		if err := w.WritePacket(info(i, p), p.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestInterfacesOfAPcapngHaveTheirOwnLinkTypes(t *testing.T) {
	var buf bytes.Buffer
	w, err := pcapgo.NewNgWriter(&buf, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	write := func(iface int, data []byte) {
		ci := info(0, packet{data: data})
		ci.InterfaceIndex = iface
		if err := w.WritePacket(ci, data); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := w.AddInterface(pcapgo.NgInterface{LinkType: layers.LinkTypeRaw})
	if err != nil {
		t.Fatal(err)
	}
	wlan, err := w.AddInterface(pcapgo.NgInterface{LinkType: layers.LinkTypeIEEE802_11})
	if err != nil {
		t.Fatal(err)
	}
	write(0, udp4(1, "ethernet"))
	write(raw, ipv4(nil, udp(1, "raw")))
	write(wlan, udp4(1, "wlan"))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	got, stats, err := read(buf.Bytes(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"ethernet", "raw"}, payloads(got)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if stats.OtherLink != 1 {
		t.Errorf("want one packet of another link type, got %+v", stats)
	}
}

func TestFormsOfInput(t *testing.T) {
	file := pcapFile(t, false, layers.LinkTypeEthernet, packet{data: udp4(1, "a")})
	big := bytes.Clone(file)
	for _, at := range []int{0, 8, 12, 16, 20, 24, 28, 32, 36} {
		big[at], big[at+1], big[at+2], big[at+3] = big[at+3], big[at+2], big[at+1], big[at]
	}
	big[4], big[5], big[6], big[7] = big[5], big[4], big[7], big[6]
	tests := []struct {
		name string
		in   []byte
		o    Options
		want []string
		err  error
	}{
		{"pcap of the other octet order", big, Options{}, []string{"a"}, nil},
		{"pcap within gzip", gz(t, file), Options{}, []string{"a"}, nil},
		{"pcapng within gzip", gz(t, pcapngFile(t, packet{data: udp4(1, "b")})), Options{}, []string{"b"}, nil},
		{"hex text within gzip", gz(t, []byte("6162\n")), Options{}, []string{"ab"}, nil},
		{"cut gzip", gz(t, file)[:30], Options{}, nil, ErrCut},
		{"cut header of gzip", gz(t, file)[:9], Options{}, nil, ErrCut},
		{"pcap within zstd", zst(t, file), Options{}, []string{"a"}, nil},
		{"cut zstd", zst(t, file)[:30], Options{}, nil, ErrCut},
		{"hex text", []byte("6162\n63\n"), Options{}, []string{"ab", "c"}, nil},
		{"a capture where hex text was expected", file, Options{Hex: true}, []string{"a"}, nil},
		{"nothing at all holds no datagrams", nil, Options{}, []string{}, nil},
		{"an executable", []byte("\x7fELF\x02\x01\x01\x00"), Options{}, nil, ErrFormat},
		{"an executable as hex text is a bad line", []byte("\x7fELF\x02\x01\x01\x00"), Options{Hex: true}, []string{""}, nil},
		{"a link type without IP", pcapFile(t, true, layers.LinkTypeIEEE802_11), Options{}, nil, ErrUnsupported},
		{"pcapng's block type as text", []byte("\n\r\r\n6162\n"), Options{}, []string{"", "", "ab"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := read(tt.in, tt.o)
			if !errors.Is(err, tt.err) {
				t.Fatalf("want error %v, got %v", tt.err, err)
			}
			if tt.err != nil {
				return
			}
			if d := cmp.Diff(tt.want, payloads(got)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func gz(t *testing.T, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zst(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// FuzzOpen checks that no input makes the reader panic or return more octets than the input can hold.
func FuzzOpen(f *testing.F) {
	f.Add(pcapFile(f, true, layers.LinkTypeEthernet, packet{data: udp4(1, "a")}))
	f.Add(pcapFile(f, false, layers.LinkTypeLinuxSLL, packet{data: udp4(1, "a"), wire: 99}))
	f.Add(pcapngFile(f, packet{data: udp4(1, "a")}))
	f.Add([]byte("6162\n\n6"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.HasPrefix(in, []byte{0x1f, 0x8b}) || bytes.HasPrefix(in, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			t.Skip("gzip and zstd: output may exceed input")
		}
		got, stats, _ := read(in, Options{})
		n := 0
		for _, d := range got {
			n += len(d.Payload)
		}
		if n > len(in) || len(got) > stats.Packets {
			t.Fatalf("%d octets in %d of %d packets, from %d octets", n, len(got), stats.Packets, len(in))
		}
	})
}
