package templates

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// ipfixSet is one set of an IPFIX message.
func ipfixSet(id uint16, content []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(content)))
	return append(b, content...)
}

func ipfixMessage(domain uint32, sets ...[]byte) []byte {
	b := make([]byte, 16)
	binary.BigEndian.PutUint16(b, 10)
	binary.BigEndian.PutUint32(b[4:], uint32(t0/1e9))
	binary.BigEndian.PutUint32(b[12:], domain)
	for _, s := range sets {
		b = append(b, s...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// ipfixTemplate is a template record; options templates have one scope.
func ipfixTemplate(t *decode.Template) []byte {
	b := binary.BigEndian.AppendUint16(nil, t.ID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.Fields)))
	if t.Options {
		b = binary.BigEndian.AppendUint16(b, 1)
	}
	for _, f := range t.Fields {
		if f.PEN != 0 {
			b = binary.BigEndian.AppendUint16(b, f.ID|0x8000)
			b = binary.BigEndian.AppendUint16(b, f.Length)
			b = binary.BigEndian.AppendUint32(b, f.PEN)
			continue
		}
		b = binary.BigEndian.AppendUint16(b, f.ID)
		b = binary.BigEndian.AppendUint16(b, f.Length)
	}
	return b
}

const templates, optionsTemplates = 2, 3 // ids of sets, RFC 7011 section 3.3.2

// honestLayout is sourceIPv4Address, destinationIPv4Address, octetDeltaCount and
// protocolIdentifier.
var honestLayout = &decode.Template{ID: 300, Fields: []decode.Field{{ID: 8, Length: 4}, {ID: 12, Length: 4}, {ID: 1, Length: 8}, {ID: 4, Length: 1}}}

func honestRecord(octets uint64) []byte {
	b := append([]byte{10, 0, 0, 1}, 10, 0, 0, 2)
	return append(binary.BigEndian.AppendUint64(b, octets), 6)
}

// A sequence is a hostile mix of datagrams for one Store.
type sequence struct {
	t   *testing.T
	c   *clock
	s   *Store
	d   decode.Decoder
	r   decode.Result
	rnd *rand.Rand

	dataSets, decoded int // honest
}

func (q *sequence) send(from netip.Addr, port uint16, pkt []byte) {
	q.d.Wire(pkt, &decode.Meta{Exporter: from, Port: port, Received: q.c.ns}, &q.r)
}

// honest sends three records from a port and checks what comes of them.
func (q *sequence) honest(from netip.Addr, port uint16) {
	q.t.Helper()
	octets := uint64(1 + q.rnd.IntN(1e9))
	data := append(honestRecord(octets), honestRecord(octets+1)...)
	q.send(from, port, ipfixMessage(1, ipfixSet(300, append(data, honestRecord(octets+2)...))))
	q.dataSets++
	ok := len(q.r.Flows) == 3 && len(q.r.Errors) == 0 && len(q.r.Unknown) == 0
	for i, f := range q.r.Flows {
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(q.r.Buf[f.Start:f.ValueEnd], &m); err != nil {
			q.t.Fatal(err)
		}
		ok = ok && m.GetBytes() == octets+uint64(i) && string(m.GetSrcAddr()) == string([]byte{10, 0, 0, 1}) && m.GetProto() == 6
	}
	if ok {
		q.decoded++
	}
}

// victim is an address to send from: an honest exporter's, or one of many.
func (q *sequence) victim() (netip.Addr, uint16) {
	port := uint16(10_000 + q.rnd.IntN(20))
	switch q.rnd.IntN(3) {
	case 0:
		return exporterA, port
	case 1:
		return spoofed(q.rnd.IntN(50)), port
	}
	return spoofed(q.rnd.IntN(100_000)), port
}

// hostile sends one forged datagram.
func (q *sequence) hostile() {
	from, port := q.victim()
	n := q.rnd.IntN(1 << 20)
	domain := uint32(1)
	if q.rnd.IntN(4) == 0 {
		domain = uint32(q.rnd.IntN(1000))
	}
	switch q.rnd.IntN(8) {
	case 0: // a wide template
		q.send(from, port, ipfixMessage(domain, ipfixSet(templates, ipfixTemplate(wide(uint16(256+n%60_000), n, 100+q.rnd.IntN(3900))))))
	case 1: // many template ids
		var all []byte
		for i := range 50 {
			all = append(all, ipfixTemplate(usual(uint16(256+(n+i)%60_000), n))...)
		}
		q.send(from, port, ipfixMessage(domain, ipfixSet(templates, all)))
	case 2: // another layout of the honest template id, confirmed by data
		other := &decode.Template{ID: 300, Fields: append([]decode.Field{{PEN: uint32(n%16 + 1), ID: 1, Length: 4}}, honestLayout.Fields...)}
		data := append([]byte{0, 0, 0, 0}, honestRecord(7)...)
		q.send(from, port, ipfixMessage(domain, ipfixSet(templates, ipfixTemplate(other)), ipfixSet(300, data)))
	case 3: // the honest layout, from another port
		q.send(from, port, ipfixMessage(domain, ipfixSet(templates, ipfixTemplate(honestLayout)), ipfixSet(300, honestRecord(7))))
	case 4: // samplers
		options := &decode.Template{ID: 400, Options: true, Fields: []decode.Field{{ID: 302, Length: 4}, {ID: 305, Length: 4}, {ID: 306, Length: 4}}}
		var all []byte
		for i := range 20 {
			all = binary.BigEndian.AppendUint32(all, uint32((n+i)%3000))
			all = binary.BigEndian.AppendUint32(all, 1)
			all = binary.BigEndian.AppendUint32(all, uint32(n%500))
		}
		q.send(from, port, ipfixMessage(domain, ipfixSet(optionsTemplates, ipfixTemplate(options)), ipfixSet(400, all)))
	case 5: // names of interfaces, long ones
		options := &decode.Template{ID: 401, Options: true, Fields: []decode.Field{{ID: 10, Length: 4}, {ID: 82, Length: ipfix.VarLen}}}
		var all []byte
		for i := range 20 {
			all = binary.BigEndian.AppendUint32(all, uint32((n+i)%3000))
			name := strings.Repeat(string(rune('a'+n%26)), 1+q.rnd.IntN(250))
			all = append(append(all, byte(len(name))), name...)
		}
		q.send(from, port, ipfixMessage(domain, ipfixSet(optionsTemplates, ipfixTemplate(options)), ipfixSet(401, all)))
	case 6: // a template of its own with a data set
		t := usual(uint16(256+n%1000), n)
		q.send(from, port, ipfixMessage(domain, ipfixSet(templates, ipfixTemplate(t)), ipfixSet(t.ID, make([]byte, 100))))
	case 7: // broken
		pkt := ipfixMessage(domain, ipfixSet(templates, ipfixTemplate(usual(uint16(256+n%1000), n))))
		for range 3 {
			pkt[4+q.rnd.IntN(len(pkt)-4)] = byte(q.rnd.Uint32())
		}
		q.send(from, port, pkt)
	}
}

// publish takes what is due; some of it fails.
func (q *sequence) publish() {
	for _, r := range q.s.Due() {
		var err error
		if q.rnd.IntN(10) == 0 {
			err = errors.New("kafka is away")
		}
		q.s.Published(r, err)
	}
}

// check compares the counts with what the store holds.
func (q *sequence) check() {
	q.t.Helper()
	var exporters, definitions, facts, unconfirmed, ranked, pending int
	octets, plans := int64(0), map[*decode.Plan]bool{}
	for i := range q.s.shard {
		sh := &q.s.shard[i]
		for address, e := range sh.exporters {
			exporters++
			octets += emptyExporter
			own, withPlans := emptyExporter, int64(0)
			for dom := range e.domains {
				if dom.scope.exporter != address || sh.domain(dom.scope) != dom || len(dom.templates)+len(dom.facts) == 0 {
					q.t.Errorf("domain %v is not where it should be, or empty", dom.scope)
				}
				own += emptyDomain
				for _, l := range dom.templates {
					for _, d := range l.defs {
						definitions++
						own += d.footprint()
						withPlans += d.planOctets
						plans[d.plan] = true
						if !d.confirmed {
							unconfirmed++
						}
						if d.static {
							ranked++ // in no order
						}
						for by := range d.records {
							if d.records[by].line != nil {
								pending++
							}
						}
					}
				}
				for _, f := range dom.facts {
					facts++
					own += f.footprint()
					if f.line != nil {
						pending++
					}
				}
			}
			octets += own - emptyExporter
			if e.octets != own+withPlans || e.octets > q.s.o.MaxExporterOctets+8<<10 {
				q.t.Errorf("exporter: %d octets accounted, want %d and at most %d", e.octets, own+withPlans, q.s.o.MaxExporterOctets)
			}
		}
	}
	for p := range plans {
		octets += planOctets(p)
	}
	for i := range q.s.trust.definitions {
		ranked += q.s.trust.definitions[i].n
	}
	ranked += q.s.trust.facts[0].n + q.s.trust.facts[1].n
	st := q.s.Stats()
	got := Stats{Exporters: st.Exporters, Definitions: st.Definitions, Facts: st.Facts, Unconfirmed: st.Unconfirmed, Octets: st.Octets, Pending: st.Pending}
	want := Stats{Exporters: exporters, Definitions: definitions, Facts: facts, Unconfirmed: unconfirmed, Octets: octets, Pending: pending + len(q.s.due.underWay)}
	if got != want {
		q.t.Errorf("counts: want %+v, got %+v", want, got)
	}
	if ranked != definitions+facts || q.s.trust.definitions[0].n != unconfirmed {
		q.t.Errorf("order of eviction: want %d entries, %d unconfirmed; got %d, %d", definitions+facts, unconfirmed, ranked, q.s.trust.definitions[0].n)
	}
	if st.Octets > q.s.o.MaxOctets || definitions+facts > q.s.o.MaxTotal || unconfirmed > q.s.o.MaxUnconfirmed {
		q.t.Errorf("beyond the limits: %+v", st)
	}
}

// Thousands of datagrams, most of them forged, from many addresses and from that of
// an honest exporter. Throughout, the accounted octets must be half to twice what the
// heap has grown by, the counts must be those of what is held, and the honest
// exporters' flows must be decoded with their own layout.
func TestAHostileSequenceIsAccountedAndHarmsNoHonestExporter(t *testing.T) {
	seeds, datagrams := uint64(2), 6000
	if testing.Short() {
		seeds, datagrams = 1, 3000
	}
	for seed := range seeds {
		q := &sequence{t: t, c: &clock{t0}, rnd: rand.New(rand.NewPCG(seed, 20))}
		runtime.GC()
		before := heap()
		q.s = New(Options{Now: q.c.now, MaxPerExporter: 2000, MaxTotal: 20_000, MaxUnconfirmed: 5000,
			MaxOctets: 32 << 20, MaxExporterOctets: 4 << 20, MaxUnconfirmedOctets: 16 << 20})
		q.d.State = q.s
		empty := heap() - before
		split := netip.MustParseAddr("192.0.2.9") // sends data from another port than templates
		template := ipfixMessage(1, ipfixSet(templates, ipfixTemplate(honestLayout)))
		for i := range datagrams {
			q.c.ns += int64(1 + q.rnd.IntN(1e8))
			switch {
			case i%100 == 0:
				q.send(exporterA, 2055, template)
				q.send(split, 9001, template)
			case i%10 == 1:
				q.honest(exporterA, 2055)
				q.honest(split, 9000)
			case i%25 == 2:
				q.publish()
			case i%50 == 3: // other layouts at the split exporter's address, from a third port
				other := &decode.Template{ID: 300, Fields: append([]decode.Field{{PEN: uint32(i), ID: 1, Length: 4}}, honestLayout.Fields...)}
				q.send(split, uint16(7000+i%40), ipfixMessage(1, ipfixSet(templates, ipfixTemplate(other))))
			default:
				q.hostile()
			}
			if i%(datagrams/6) == datagrams/6-1 {
				q.r = decode.Result{}
				q.check()
				grown, accounted := heap()-before-empty, q.s.Stats().Octets
				t.Logf("seed %d, %d datagrams: heap %d KiB, accounted %d KiB (%.2f), %+v", seed, i+1, grown>>10, accounted>>10, float64(accounted)/float64(grown), q.s.Stats())
				if accounted < grown/2 || accounted > 2*grown {
					t.Errorf("seed %d, after %d datagrams the heap has grown by %d octets: want half to twice of that accounted, got %d", seed, i+1, grown, accounted)
				}
			}
		}
		if q.decoded != q.dataSets || q.dataSets < datagrams/10 {
			t.Errorf("seed %d: honest data sets decoded with their own layout: want %d, got %d", seed, q.dataSets, q.decoded)
		}
		if st := q.s.Stats(); st.Evicted == 0 {
			t.Errorf("seed %d: want entries evicted, got %+v", seed, st)
		}
	}
}
