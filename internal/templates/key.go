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

// Keys of the shared log, with lengths in octets. Integers are in network byte order, IPv4
// addresses are v4-mapped:
//
//	barrier:                0 | replica name
//	definition by hash:     1 | exporter (16) | version (1) | domain (4) | template id (2) | layout hash (8)
//	fact:                   2 | exporter (16) | version (1) | domain (4) | what (1) | id (8)
//	definition by digest:   3 | exporter (16) | version (1) | domain (4) | template id (2) | layout digest (16)
//
// The digest is the first 16 octets of the SHA-256, the hash the 64-bit xxHash of
// the canonical encoding of the layout (decode.Template.AppendLayout). The key of a
// definition contains its digest or hash, so that compaction, which keeps the last record
// of a key, cannot replace a newer definition by a delayed older definition.
//
// Records by hash serve replicas of older versions, which skip kind 3 as poison. The
// hash has no secret key: a sender can forge a second layout with the hash of an honest
// layout, and its record then replaces the honest record on the topic. A replica reads
// both kinds and merges them by the layout in the value.
//
// Keys are part of the format that old and new replicas share: they must not change.
const (
	kindBarrier          = 0
	kindDefinitionHash   = 1
	kindFact             = 2
	kindDefinitionDigest = 3

	hashKeyLen   = 1 + scopeLen + 2 + 8
	digestKeyLen = 1 + scopeLen + 2 + 16
	factKeyLen   = 1 + scopeLen + 1 + 8
	scopeLen     = 16 + 1 + 4
)

// A scope is the name space of template ids and facts: an Observation Domain (RFC 7011
// section 3.4.1).
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

// A definitionID identifies a definition within a scope. digest and hash must be computed
// from the layout, never copied from a record's key.
type definitionID struct {
	template uint16
	digest   digest
	hash     uint64
}

func definitionIDOf(t *decode.Template) definitionID {
	return definitionID{t.ID, layoutDigest(t), layoutHash(t)}
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

// recordKey returns the key of a definition's record of a kind.
func recordKey(s scope, d definitionID, by recordKind) []byte {
	if by == hashRecord {
		return hashKey(s, d)
	}
	return definitionKey(s, d)
}

// definitionKey returns the key of a definition's record by digest.
func definitionKey(s scope, d definitionID) []byte {
	b := s.append(append(make([]byte, 0, digestKeyLen), kindDefinitionDigest))
	b = binary.BigEndian.AppendUint16(b, d.template)
	return append(b, d.digest[:]...)
}

// hashKey returns the key of a definition's record by hash.
func hashKey(s scope, d definitionID) []byte {
	b := s.append(append(make([]byte, 0, hashKeyLen), kindDefinitionHash))
	b = binary.BigEndian.AppendUint16(b, d.template)
	return binary.BigEndian.AppendUint64(b, d.hash)
}

// A definitionRef identifies a definition by digest or by hash, according to by. The other field is zero.
type definitionRef struct {
	by       recordKind
	template uint16
	digest   digest
	hash     uint64
}

// names reports whether r refers to the definition with that id.
func (r *definitionRef) names(id *definitionID) bool {
	if r.by == hashRecord {
		return r.template == id.template && r.hash == id.hash
	}
	return r.template == id.template && r.digest == id.digest
}

func (r *definitionRef) String() string {
	if r.by == hashRecord {
		return fmt.Sprintf("template %d with hash %016x", r.template, r.hash)
	}
	return fmt.Sprintf("template %d with digest %x", r.template, r.digest)
}

// A factID identifies a fact within a scope.
type factID struct {
	what flowpb.Fact_What
	id   uint64 // such as a sampler id or an interface index
}

func factKey(s scope, f factID) []byte {
	b := s.append(append(make([]byte, 0, factKeyLen), kindFact))
	b = append(b, byte(f.what)) // LearnFact and parse check the range
	return binary.BigEndian.AppendUint64(b, f.id)
}

// errKey is the error for a key of the wrong length or kind.
var errKey = errors.New("key is neither a definition's nor a fact's")

// A key is a parsed key. Unless it is a barrier, either definition or fact is not nil.
type key struct {
	barrier    bool
	scope      scope
	definition *definitionRef
	fact       *factID
}

// parseKey parses the key of a record of the shared log.
func parseKey(b []byte) (key, error) {
	switch {
	case len(b) >= 1 && b[0] == kindBarrier:
		return key{barrier: true}, nil
	case len(b) == hashKeyLen && b[0] == kindDefinitionHash:
		k := key{scope: readScope(b[1:]), definition: &definitionRef{
			by:       hashRecord,
			template: binary.BigEndian.Uint16(b[1+scopeLen:]),
			hash:     binary.BigEndian.Uint64(b[1+scopeLen+2:]),
		}}
		return k, k.scope.check()
	case len(b) == digestKeyLen && b[0] == kindDefinitionDigest:
		k := key{scope: readScope(b[1:]), definition: &definitionRef{
			by:       digestRecord,
			template: binary.BigEndian.Uint16(b[1+scopeLen:]),
			digest:   digest(b[1+scopeLen+2:]),
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

// BarrierKey returns the key of a replica's barrier.
func BarrierKey(replica string) []byte {
	return append([]byte{kindBarrier}, replica...)
}

// IsBarrier reports whether k is the key of a barrier, of any replica.
func IsBarrier(k []byte) bool { return len(k) > 0 && k[0] == kindBarrier }

// schema is the version of the format of ExporterState. A reader rejects all others.
const schema = 1
