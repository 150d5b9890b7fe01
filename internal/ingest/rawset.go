package ingest

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/transport"
	"weir/pkg/flowpb"
)

// undecodedKey returns the Kafka key of a set, integers in network byte order: exporter (16 octets,
// v4-mapped) | version (1) | domain (4) | template id (2). All sets that wait for a template are in the
// same partition. Example for IPFIX template 256 of domain 1 of 192.0.2.1: 00000000 00000000 0000ffff
// c0000201 | 0a | 00000001 | 0100.
func undecodedKey(k *decode.TemplateKey) []byte {
	b := append(make([]byte, 0, undecodedKeyLen), k.Exporter[:]...)
	b = append(b, k.Version)
	b = binary.BigEndian.AppendUint32(b, k.Domain)
	return binary.BigEndian.AppendUint16(b, k.ID)
}

// undecodedKeyLen is the length of a key, octets. It must not change: the partition of a key would change
// with it.
const undecodedKeyLen = 16 + 1 + 4 + 2

// parseUndecodedKey is the inverse of undecodedKey. Keys of another length are of another program or a
// later version.
func parseUndecodedKey(b []byte) (k decode.TemplateKey, err error) {
	if len(b) != undecodedKeyLen {
		return k, fmt.Errorf("key of %d octets: want %d", len(b), undecodedKeyLen)
	}
	copy(k.Exporter[:], b)
	k.Version, k.Domain, k.ID = b[16], binary.BigEndian.Uint32(b[17:]), binary.BigEndian.Uint16(b[21:])
	return k, nil
}

// rawSetSchema is the value of RawSet.schema that this version writes and reads. A reader must skip other
// values, as records of a later version.
const rawSetSchema = 1

// rawSet returns the message of a set. It shares the octets of s.Data, so that it must be encoded before s
// changes. It contains all that decoding needs of the datagram: an uptime, for example, is relative to the
// header's clock.
func rawSet(s *decode.Set) *flowpb.RawSet {
	return &flowpb.RawSet{
		Schema: rawSetSchema, Exporter: s.Meta.Exporter.AsSlice(), ExporterPort: uint32(s.Meta.Port),
		Version: uint32(s.Header.Version), Domain: s.Header.Domain, TemplateId: uint32(s.ID),
		ExportNs: s.Header.Export, UptimeMs: s.Header.Uptime, Sequence: s.Header.Sequence,
		DatagramHash: s.Hash, Offset: uint32(s.Off), Data: s.Data, FirstReceivedNs: s.Meta.Received,
	}
}

// parseRawSet parses a record's value. An error makes it a poison record, to be skipped.
func parseRawSet(value []byte) (*decode.Set, *flowpb.RawSet, error) {
	var m flowpb.RawSet
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, nil, fmt.Errorf("value: %w", err)
	}
	s, err := setFromMessage(&m)
	return s, &m, err
}

// setFromMessage returns the set of m, or an error if m is invalid. Its Data is m's. Every value is
// checked, since another writer to the topic may be hostile or of another version.
func setFromMessage(m *flowpb.RawSet) (*decode.Set, error) {
	addr, ok := netip.AddrFromSlice(m.GetExporter())
	switch {
	case m.GetSchema() != rawSetSchema:
		return nil, fmt.Errorf("schema %d: this version reads %d", m.GetSchema(), rawSetSchema)
	case !ok || m.GetExporterPort() > math.MaxUint16:
		return nil, fmt.Errorf("exporter of %d octets, port %d: want an address and a port",
			len(m.GetExporter()), m.GetExporterPort())
	case m.GetVersion() != 9 && m.GetVersion() != 10:
		return nil, fmt.Errorf("version %d: want 9 or 10", m.GetVersion())
	case m.GetTemplateId() < 256 || m.GetTemplateId() > math.MaxUint16:
		return nil, fmt.Errorf("template id %d: want 256 to 65535", m.GetTemplateId())
	case m.GetOffset() > transport.MaxDatagram || len(m.GetData()) > transport.MaxDatagram:
		return nil, fmt.Errorf("%d octets at offset %d: larger than a datagram", len(m.GetData()), m.GetOffset())
	}
	return &decode.Set{
		Meta: decode.Meta{Exporter: addr.Unmap(), Port: uint16(m.GetExporterPort()), Received: m.GetFirstReceivedNs()},
		Header: decode.Header{
			Version: uint16(m.GetVersion()), Domain: m.GetDomain(),
			Export: m.GetExportNs(), Uptime: m.GetUptimeMs(), Sequence: m.GetSequence(),
		},
		Hash: m.GetDatagramHash(), ID: uint16(m.GetTemplateId()), Off: int(m.GetOffset()), Data: m.GetData(),
	}, nil
}
