package templates

import (
	"encoding/binary"
	"syscall"
	"testing"
	"time"

	"weir/internal/decode"
)

// BenchmarkOctet measures what an octet costs beyond its exporter's budget, of
// datagrams of each kind, beside honest NetFlow v9 data. Bounds are in docs/limits.md:
// at most 20 times honest.
func BenchmarkOctet(b *testing.B) {
	flow := honestTemplate()
	data := v9Datagram(260, make([]byte, 24*56)...)
	for _, c := range []struct {
		name    string
		session bool
		first   [][]byte
		make    func(n int) []byte
		from    func(n int) uint16
	}{
		{name: "honest", first: [][]byte{flow}, make: func(int) []byte { return data }},
		{name: "v9 templates", make: func(n int) []byte { return oneFieldTemplates(0, n) }},
		{name: "v9 options templates", make: func(n int) []byte { return oneFieldTemplates(1, n) }},
		{name: "v9 templates that are refused", make: func(int) []byte {
			return v9Datagram(0, repeat([]byte{0, 1, 0, 1, 0, 8, 0, 4}, 168)...)
		}},
		{name: "sets without meaning", make: func(int) []byte { return append(v9Datagram(9), repeat([]byte{0, 9, 0, 4}, 336)...) }},
		{name: "v9 templates again", first: [][]byte{oneFieldTemplates(0, 0)}, make: func(int) []byte { return oneFieldTemplates(0, 0) }},
		{name: "v9 templates again, 8 ports", make: func(int) []byte { return oneFieldTemplates(0, 0) }, from: func(n int) uint16 { return uint16(n % 8) }},
		{name: "v9 templates again, 2 layouts", make: func(n int) []byte { return oneFieldTemplates(0, n%2) }},
		{name: "v9 templates again, 8 layouts, 8 ports", make: func(n int) []byte { return oneFieldTemplates(0, n/8%8) }, from: func(n int) uint16 { return uint16(n % 8) }},
		{name: "TCP templates", session: true, make: func(n int) []byte { return oneFieldTemplates(0, n) }},
		{name: "samplers", first: [][]byte{samplerTemplate}, make: func(n int) []byte { return samplerRecords(0, 445, byte(n)) }},
		{name: "samplers again", first: [][]byte{samplerTemplate}, make: func(n int) []byte { return samplerRecords(0, 445, 1) }},
		{name: "samplers again, 2 ports", first: [][]byte{samplerTemplate}, make: func(n int) []byte { return samplerRecords(0, 445, byte(n%2+1)) },
			from: func(n int) uint16 { return uint16(n % 2) }},
		{name: "samplers again, 8 ports", first: [][]byte{samplerTemplate}, make: func(n int) []byte { return samplerRecords(0, 445, byte(n%8+1)) },
			from: func(n int) uint16 { return uint16(n % 8) }},
		{name: "rates of one octet", first: [][]byte{rateTemplate}, make: func(n int) []byte {
			x := make([]byte, 1340)
			for i := range x {
				x[i] = byte(i%250 + 1)
			}
			return v9Datagram(256, x...)
		}},
		{name: "rates of one octet again", first: [][]byte{rateTemplate}, make: func(n int) []byte {
			return v9Datagram(256, repeat([]byte{7}, 1340)...)
		}},
		{name: "six facts in a record", first: [][]byte{sixTemplate}, make: func(n int) []byte {
			return v9Datagram(256, repeat([]byte{byte(n), 'a' + byte(n%7), 'b' + byte(n%7), byte(n%7 + 1), byte(n), byte(n%7 + 1), byte(n), 'c' + byte(n%7), byte(n), 'd' + byte(n%7)}, 134)...)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, _ := newStore("r1")
			d := &decode.Decoder{State: s}
			if c.session {
				d.State = s.NewSession(nil)
			}
			var r decode.Result
			at := t0
			m := &decode.Meta{Exporter: exporterA, Port: 1}
			octets := 0
			send := func(n int, pkt []byte) {
				if c.from != nil {
					m.Port = c.from(n)
				}
				at++
				m.Received = at
				d.Wire(pkt, m, &r)
				octets += len(pkt)
			}
			for i, p := range c.first {
				send(i, p)
			}
			var pkts [][]byte
			for n := range 1024 {
				pkts = append(pkts, c.make(n))
			}
			for n, pkt := range pkts { // spends the budget
				send(n, pkt)
			}
			octets = 0
			n, began := 0, cpu()
			for b.Loop() {
				send(n, pkts[n%len(pkts)])
				n++
			}
			b.ReportMetric(float64(cpu()-began)/float64(octets), "CPU-ns/octet")
		})
	}
}

// cpu is the CPU time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func repeat(b []byte, n int) (out []byte) {
	for range n {
		out = append(out, b...)
	}
	return out
}

// honestTemplate is template 260 of 56 octets.
func honestTemplate() []byte {
	var t []byte
	for _, f := range [][2]uint16{{260, 18}, {8, 4}, {12, 4}, {15, 4}, {10, 4}, {14, 4}, {2, 4}, {1, 4}, {22, 4}, {21, 4}, {7, 2}, {11, 2}, {6, 1}, {4, 1}, {5, 1}, {16, 4}, {17, 4}, {9, 1}, {13, 4}} {
		t = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(t, f[0]), f[1])
	}
	return v9Datagram(0, t...)
}

// oneFieldTemplates is a datagram of 168 templates with one field of a length that
// follows n, or 134 options templates.
func oneFieldTemplates(set uint16, n int) []byte {
	var t []byte
	for i := range 168 - 34*int(set) {
		t = binary.BigEndian.AppendUint16(t, uint16(256+i))
		if set == 1 {
			t = append(t, 0, 0, 0, 4)
		} else {
			t = append(t, 0, 1)
		}
		t = binary.BigEndian.AppendUint16(append(t, 0, 8), uint16(1+n))
	}
	return v9Datagram(set, t...)
}

// rateTemplate is options template 256: a sampling interval (34) of one octet.
var rateTemplate = v9Datagram(1, 1, 0, 0, 4, 0, 4, 0, 1, 0, 0, 0, 34, 0, 1)

// sixTemplate is options template 256 of ten octets that make six facts.
var sixTemplate = v9Datagram(1, 1, 0, 0, 4, 0, 36, 0, 2, 0, 1, 0, 82, 0, 1, 0, 83, 0, 1, 0, 34, 0, 1, 0, 48, 0, 1, 0, 160, 0, 1, 0, 234, 0, 1, 0, 236, 0, 1, 0, 95, 0, 1, 0, 96, 0, 1)
