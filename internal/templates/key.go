package templates

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// Keys of the shared log, integers in network byte order:
//
//	barrier:    0 | replica name
//	definition: 1 | exporter (16 octets, v4-mapped) | version (1) | domain (4) | template id (2) | definition hash (8)
//	fact:       2 | exporter (16) | version (1) | domain (4) | what (1) | id (8)
//
// The hash is in the key so that compaction, which keeps the last record of a
// key, can never replace a newer definition by a delayed older one.
const (
	kindBarrier    = 0
	kindDefinition = 1
	kindFact       = 2

	definitionKeyLen = 1 + scopeLen + 2 + 8
	factKeyLen       = 1 + scopeLen + 1 + 8
	scopeLen         = 16 + 1 + 4
)

// A scope is what template ids and facts are relative to.
type scope struct {
	exporter [16]byte // v4-mapped when IPv4
	domain   uint32
	version  uint8
}

func scopeOf(k *decode.TemplateKey) scope {
	return scope{exporter: k.Exporter, domain: k.Domain, version: k.Version}
}

func (s scope) append(b []byte) []byte {
	b = append(b, s.exporter[:]...)
	b = append(b, s.version)
	return binary.BigEndian.AppendUint32(b, s.domain)
}

func readScope(b []byte) scope {
	s := scope{version: b[16], domain: binary.BigEndian.Uint32(b[17:21])}
	copy(s.exporter[:], b)
	return s
}

// A definitionID is what a key says of a definition among those of a scope. The
// hash is not keyed: anybody can make another layout with the same one. It finds
// candidates; only an equal layout is the same definition.
type definitionID struct {
	template uint16
	hash     uint64
}

func definitionIDOf(t *decode.Template) definitionID {
	return definitionID{t.ID, layoutHash(t)}
}

// layoutHash returns the 64-bit xxHash of the canonical encoding of t's layout.
func layoutHash(t *decode.Template) uint64 {
	return xxhash.Sum64(t.AppendLayout(make([]byte, 0, 3+8*len(t.Fields))))
}

// A digest is the first 16 octets of the SHA-256 of the canonical encoding of a
// layout (decode.Template.AppendLayout).
type digest [16]byte

func layoutDigest(t *decode.Template) digest {
	sum := sha256.Sum256(t.AppendLayout(make([]byte, 0, 3+8*len(t.Fields))))
	return digest(sum[:16])
}

func definitionKey(s scope, d definitionID) []byte {
	b := s.append(append(make([]byte, 0, definitionKeyLen), kindDefinition))
	b = binary.BigEndian.AppendUint16(b, d.template)
	return binary.BigEndian.AppendUint64(b, d.hash)
}

// A factID is a fact among those of a scope.
type factID struct {
	what flowpb.Fact_What
	id   uint64
}

func factKey(s scope, f factID) []byte {
	b := s.append(append(make([]byte, 0, factKeyLen), kindFact))
	b = append(b, byte(f.what)) // checked where a fact comes in
	return binary.BigEndian.AppendUint64(b, f.id)
}

// errKey is what a key of the wrong length or kind gives.
var errKey = errors.New("key is neither a definition's nor a fact's")

// A key is a parsed key; one of definition and fact is not nil, unless barrier.
type key struct {
	barrier    bool
	scope      scope
	definition *definitionID
	fact       *factID
}

func parseKey(b []byte) (key, error) {
	switch {
	case len(b) >= 1 && b[0] == kindBarrier:
		return key{barrier: true}, nil
	case len(b) == definitionKeyLen && b[0] == kindDefinition:
		k := key{scope: readScope(b[1:]), definition: &definitionID{
			template: binary.BigEndian.Uint16(b[1+scopeLen:]),
			hash:     binary.BigEndian.Uint64(b[1+scopeLen+2:]),
		}}
		return k, k.scope.check()
	case len(b) == factKeyLen && b[0] == kindFact:
		k := key{scope: readScope(b[1:]), fact: &factID{
			what: flowpb.Fact_What(b[1+scopeLen]),
			id:   binary.BigEndian.Uint64(b[1+scopeLen+1:]),
		}}
		return k, k.scope.check()
	case len(b) == 0:
		return key{}, fmt.Errorf("%w: empty", errKey)
	default:
		return key{}, fmt.Errorf("%w: kind %d, %d octets", errKey, b[0], len(b))
	}
}

func (s scope) check() error {
	if s.version != 9 && s.version != 10 {
		return fmt.Errorf("version %d in key: want 9 or 10", s.version)
	}
	return nil
}

// BarrierKey is the key of a replica's barrier.
func BarrierKey(replica string) []byte {
	return append([]byte{kindBarrier}, replica...)
}

// IsBarrier reports whether a key is that of a barrier, of whichever replica.
func IsBarrier(k []byte) bool { return len(k) > 0 && k[0] == kindBarrier }

// schema is the version of ExporterState's meaning that is written and read.
const schema = 1
