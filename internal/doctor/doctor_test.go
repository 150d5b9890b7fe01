package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

const (
	second = uint64(time.Second)
	noon   = uint64(1_764_504_000) * second // 2025-11-30 12:00 UTC
)

var router = Stream{Exporter: netip.MustParseAddr("192.0.2.1"), Version: 9, Domain: 7}

// sound returns a flow without a fault, a direction of conversation n.
func sound(n int, back bool) *flowpb.FlowMessage {
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_NETFLOW_V9, SamplerAddress: []byte{192, 0, 2, 1}, ObservationDomainId: 7,
		SrcAddr: []byte{198, 51, 100, byte(n)}, DstAddr: []byte{203, 0, 113, 1}, SrcPort: 40000, DstPort: 443, Proto: 6,
		Bytes: 1000, Packets: 10, InIf: 1, OutIf: 2, SamplingRate: 1,
		TimeFlowStartNs: noon - 10*second, TimeFlowEndNs: noon - 5*second, TimeExportNs: noon, TimeSource: flowpb.TimeSource_TIME_SOURCE_UPTIME,
	}
	if back {
		m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort, m.InIf, m.OutIf = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort, m.OutIf, m.InIf
	}
	return m
}

// observe passes a minute of a device to c: a template, two messages and 60 flows of 30
// conversations, each changed by f.
func observe(c *Checkup, f func(i int, m *flowpb.FlowMessage)) {
	c.Message(router, int64(noon), int64(noon))
	c.Template(router, 256, int64(noon))
	for i := range 60 {
		m := sound(i/2, i%2 == 1)
		if f != nil {
			f(i, m)
		}
		c.Flow(m)
	}
	c.Message(router, int64(noon+60*second), int64(noon+60*second))
}

// found returns the rules of the findings.
func found(c *Checkup) (out []Rule) {
	for _, f := range c.Findings() {
		out = append(out, f.Rule)
	}
	return out
}

func TestASoundExporterHasNoFinding(t *testing.T) {
	c := New()
	observe(c, nil)
	if f := c.Findings(); f != nil {
		t.Errorf("got %+v", f)
	}
	want := []Summary{{Stream: router, Messages: 2, Flows: 60, Period: time.Minute}}
	if got := c.Streams(); !slices.Equal(got, want) {
		t.Errorf("streams: want %+v, got %+v", want, got)
	}
}

