package decode

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/ie"
	"weir/pkg/flowpb"
)

// Options templates of type information, written by hand by RFC 7011 section 3.4.2.2.
const (
	// All elements of RFC 5610 section 3: enterprise 346 and element 303 as scopes; data
	// type 339, semantics 344, units 345, range 342 and 343, name 341, description 340.
	typeInformation = "0003 002e" + "0102 0009 0002" + "015a0004" + "012f0002" +
		"01530001" + "01580001" + "01590002" + "01560008" + "01570008" + "0155ffff" + "0154ffff"
	// Template 258 of Ixia, as in ipfix_test_ixia_tpldata256 of the public corpus.
	ixiaTypeInformation = "0003 001e" + "0102 0005 0001" + "015a0004" + "012f0002" + "01530001" + "01580001" + "0155ffff"
)

// ipfixMessage puts a header of domain 256 before sets in hex.
func ipfixMessage(t testing.TB, sets ...string) []byte {
	t.Helper()
	body := fromHex(t, strings.Join(sets, ""))
	head := fromHex(t, "000a0000 68e77800 00000001 00000100")
	binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(body)))
	return append(head, body...)
}

// ixiaSet is a set of Ixia's template 258: of each record enterprise, element, data type
// and name.
func ixiaSet(records ...OptionsFact) string {
	var b []byte
	for _, f := range records {
		b = binary.BigEndian.AppendUint32(b, uint32(f.ID>>16))
		b = binary.BigEndian.AppendUint16(b, uint16(f.ID))
		b = append(b, byte(f.Number), 0)
		if len(f.Text) < 255 {
			b = append(b, byte(len(f.Text)))
		} else {
			b = binary.BigEndian.AppendUint16(append(b, 255), uint16(len(f.Text)))
		}
		b = append(b, f.Text...)
	}
	return fmt.Sprintf("0102%04x", len(b)+4) + hex.EncodeToString(b)
}

// definedBy is a fact of a definition.
func definedBy(pen uint32, id uint16, typ uint64, name string) OptionsFact {
	return OptionsFact{What: flowpb.Fact_WHAT_ELEMENT_DEFINITION, ID: uint64(pen)<<16 | uint64(id), Number: typ, Text: name}
}

// The records are octets by RFC 5610: 4242/17 is "queueDepth", unsigned32 (3), a gauge
// (semantics 0) in packets (units 3) of 0 to 1000, with a description.
func TestTypeInformationIsAFact(t *testing.T) {
	name, about := hex.EncodeToString([]byte("queueDepth")), hex.EncodeToString([]byte("packets in the queue"))
	const numbers = "00001092" + "0011" + "03" + "00" + "0003" + "0000000000000000" + "00000000000003e8"
	for _, tt := range []struct {
		name, template, record string
		want                   []OptionsFact
	}{
		{"all of RFC 5610", typeInformation, numbers + "0a" + name + "14" + about, []OptionsFact{definedBy(4242, 17, 3, "queueDepth")}},
		{"as Ixia sends it", ixiaTypeInformation, "00001092" + "0011" + "03" + "00" + "0a" + name, []OptionsFact{definedBy(4242, 17, 3, "queueDepth")}},
		{"a name in the long form", ixiaTypeInformation, "00001092" + "0011" + "03" + "00" + "ff000a" + name, []OptionsFact{definedBy(4242, 17, 3, "queueDepth")}},
		{"the element with the enterprise bit", ixiaTypeInformation, "00001092" + "8011" + "03" + "00" + "0a" + name,
			[]OptionsFact{definedBy(4242, 17, 3, "queueDepth")}},
		{"the greatest numbers", ixiaTypeInformation, "ffffffff" + "7fff" + "ff" + "00" + "0a" + name,
			[]OptionsFact{definedBy(4294967295, 32767, 255, "queueDepth")}},
		{"no name", ixiaTypeInformation, "00001092" + "0011" + "03" + "00" + "00", nil},
		{"a name of zeros", ixiaTypeInformation, "00001092" + "0011" + "03" + "00" + "020000", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			record := strings.ReplaceAll(tt.record, " ", "")
			pkt := ipfixMessage(t, tt.template, fmt.Sprintf("0102%04x", 4+len(record)/2), record)
			var r Result
			(&Decoder{State: newMemory()}).Read(pkt, &testMeta, &r)
			if len(r.Errors) > 0 || len(r.Options) != 1 {
				t.Fatalf("want one options record, got %d, errors %v", len(r.Options), r.Errors)
			}
			if d := cmp.Diff(tt.want, r.Options[0].Facts); d != "" {
				t.Errorf("facts (-want +got):\n%s", d)
			}
		})
	}
}

