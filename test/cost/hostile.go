package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/pynetflow"
	"weir/internal/decode"
	"weir/internal/templates"
	"weir/internal/transport/proxyproto"
	"weir/pkg/flowpb"
)

// A hostile describes a kind of input from a single sender, and the party that bears its cost.
type hostile struct {
	name string
	pays string
	make func() flood
	not  string // the reason why a bound does not hold; empty: every bound holds
}

// A flood processes input number n of a kind. It returns the octets of the input and the octets
// that it causes to Kafka. state holds the state that the inputs leave.
type flood struct {
	take  func(n int) (octets, kafka int)
	state any
	rest  func() // releases the state of the other replica; nil: there is none
}

const (
	floodOctets  = 1 << 20  // of each kind
	budgetOctets = 64 << 10 // the first of them are within every budget of their exporter
)

// A spend holds the cost of a flood per octet.
type spend struct {
	within, beyond float64 // CPU, ns: of the first budgetOctets, and of the second half
	kept           float64 // octets of heap
	kafka          float64 // octets, of the second half
}

// run measures a flood.
func (h *hostile) run() (s spend) {
	f := h.make()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	octets, half, kafka := 0, 0, 0
	began, middle := cpu(), time.Duration(0)
	for n := 0; octets < floodOctets; n++ {
		o, k := f.take(n)
		if octets < budgetOctets && octets+o >= budgetOctets {
			s.within = float64(cpu()-began) / float64(octets+o)
		}
		octets += o
		switch {
		case half > 0:
			kafka += k
		case octets >= floodOctets/2:
			half, middle = octets, cpu()
		}
	}
	s.beyond = float64(cpu()-middle) / float64(octets-half)
	s.kafka = float64(kafka) / float64(octets-half)
	if f.rest != nil {
		f.rest()
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	s.kept = (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / float64(octets)
	runtime.KeepAlive(f)
	return s
}

// rounds is the number of measurements of a kind. Each follows a measurement of the honest kind, so
// that other processes slow both down.
const rounds = 9

// against returns the cost of h, with its CPU as the median of the ratios to honest.
func (h *hostile) against(honest *hostile) (s spend, within, beyond float64) {
	ratios := make([][2]float64, rounds)
	for i := range ratios {
		o := honest.run()
		s = h.run()
		ratios[i] = [2]float64{s.within / o.within, s.beyond / o.beyond}
	}
	median := func(of int) float64 {
		slices.SortFunc(ratios, func(a, b [2]float64) int { return cmp.Compare(a[of], b[of]) })
		return ratios[rounds/2][of]
	}
	return s, median(0), median(1)
}

// cpu returns the CPU time of this process, garbage collections included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// datagrams returns a flood of the message m, which changes each time by its steps, after the
// messages of first.
func datagrams(m message, first ...message) func() flood {
	return func() flood {
		t := newTarget(&worker{})
		now := func() time.Time { return t.now }
		t.store, t.tail = templates.New(templates.Options{Replica: "a", Now: now, Patient: true}), templates.New(templates.Options{Replica: "b", Now: now, Patient: true})
		t.udp.decoder.State = t.store
		t.output = newOutputBudget(budgetOctets)
		layouts := map[uint16][]field{}
		from := netip.MustParseAddrPort("192.0.2.1:40000")
		send := func(p *packet, n int) (octets, kafka int) {
			w := t.udp
			if p.stream {
				w = t.session(from)
			}
			made := t.flows + t.shared
			t.datagram(w, p)
			for i := range w.result.Unknown {
				made -= uint64(rawSetOctets(&w.result.Unknown[i]))
			}
			if n%publishEvery == publishEvery-1 {
				t.publish()
			}
			return len(p.octets), int(t.flows + t.shared - made)
		}
		render := func(m *message, n int) packet {
			return packet{from: from, stream: m.stream, octets: m.datagram(n, layouts)}
		}
		for i := range first {
			p := render(&first[i], 0)
			send(&p, 0)
		}
		var packets []packet // made before, so that only taking them is measured
		for size := 0; size < floodOctets; {
			p := render(&m, len(packets))
			packets = append(packets, p)
			size += len(p.octets)
		}
		return flood{take: func(n int) (int, int) { return send(&packets[n], n) }, state: t, rest: func() { t.tail = nil }}
	}
}

// rawSetOctets returns the size of the record of a set without a template on the undecoded topic.
func rawSetOctets(s *decode.Set) int {
	const key = 23 // exporter, version, domain, template id
	return key + proto.Size(&flowpb.RawSet{
		Schema: 1, Exporter: s.Meta.Exporter.AsSlice(), ExporterPort: uint32(s.Meta.Port), Version: uint32(s.Header.Version),
		Domain: s.Header.Domain, TemplateId: uint32(s.ID), ExportNs: s.Header.Export, UptimeMs: s.Header.Uptime,
		Sequence: s.Header.Sequence, DatagramHash: s.Hash, Offset: uint32(s.Off), Data: s.Data, FirstReceivedNs: s.Meta.Received,
	})
}

// merged returns a flood of records of the templates topic, as a replica makes them from m.
func merged(m message, first ...message) func() flood {
	return func() flood {
		now := start
		clock := func() time.Time { return now }
		writer := templates.New(templates.Options{Replica: "a", Now: clock})
		reader := templates.New(templates.Options{Replica: "b", Now: clock})
		w := worker{decoder: decode.Decoder{State: writer}}
		layouts := map[uint16][]field{}
		var due []templates.Record
		sent := 0
		send := func(m *message, n int) {
			d := decode.Meta{Exporter: netip.MustParseAddr("192.0.2.1"), Port: 40000, Received: now.UnixNano()}
			w.decoder.Wire(m.datagram(n, layouts), &d, &w.result)
		}
		for i := range first {
			send(&first[i], 0)
		}
		for size := 0; size < floodOctets+floodOctets/8; { // made before, so that only reading is measured
			send(&m, sent)
			sent++
			now = now.Add(time.Second)
			for _, r := range writer.Due() {
				due = append(due, r)
				size += len(r.Key) + len(r.Value)
				writer.Published(r, nil)
			}
			if sent > 100_000 {
				panic("a replica publishes nothing")
			}
		}
		return flood{take: func(n int) (int, int) {
			r := due[n%len(due)]
			if err := reader.Merge(r.Key, r.Value); err != nil && !full(err) {
				panic(err)
			}
			return len(r.Key) + len(r.Value), 0
		}, state: reader}
	}
}

// kinds returns the kinds of input, the honest kind first.
func kinds() []hostile {
	v9 := message{source: 1, version: 9, domain: 1, repeat: 1, uptime: 3_600_000}
	ipfix := v9
	ipfix.version = 10
	with := func(m message, sets ...set) message { m.sets = sets; return m }
	stream := func(m message) message { m.stream = true; return m }
	template := set{kind: templateSet, id: 260, fields: honestFields, widen: 1, count: 1}
	small := func(kind setKind, count uint16) set {
		return set{kind: kind, id: 256, idStep: 1, scopes: 1, fields: []field{{id: 8, length: 4, lenInc: 1}}, widen: 1, count: count}
	}
	options := set{kind: optionsSet, id: 256, scopes: 1, fields: []field{{id: 1, length: 0}, {id: 48, length: 3}, {id: 34, length: 1}}, widen: 1, count: 1}
	samplers := set{kind: dataSet, id: 256, count: 330, fill: 7, vary: 1 << 1}
	tiny := set{kind: templateSet, id: 256, fields: []field{{id: 8, length: 4}, {id: 12, length: 4}}, widen: 1, count: 1}
	const own, all = "the exporter's budget for changes", "the budget of all exporters for publishing"
	return []hostile{
		{name: "NetFlow v9 data, honest", pays: "no budget", make: datagrams(with(v9, set{kind: dataSet, id: 260, count: 24, record: honestRecord}), with(v9, template))},
		{name: "NetFlow v5", pays: "no budget", make: datagrams(with(message{source: 1, version: 5, repeat: 1, uptime: 3_600_000}, set{kind: rawSet, count: 30, fill: 10}))},
		{name: "data, records of 8 octets", pays: "`OUTPUT_EXTRA_PER_EXPORTER`", make: datagrams(with(v9, set{kind: dataSet, id: 256, count: 168, fill: 10, vary: 3}), with(v9, tiny))},
		{name: "v9 templates of one field", pays: own, make: datagrams(with(v9, small(templateSet, 168))),
			not: "a refused template takes about 250 ns, and comes in 8 octets"},
		{name: "v9 template of 335 fields", pays: own, make: datagrams(with(v9, set{kind: templateSet, id: 256, idStep: 1, fields: []field{{id: 8, length: 4}}, widen: 335, count: 1}))},
		{name: "IPFIX templates of one field", pays: own, make: datagrams(with(ipfix, small(templateSet, 168))),
			not: "a refused template takes about 250 ns, and comes in 8 octets"},
		{name: "options templates", pays: own, make: datagrams(with(ipfix, small(optionsSet, 134))),
			not: "a refused template takes about 250 ns, and comes in 8 octets"},
		{name: "options data, a new sampler each", pays: own, make: datagrams(with(v9, samplers), with(v9, options)),
			not: "a refused fact takes about 150 ns, and comes in 8 octets"},
		{name: "data without a template", pays: "`PARK_MAX_OCTETS`, then `UNDECODED_RATE`", make: datagrams(with(v9, set{kind: dataSet, id: 400, count: 168, fill: 1}))},
		{name: "data without a template, 112 sets", pays: "`PARK_MAX_OCTETS`, then `UNDECODED_RATE`", make: datagrams(with(v9, many(set{kind: dataSet, id: 400, count: 1, fill: 1}, 112)...)),
			not: "each set is kept or published by itself, about 300 ns, and comes in 8 octets"},
		{name: "TCP message of templates", pays: "`TCP_MAX_OCTETS`", make: datagrams(stream(with(ipfix, small(templateSet, 168)))),
			not: "a refused template takes about 250 ns, and comes in 8 octets; a TCP address cannot be forged"},
		{name: "TCP message of options data", pays: own, make: datagrams(stream(with(ipfix, samplers)), stream(with(ipfix, options))),
			not: "a refused fact takes about 150 ns, as over UDP; a TCP address cannot be forged"},
		{name: "PROXY header", pays: "who is in `TRUSTED_PROXIES`", make: proxied},
		{name: "topic record of a definition", pays: all, make: merged(with(v9, small(templateSet, 168))),
			not: "a writer to the topic has no budget: replicas charge a record before they write it"},
		{name: "topic record of a fact", pays: all, make: merged(with(v9, samplers), with(v9, options)),
			not: "a writer to the topic has no budget: replicas charge a record before they write it"},
		{name: "DNS answer", pays: "the limit on questions a second", make: dnsAnswers},
		{name: "line of a file, unknown names", pays: "who reads the file", make: lines,
			not: "reading JSON into maps takes two thirds of it; a command of the operator reads the file, and its cost grows with octets alone"},
	}
}

// many returns n sets that differ in their template IDs.
func many(s set, n int) (out []set) {
	for range n {
		s.id++
		out = append(out, s)
	}
	return out
}

func proxied() flood {
	// PROXY header of version 2, TCP over IPv4. Behind the addresses are vectors (TLVs) without
	// meaning.
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x12"), 5, 0x48, 192, 0, 2, 1, 192, 0, 2, 2, 0x9c, 0x40, 8, 7)
	b = append(b, make([]byte, 1368-len(b))...)
	return flood{take: func(int) (int, int) {
		if _, n, err := proxyproto.Parse(b); err != nil || n != len(b) {
			panic(fmt.Sprint(n, err))
		}
		return len(b), 0
	}}
}

func dnsAnswers() flood {
	m := &dns.Msg{}
	m.SetQuestion("1.2.0.192.in-addr.arpa.", dns.TypePTR)
	m.Response = true
	m.Compress = true
	for i := 0; m.Len() < 1340; i++ {
		m.Answer = append(m.Answer, &dns.CNAME{
			Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 60}, Target: fmt.Sprintf("a%d.", i),
		})
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return flood{take: func(int) (int, int) {
		var got dns.Msg
		if err := got.Unpack(b); err != nil {
			panic(err)
		}
		return len(b), 0
	}}
}

func lines() flood {
	var b strings.Builder
	b.WriteString(`{"1760000000.5": {"client": ["192.0.2.1", 40000], "header": {"version": 9, "count": 1}, "flows": [{"IPV4_SRC_ADDR": 1`)
	for i := 0; b.Len() < 1360; i++ {
		fmt.Fprintf(&b, `, "X%d": 1`, i)
	}
	b.WriteString("}]}}")
	line := []byte(b.String())
	return flood{take: func(int) (int, int) {
		_, _ = pynetflow.Parse(line) // the cost counts, whether the line is refused or not
		return len(line), 0
	}}
}

const limitsBegin, limitsEnd = "<!-- hostile: written by make bench-hostile -->", "<!-- hostile: end -->"

// writeLimits measures all kinds and puts the table between the markers of a document.
func writeLimits(path string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s, one core. Each row is %d octets from one sender at once.\n\n", cmp.Or(model(), "unknown CPU"), runtime.Version(), floodOctets)
	text.WriteString("| input | CPU within the budget, times honest | beyond it | heap kept, octets per octet | to Kafka beyond the budget, octets per octet | who pays |\n|---|---|---|---|---|---|\n")
	var broken []error
	var notes strings.Builder
	all := kinds()
	honest := all[0].run()
	for i := range all {
		h := &all[i]
		s, within, beyond := h.against(&all[0])
		honest.beyond = min(honest.beyond, all[0].run().beyond)
		fmt.Fprintf(&text, "| %s | %.1f | %.1f | %.1f | %.1f | %s |\n", h.name, within, beyond, max(0, s.kept), s.kafka, h.pays)
		above := beyond > timesHonest || s.kept > keptPerOctet || s.kafka > kafkaPerOctet
		switch {
		case above && h.not == "":
			broken = append(broken, fmt.Errorf("%s: above a bound", h.name))
		case above:
			fmt.Fprintf(&notes, "- %s: above a bound. %s.\n", h.name, sentence(h.not))
		}
	}
	if notes.Len() > 0 {
		text.WriteString("\n" + notes.String())
	}
	fmt.Fprintf(&text, "\nHonest: %.1f ns of CPU an octet, %.0f ns a flow.\n", honest.beyond, honest.beyond*1368/24)
	fmt.Print(text.String())
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(doc), limitsBegin)
	_, tail, ok2 := strings.Cut(rest, limitsEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s: want the lines %q and %q around the table", path, limitsBegin, limitsEnd)
	}
	if err := os.WriteFile(path, []byte(head+limitsBegin+"\n"+text.String()+limitsEnd+tail), 0o644); err != nil {
		return err
	}
	return errors.Join(broken...)
}

// sentence begins with a capital letter.
func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// model returns the name of the CPU, or "" if the system does not report it.
func model() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), ":"))
}
