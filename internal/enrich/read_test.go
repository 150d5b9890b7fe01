package enrich

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/annotate"
	"weir/internal/flowkey"
	"weir/internal/pair"
	"weir/internal/weirtest/messages"
	"weir/pkg/flowpb"
)

// The fields that flowpb.ReadPairingFields reads are all that pairing, metrics and annotation use.
func FuzzPairingFieldsAreEnough(f *testing.F) {
	seed := make([]byte, 100)
	for i := range seed {
		seed[i] = byte(i*37 + 1)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Add(seed[:40])
	f.Fuzz(func(t *testing.T, seed []byte) {
		b, err := proto.Marshal(messages.Filled(seed))
		if err != nil {
			t.Fatal(err)
		}
		var want, got flowpb.FlowMessage
		if err := proto.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if err := flowpb.ReadPairingFields(b, &got); err != nil {
			t.Fatal(err)
		}
		for _, c := range []pair.Config{pairing, {Scope: pair.ScopeVRF, MaxClockSkew: pairing.MaxClockSkew, DedupContent: true}} {
			a, aOK := pair.FromMessage(&want, &c)
			z, zOK := pair.FromMessage(&got, &c)
			if a != z || aOK != zOK {
				t.Errorf("pairing sees %+v, want %+v", z, a)
			}
		}
		var x, y tally
		x.flow(&want)
		y.flow(&got)
		for k, v := range x.crossings {
			if y.crossings[k] != v {
				t.Errorf("traffic: want %+v %+v, got %+v", k, v, y.crossings)
			}
		}
		l, o := annotate.NewLearned(nil), annotate.NewLearned(nil)
		l.Learn(&want)
		o.Learn(&got)
		application := uint64(0)
		for _, b := range want.ApplicationId {
			application = application<<8 | uint64(b)
		}
		exporter, domain := flowkey.AddressOrZero(want.SamplerAddress), want.ObservationDomainId
		for _, k := range []annotate.NameKey{
			{Exporter: exporter},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(want.InIf)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(want.OutIf)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_VRF_NAME, ID: uint64(want.IngressVrfId)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_VRF_NAME, ID: uint64(want.EgressVrfId)},
			{Exporter: exporter, Domain: domain, What: flowpb.Fact_WHAT_APPLICATION_NAME, ID: application},
		} {
			if v := l.Name(k); o.Name(k) != v {
				t.Errorf("name of %v: want %q, got %q", k, v, o.Name(k))
			}
		}
		fl := newFacts()
		fl.complete(&want)
		fl.complete(&got)
		if want.SamplingRate != got.SamplingRate || want.SamplerId != got.SamplerId || want.Type != got.Type {
			t.Errorf("rate, sampler, type: want %v, got %v", &want, &got)
		}
	})
}