// Types are numbers of IANA's registry: 3 unsigned32, 13 string, 18 ipv4Address.
func TestElementsHaveTheNamesThatTheirExporterDefined(t *testing.T) {
	tmpl := fixed(8, 4, 12, 4, 4, 1)
	tmpl.Fields = append(tmpl.Fields, Field{PEN: 4242, ID: 17, Length: 4}, Field{PEN: 4242, ID: 18, Length: 4},
		Field{PEN: 3054, ID: 110, Length: 4}, Field{PEN: 4242, ID: 19, Length: 2}, Field{PEN: 4242, ID: 17, Length: 4})
	data := datagram(10, tmpl, fromHex(t, "0a0000010a00000211"+"00000007"+"c0000201"+"00000001"+"abcd"+"00000008"))
	raw := func(d17, d18 *flowpb.Element) []*flowpb.Element {
		return []*flowpb.Element{
			{Pen: 4242, Id: 17, Value: []byte{0, 0, 0, 7}, Name: d17.GetName(), Type: d17.GetType()},
			{Pen: 4242, Id: 18, Value: []byte{192, 0, 2, 1}, Name: d18.GetName(), Type: d18.GetType()},
			{Pen: 3054, Id: 110, Value: []byte{0, 0, 0, 1}},
			{Pen: 4242, Id: 19, Value: []byte{0xab, 0xcd}},
			{Pen: 4242, Id: 17, Value: []byte{0, 0, 0, 8}, Name: d17.GetName(), Type: d17.GetType()},
		}
	}
	queue, hop := &flowpb.Element{Name: "queueDepth", Type: 3}, &flowpb.Element{Name: "nearestHop", Type: 18}
	// The registry has a name for 3054/110, so the exporter's is not needed.
	all := ixiaSet(definedBy(4242, 17, 3, "queueDepth"), definedBy(4242, 18, 18, "nearestHop"), definedBy(3054, 110, 3, "theirs"))
	other := testMeta
	other.Exporter = other.Exporter.Next()
	for _, tt := range []struct {
		name string
		pkts [][]byte
		want []*flowpb.Element // of the last datagram
	}{
		{"nothing defined", [][]byte{data}, raw(nil, nil)},
		{"defined before", [][]byte{ipfixMessage(t, ixiaTypeInformation, all), data}, raw(queue, hop)},
		{"defined after", [][]byte{data, ipfixMessage(t, ixiaTypeInformation, all)}, raw(nil, nil)},
		{"one of them", [][]byte{ipfixMessage(t, ixiaTypeInformation, ixiaSet(definedBy(4242, 18, 18, "nearestHop"))), data}, raw(nil, hop)},
		{"redefined", [][]byte{
			ipfixMessage(t, ixiaTypeInformation, all),
			ipfixMessage(t, ixiaSet(definedBy(4242, 17, 13, "queueName"))), data,
		}, raw(&flowpb.Element{Name: "queueName", Type: 13}, hop)},
		{"another domain's", [][]byte{
			append(append([]byte{}, ipfixMessage(t, ixiaTypeInformation, all)[:12]...), append([]byte{0, 0, 2, 0}, ipfixMessage(t, ixiaTypeInformation, all)[16:]...)...),
			data,
		}, raw(nil, nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ds, d := newDecoders(), &Decoder{State: newMemory()}
			var got []*flowpb.FlowMessage
			for _, pkt := range tt.pkts {
				same(t, ds, pkt)
				got = append(got, wireFlows(t, d, pkt)...)
			}
			if len(got) != 1 {
				t.Fatalf("want one flow, got %d", len(got))
			}
			if diff := cmp.Diff(tt.want, got[0].Elements, protocmp.Transform()); diff != "" {
				t.Errorf("elements (-want +got):\n%s", diff)
			}
		})
	}
}

