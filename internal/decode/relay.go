package decode

import (
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/pkg/flowpb"
)

// A mediator or relay exports the records of other exporters and says in each
// whose it is: exporterIPv4Address, exporterIPv6Address (IE 130, 131). By option
// that one is the flow's exporter, its name, site and address plan those of the
// operator's file. Templates, facts and sampling stay with who sent the datagram.

// ofExporter reports whether a field names the record's exporter.
func ofExporter(f Field) bool {
	return f.PEN == 0 && (f.ID == 130 && f.Length == 4 || f.ID == 131 && f.Length == 16)
}

// relayedBy notes the exporter that a field names, unless it is not set.
func (r *record) relayedBy(field []byte) {
	if a, ok := netip.AddrFromSlice(field); ok && !a.IsUnspecified() {
		r.exporter = a.Unmap()
	}
}

// exporterOf is what the operator says of the record's exporter.
func (r *record) exporterOf() *Exporter {
	if r.exporterByAddr != nil {
		if e := r.exporterByAddr(r.exporter); e != nil {
			return e
		}
	}
	return &Exporter{}
}

// appendExporter appends the record's exporter. Of a field that is there twice
// the last one counts (protobuf's encoding, "last one wins").
func (r *record) appendExporter(dst []byte, c *context) []byte {
	if !r.exporter.IsValid() {
		return dst
	}
	dst = octets(dst, fSampler, r.exporter.AsSlice())
	e := r.exporterOf()
	if e.Name != "" || c.exporter.Name != "" {
		dst = protowire.AppendString(protowire.AppendTag(dst, fExporterName, protowire.BytesType), e.Name)
	}
	if e.Site != "" || c.exporter.Site != "" {
		dst = protowire.AppendString(protowire.AppendTag(dst, fSite, protowire.BytesType), e.Site)
	}
	if e.AddressPlan != "" || c.exporter.AddressPlan != "" {
		dst = protowire.AppendString(protowire.AppendTag(dst, fAddressPlan, protowire.BytesType), e.AddressPlan)
	}
	return dst
}

// setExporter is appendExporter of the readable path.
func (r *record) setExporter(m *flowpb.FlowMessage) {
	if !r.exporter.IsValid() {
		return
	}
	e := r.exporterOf()
	m.SamplerAddress, m.ExporterName, m.Site, m.AddressPlan = r.exporter.AsSlice(), e.Name, e.Site, e.AddressPlan
}
