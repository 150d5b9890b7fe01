package templates

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// state returns the fields of a record's value that definitions and facts share.
func (s scope) state(replica string, o origin) *flowpb.ExporterState {
	return &flowpb.ExporterState{
		Schema:   schema,
		Exporter: netip.AddrFrom16(s.exporter).Unmap().AsSlice(),
		Version:  uint32(s.version),
		Domain:   s.domain,
		ExportNs: o.export,
		UptimeMs: o.uptime,
		Sequence: o.sequence,
		Replica:  replica,
	}
}

// value implements publishable. Both records of a definition have this value; only their keys differ. The shard's lock
// must be held. It fails for a replica's name that is not valid UTF-8.
func (d *definition) value(replica string) ([]byte, error) {
	t := d.plan.Template()
	def := &flowpb.TemplateDefinition{
		TemplateId: uint32(d.id.template),
		Options:    t.Options,
		ScopeCount: uint32(t.Scopes), // Compile bounds it by the number of fields
		Fields:     make([]*flowpb.FieldSpec, 0, len(t.Fields)),
		Sources:    make([]*flowpb.TemplateSource, 0, len(d.sources)),
	}
	for _, f := range t.Fields {
		def.Fields = append(def.Fields, &flowpb.FieldSpec{Pen: f.PEN, Id: uint32(f.ID), Length: uint32(f.Length)})
	}
	for _, src := range d.sources {
		def.Sources = append(def.Sources, &flowpb.TemplateSource{Port: uint32(src.port), ReceivedNs: src.received})
	}
	st := d.domain.scope.state(replica, d.origin)
	st.ReceivedNs, st.FirstReceivedNs = d.received.Load(), d.first
	st.Confirmed, st.RemovedNs = d.confirmed, d.removed
	st.State = &flowpb.ExporterState_Definition{Definition: def}
	return proto.Marshal(st)
}

// value implements publishable. Number and text of a source are left out where they are the fact's own, so that the
// usual fact, which all ports send alike, stays small. The shard's lock must be held. It fails for a text that is not
// valid UTF-8.
func (f *fact) value(replica string) ([]byte, error) {
	st := f.domain.scope.state(replica, f.origin)
	st.ReceivedNs, st.FirstReceivedNs = f.received, f.first
	fact := &flowpb.Fact{What: f.id.what, Id: f.id.id, Number: f.is.number, Text: f.is.text}
	var space [maxSources]factSource
	for _, s := range f.sources(space[:0]) {
		if s.port == noPort {
			continue
		}
		src := &flowpb.FactSource{Port: uint32(s.port), ReceivedNs: s.received}
		if s.is != f.is {
			src.Number, src.Text = s.is.number, s.is.text
		}
		fact.Sources = append(fact.Sources, src)
	}
	st.State = &flowpb.ExporterState_Fact{Fact: fact}
	return proto.Marshal(st)
}

// kind and exporter implement publishable.
func (f *fact) kind() kind         { return ofFacts }
func (f *fact) exporter() [16]byte { return f.domain.scope.exporter }