// The names that the operator gives are in force before those of exporters.
func TestTheOperatorsNameOfAnElementWins(t *testing.T) {
	ie.Extend([]ie.Extension{{Element: ie.Element{PEN: 4242, ID: 17, Type: ie.Unsigned, Name: "mine"}}})
	t.Cleanup(func() { ie.Extend(nil) })
	tmpl := fixed(8, 4, 12, 4)
	tmpl.Fields = append(tmpl.Fields, Field{PEN: 4242, ID: 17, Length: 4})
	ds, d := newDecoders(), &Decoder{State: newMemory()}
	var got []*flowpb.FlowMessage
	for _, pkt := range [][]byte{
		ipfixMessage(t, ixiaTypeInformation, ixiaSet(definedBy(4242, 17, 3, "theirs"))),
		datagram(10, tmpl, fromHex(t, "0a0000010a00000200000007")),
	} {
		same(t, ds, pkt)
		got = append(got, wireFlows(t, d, pkt)...)
	}
	if e := got[0].Elements; len(e) != 1 || e[0].Name != "" {
		t.Errorf("want one element without the exporter's name, got %v", e)
	}
}

// In NetFlow v9 no options record defines elements: there are no enterprise numbers.
func TestNetFlowV9DefinesNoElements(t *testing.T) {
	tmpl := &Template{ID: 258, Options: true, Scopes: 0, Fields: []Field{{PEN: 0, ID: 346, Length: 4}, {PEN: 0, ID: 303, Length: 2}, {PEN: 0, ID: 341, Length: 4}}}
	p, err := Compile(9, tmpl)
	if err != nil {
		t.Fatal(err)
	}
	s := Set{Meta: testMeta, Header: Header{Version: 9}, ID: 258, Data: fromHex(t, "00001092"+"0011"+"6e616d65")}
	var r Result
	(&Decoder{State: newMemory()}).ReadSet(&s, p, &r)
	if len(r.Options) != 1 || len(r.Options[0].Facts) != 0 {
		t.Errorf("want one record without facts, got %+v", r.Options)
	}
}

// A flow has the names of at most MaxDefined elements, each of at most MaxName octets,
// and MaxOctets ends the decoding as it does without names.
func TestDefinedNamesAreBounded(t *testing.T) {
	const fields = 300
	state := newMemory()
	tmpl := fixed(8, 4, 12, 4)
	var defs []OptionsFact
	for i := range uint16(fields) {
		tmpl.Fields = append(tmpl.Fields, Field{PEN: 4242, ID: i + 1, Length: 1})
		defs = append(defs, definedBy(4242, i+1, 22, strings.Repeat("n", 1000)))
	}
	d := &Decoder{State: state}
	for i := 0; i < fields; i += 50 {
		wireFlows(t, d, ipfixMessage(t, ixiaTypeInformation, ixiaSet(defs[i:i+50]...)))
	}
	const records = 100
	pkt := datagram(10, tmpl, make([]byte, records*(8+fields)))
	flows := wireFlows(t, d, pkt)
	if len(flows) != records {
		t.Fatalf("want %d flows, got %d", records, len(flows))
	}
	named := 0
	for i, e := range flows[0].Elements {
		switch {
		case e.Name == "" && i < MaxDefined, e.Name != "" && i >= MaxDefined, len(e.Name) > MaxName:
			t.Fatalf("element %d: name of %d octets", i, len(e.Name))
		case e.Name != "":
			named++
		}
	}
	if named != 128 {
		t.Errorf("want 128 named elements, got %d", named)
	}
	const limit = 200_000
	d.MaxOctets = limit
	var r Result
	d.Wire(pkt, &testMeta, &r)
	most := 128*(255+24) + fields*16 + 200 // of a flow, counted by hand: name, value and tags
	if len(r.Buf) > limit+most || len(r.Flows)+r.Beyond != records || r.Beyond == 0 {
		t.Errorf("%d octets, want at most %d; %d flows and %d beyond of %d", len(r.Buf), limit+most, len(r.Flows), r.Beyond, records)
	}
}