func TestEachFaultIsFoundByItsRule(t *testing.T) {
	alter := func(f func(i int, m *flowpb.FlowMessage)) func(*Checkup) {
		return func(c *Checkup) { observe(c, f) }
	}
	for _, test := range []struct {
		rule   Rule
		what   string // substring of Finding.What
		device func(*Checkup)
	}{
		{SamplingUnknown, "60 of 60", alter(func(_ int, m *flowpb.FlowMessage) { m.SamplingRate = 0 })},
		{NoInterfaces, "60 of 60", alter(func(_ int, m *flowpb.FlowMessage) { m.InIf, m.OutIf = 0, 0 })},
		{ClockOff, "1m30s slow", func(c *Checkup) {
			c.Message(router, int64(noon+90*second), int64(noon))
			c.Message(router, int64(noon+92*second), int64(noon))
		}},
		{ClockOff, "30s fast", func(c *Checkup) { c.Message(router, int64(noon), int64(noon+30*second)) }},
		{TemplateRare, "30m0s: 256", func(c *Checkup) {
			observe(c, nil)
			c.Message(router, int64(noon+1800*second), int64(noon+1800*second))
		}},
		{TemplateMissing, "3 data sets without their template: 256, 300", func(c *Checkup) {
			observe(c, nil)
			c.Undecoded(router, 300)
			c.Undecoded(router, 256)
			c.Undecoded(router, 300)
		}},
		{ExportTimeOnly, "60 of 60", alter(func(_ int, m *flowpb.FlowMessage) { m.TimeSource = flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME })},
		{TimesImplausible, "1 of 60", alter(func(i int, m *flowpb.FlowMessage) {
			if i == 7 {
				m.TimeFlowStartNs, m.TimeFlowEndNs = m.TimeFlowStartNs-43*86400*second, m.TimeFlowEndNs-43*86400*second
			}
		})},
		{FlowsLong, "2 of 60 flows longer than 2 min, the longest 30m0s", alter(func(i int, m *flowpb.FlowMessage) {
			if i < 2 {
				m.TimeFlowStartNs = m.TimeFlowEndNs - 1800*second
			}
		})},
		{ElementsUnnamed, "0/39999 (60)", alter(func(_ int, m *flowpb.FlowMessage) {
			m.Elements = []*flowpb.Element{{Id: 39999, Value: []byte{1}}, {Id: 1, Value: []byte{1}}}
		})},
		{CountersZero, "1 of 60", alter(func(i int, m *flowpb.FlowMessage) {
			if i == 0 {
				m.Bytes, m.Packets = 0, 0
			}
		})},
		{FirewallTotals, "10 of 20", alter(func(i int, m *flowpb.FlowMessage) {
			if i < 30 { // 20 flow ids: 10 with an update and a teardown
				m.FlowId, m.FirewallEvent = uint64(1+i%20), 5
				if i >= 20 {
					m.FirewallEvent = 2
				}
			}
		})},
		{MeteredTwice, "20 of 80", func(c *Checkup) {
			observe(c, nil)
			for i := range 20 {
				m := sound(i, false)
				m.InIf, m.OutIf = 8, 9
				c.Flow(m)
			}
		}},
		{MeteredBothWays, "20 of 80", func(c *Checkup) {
			observe(c, func(_ int, m *flowpb.FlowMessage) { m.FlowDirection = flowpb.FlowDirection_FLOW_DIRECTION_INGRESS })
			for i := range 20 {
				m := sound(i, false)
				m.FlowDirection = flowpb.FlowDirection_FLOW_DIRECTION_EGRESS
				c.Flow(m)
			}
		}},
		{OneDirection, "30 of 30", func(c *Checkup) {
			for i := range 30 {
				c.Flow(sound(i, false))
			}
		}},
		{SequenceGaps, "5 of 105 records", func(c *Checkup) { c.Lost(router, 5, 105, "records") }},
	} {
		t.Run(string(test.rule)+" "+test.what, func(t *testing.T) {
			c := New()
			test.device(c)
			got := c.Findings()
			if len(got) != 1 || got[0].Rule != test.rule || !strings.Contains(got[0].What, test.what) || got[0].Advice == "" {
				t.Errorf("want %s with %q alone, got %+v", test.rule, test.what, got)
			}
		})
	}
}

func TestASampleIsNotJudgedByWhatItLacks(t *testing.T) {
	c := NewOfSample()
	for i := range 30 {
		c.Flow(sound(i, false))
	}
	c.Undecoded(router, 300)
	c.Lost(router, 1, 2, "flows")
	if got := found(c); got != nil {
		t.Errorf("got %v", got)
	}
	c.Flow(&flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V9, SamplerAddress: []byte{192, 0, 2, 1}, ObservationDomainId: 7, SamplingRate: 1, InIf: 1})
	if got := found(c); !slices.Equal(got, []Rule{CountersZero}) {
		t.Errorf("want %s, got %v", CountersZero, got)
	}
}

func TestFirewallEventsWithoutCountersAreNoFault(t *testing.T) {
	c := New()
	observe(c, func(_ int, m *flowpb.FlowMessage) { m.FirewallEvent, m.Bytes, m.Packets, m.SamplingRate = 1, 0, 0, 0 })
	if got := found(c); got != nil {
		t.Errorf("got %v", got)
	}
}

