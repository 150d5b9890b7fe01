package decode

import (
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"
)

// A mediator (RFC 6183) or relay exports the records of other exporters and names the original exporter
// in each: exporterIPv4Address, exporterIPv6Address (IE 130, 131). With Decoder.ExporterOfRecord this is
// the flow's exporter, with the name, site and address plan from the operator's file. Templates, options
// data and sampling rates remain those of the sender of the datagram.

// ofExporter reports whether a field names the exporter of the record.
func ofExporter(f Field) bool {
	return f.PEN == 0 && (f.ID == 130 && f.Length == 4 || f.ID == 131 && f.Length == 16)
}

// relayedBy stores the exporter that a field names, unless it is unspecified.
func (r *record) relayedBy(field []byte) {
	if a, ok := netip.AddrFromSlice(field); ok && !a.IsUnspecified() {
		r.exporter = a.Unmap()
	}
}

// exporterOf returns the operator's configuration of the record's exporter, never nil.
func (r *record) exporterOf() *Exporter {
	if r.exporterByAddr != nil {
		if e := r.exporterByAddr(r.exporter); e != nil {
			return e
		}
	}
	return &Exporter{}
}

// appendExporter appends the fields of the record's exporter. The head already has those of the
// sender: a protobuf parser takes the last occurrence of a field, so these replace them. Empty
// values must be written where the head has a value.
// The order is part of the contract: this must be appended after the head, in the same message.
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