// defineSome makes the decoders know definitions of half of the template's elements.
func (ds decoders) defineSome(tmpl *Template, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	k := TemplateKey{Exporter: Map16(testMeta.Exporter), Domain: 256, Version: 10}
	for _, f := range tmpl.Fields {
		if rng.IntN(2) == 0 {
			continue
		}
		fact := definedBy(f.PEN, f.ID, uint64(rng.IntN(30)), strings.Repeat("ü", 1+rng.IntN(100)))
		for _, d := range ds.all() {
			d.State.LearnFact(&k, &testMeta, &Header{}, fact)
		}
	}
}

// Records of any fields with elements that have definitions, of variable length too.
func FuzzDefinedElements(f *testing.F) {
	f.Add(uint64(1), fromHex(f, "0000080004"+"00000c0004"+"0000040001"+"03750000ff"+"0375010002"+"037502ffff"), []byte(strings.Repeat("\x01\x02\x03", 300)))
	f.Add(uint64(2), fromHex(f, "00001b0010"+"00001c0010"+"0000040001"+"0375000002"+"0075010002"), []byte(strings.Repeat("\x01\x02\x03", 100)))
	f.Add(uint64(3), fromHex(f, "0375000002"), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, seed uint64, spec, data []byte) {
		tmpl := fuzzedTemplate(10, spec)
		if tmpl.Check(10) != nil || len(data) > 4000 {
			return
		}
		ds := newDecoders()
		ds.defineSome(&tmpl, seed)
		pkt := datagram(10, tmpl, data)
		same(t, ds, pkt)
		same(t, ds, pkt)
	})
}

// Ixia's own templates are in the corpus, its records of type information are not:
// those are made by hand for its template 258, and name elements that Weir's table
// of Ixia does not have.
func TestTemplatesOfIxiaBringNames(t *testing.T) {
	path := filepath.Join("..", "..", "..", "shared", "corpus", "pcap", "logstash__IPFIX_from_IXIA_something_something.pcap")
	if len(captures(t, filepath.Dir(path))) == 0 {
		t.Skip("SKIPPED: no corpus beside the repository")
	}
	d := &Decoder{State: newMemory()}
	for _, pkt := range captured(t, path) {
		if flows := wireFlows(t, d, pkt); len(flows) != 1 {
			t.Fatalf("want the capture's one flow, got %d", len(flows))
		}
	}
	tmpl := fixed(8, 4, 12, 4)
	tmpl.Fields = append(tmpl.Fields, Field{PEN: 3054, ID: 9000, Length: 4}, Field{PEN: 3054, ID: 110, Length: 4})
	defs := ipfixMessage(t, ixiaSet(definedBy(3054, 9000, 3, "newCounter"), definedBy(3054, 110, 3, "L7 Application ID")))
	data := datagram(10, tmpl, fromHex(t, "0a0000010a000002"+"00000007"+"00000001"))
	for _, pkt := range [][]byte{defs, data} {
		clear(pkt[12:16]) // the capture's domain is 0
	}
	var r Result
	d.Wire(defs, &testMeta, &r)
	if r.OptionsRecords != 2 || len(r.Errors) > 0 {
		t.Fatalf("want 2 options records by the capture's template, got %d, %v", r.OptionsRecords, r.Errors)
	}
	want := []*flowpb.Element{
		{Pen: 3054, Id: 9000, Value: []byte{0, 0, 0, 7}, Name: "newCounter", Type: 3},
		{Pen: 3054, Id: 110, Value: []byte{0, 0, 0, 1}},
	}
	if diff := cmp.Diff(want, wireFlows(t, d, data)[0].Elements, protocmp.Transform()); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
}