// An element has a name if its exporter defined it (RFC 5610).
func TestElementsThatTheirExporterNamesAreNoFault(t *testing.T) {
	for name, want := range map[string][]Rule{"queueDepth": nil, "": {ElementsUnnamed}} {
		c := New()
		observe(c, func(_ int, m *flowpb.FlowMessage) {
			m.Type = flowpb.FlowMessage_IPFIX
			m.Elements = []*flowpb.Element{{Pen: 4242, Id: 9, Value: []byte{1}, Name: name}}
		})
		if got := found(c); !slices.Equal(got, want) {
			t.Errorf("name %q: want %v, got %v", name, want, got)
		}
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	c := New()
	for i := range 3 * maxRecords {
		m := sound(i, false)
		m.SrcPort, m.SrcAddr = uint32(i), []byte{198, 18, byte(i >> 8), byte(i)}
		m.FlowId, m.FirewallEvent = uint64(i+1), 5
		m.Elements = []*flowpb.Element{{Pen: uint32(i), Id: 32000}}
		c.Flow(m)
		c.Template(router, uint16(i), 1)
		c.Undecoded(router, uint16(i))
		c.Message(Stream{Exporter: router.Exporter, Version: 9, Domain: uint32(i)}, 1, 1)
	}
	h := c.streams.Get(router)
	for what, n := range map[string][2]int{
		"streams": {c.streams.Len(), maxStreams}, "records": {len(h.records), maxRecords}, "conversations": {len(h.conversations), maxConversations},
		"flow ids": {len(h.flowIDs), maxFlowIDs}, "elements": {h.unnamed.Len(), maxUnnamed}, "templates": {h.templates.Len(), maxTemplates}, "undecoded": {h.undecoded.Len(), maxTemplates},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d, want %d", what, n[0], n[1])
		}
	}
	if c.Beyond() == 0 {
		t.Error("streams beyond the bound are not counted")
	}
}

// Each stream may hold thousands of records, and there may be a thousand streams. The sum
// must stay below maxHeld.
func TestWhatIsKeptOfAllStreamsIsBounded(t *testing.T) {
	c := New()
	const streams = 100
	for i := range 4000 {
		for s := range streams {
			m := sound(i, false)
			m.SrcPort, m.SrcAddr, m.ObservationDomainId = uint32(i), []byte{198, 18, byte(i >> 8), byte(i)}, uint32(s)
			m.FlowId, m.FirewallEvent = uint64(i+1), 5
			c.Flow(m)
		}
	}
	n := 0
	for s, h := range c.streams.All() {
		n += len(h.records) + len(h.conversations) + len(h.flowIDs)
		if min(len(h.records), len(h.conversations), len(h.flowIDs)) < fewHeld {
			t.Errorf("of domain %d: %d records, %d conversations, %d flow ids", s.Domain, len(h.records), len(h.conversations), len(h.flowIDs))
		}
	}
	if n < maxHeld || n > maxHeld+3*fewHeld*streams || n != c.held {
		t.Errorf("%d are kept and %d counted, want about %d", n, c.held, maxHeld)
	}
}

func TestElementsWithoutANameAreListedInOneOrder(t *testing.T) {
	m := sound(0, false)
	for pen := range uint32(6) {
		m.Elements = append(m.Elements, &flowpb.Element{Pen: 60000 - pen, Id: 32000})
	}
	for range 20 {
		c := New()
		c.Flow(m)
		const want = ": 59995/32000 (1), 59996/32000 (1), 59997/32000 (1), 59998/32000 (1), 59999/32000 (1), 60000/32000 (1)"
		if what := unnamedElements(router, c.streams.Get(StreamOf(m))); !strings.HasSuffix(what, want) {
			t.Fatalf("%s\nwant the end %s", what, want)
		}
	}
}

// FuzzFlow checks that no flow makes a Checkup panic.
func FuzzFlow(f *testing.F) {
	b, err := proto.Marshal(sound(1, false))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		var m flowpb.FlowMessage
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		c := New()
		c.Flow(&m)
		c.Flow(&m)
		c.Findings()
	})
}
