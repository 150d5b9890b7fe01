package pair

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/pkg/flowpb"
)

func message() *flowpb.FlowMessage {
	return &flowpb.FlowMessage{
		SrcAddr: []byte{10, 0, 0, 5}, DstAddr: []byte{192, 0, 2, 80}, SrcPort: 40000, DstPort: 443, Proto: 6,
		SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 900, Packets: 9,
		TimeReceivedNs: 100e9, TimeExportNs: 100e9, TimeFlowStartNs: 98e9, TimeFlowEndNs: 99e9, TimeResolutionUs: 1000,
	}
}

func TestFromMessage(t *testing.T) {
	s := int64(time.Second)
	tests := []struct {
		name string
		set  func(*flowpb.FlowMessage)
		ok   bool
		is   func(*Flow) bool
	}{
		{"as it is", func(*flowpb.FlowMessage) {}, true, func(f *Flow) bool { return f.SrcIsLo && f.Start == 98*s && f.End == 99*s && f.quality == 0 }},
		{"no destination", func(m *flowpb.FlowMessage) { m.DstAddr = nil }, false, nil},
		{"a NAT event without counters", func(m *flowpb.FlowMessage) { m.NatEvent, m.Bytes, m.Packets = 1, 0, 0 }, false, nil},
		{"an exporter an hour behind is shifted", func(m *flowpb.FlowMessage) {
			m.TimeReceivedNs += 3600e9
		}, true, func(f *Flow) bool {
			return f.Start == 3698*s && f.End == 3699*s && f.quality == bit(flowpb.Quality_QUALITY_TIME_CORRECTED)
		}},
		{"9 s off are within the tolerance", func(m *flowpb.FlowMessage) { m.TimeReceivedNs += 9e9 }, true, func(f *Flow) bool { return f.Start == 98*s }},
		{"swapped times", func(m *flowpb.FlowMessage) { m.TimeFlowStartNs, m.TimeFlowEndNs = 99e9, 98e9 }, true, func(f *Flow) bool { return f.Start == 98*s }},
		{"no ports: a later fragment", func(m *flowpb.FlowMessage) { m.SrcPort, m.DstPort = 0, 0 }, true, func(f *Flow) bool {
			return f.quality == bit(flowpb.Quality_QUALITY_FRAGMENT)
		}},
		{"a translated source keeps the inside and tells the outside", func(m *flowpb.FlowMessage) {
			m.PostNatSrcAddr, m.PostNatSrcPort = []byte{198, 51, 100, 1}, 61000
		}, true, func(f *Flow) bool {
			return netip.AddrFrom16(f.Key.Lo).Unmap().String() == "10.0.0.5" && f.NATSrc.port == 61000 && f.NATDst == endpoint{}
		}},
		{"the reply to a translated source meets it", func(m *flowpb.FlowMessage) {
			m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = []byte{192, 0, 2, 80}, []byte{198, 51, 100, 1}, 443, 61000
			m.PostNatDstAddr, m.PostNatDstPort = []byte{10, 0, 0, 5}, 40000
		}, true, func(f *Flow) bool {
			return netip.AddrFrom16(f.Key.Lo).Unmap().String() == "10.0.0.5" && f.Key.LoPort == 40000 && !f.SrcIsLo && f.NATDst.port == 61000
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := message()
			tt.set(m)
			f, ok := FromMessage(m, &testConfig)
			if ok != tt.ok || ok && !tt.is(&f) {
				t.Errorf("ok: want %v, got %v, %+v", tt.ok, ok, f)
			}
		})
	}
}

func TestConfigReportsEveryMistake(t *testing.T) {
	c := testConfig
	c.Idle, c.Linger, c.MaxOpen = 60*time.Second, 0, 0
	err := c.Validate()
	for _, want := range []string{"PAIR_IDLE=1m0s", "PAIR_LINGER=0s", "PAIR_MAX_OPEN=0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	if err := testConfig.Validate(); err != nil {
		t.Errorf("the test's configuration: %v", err)
	}
}
