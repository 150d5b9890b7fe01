package flowkey

import (
	"crypto/sha1" // the Community ID specification's hash, not a security boundary
	"encoding/base64"
	"encoding/binary"
)

// CommunityID returns the Community ID v1 of k for seed: "1:" and the base64
// of SHA-1 over seed, addresses, protocol, a zero octet and ports. It is equal
// for both directions. One-way ICMP hashes type and code in the record's
// direction.
func (k *Key) CommunityID(seed uint16) string { return string(k.AppendCommunityID(nil, seed)) }

// AppendCommunityID appends the text that CommunityID returns to b.
func (k *Key) AppendCommunityID(b []byte, seed uint16) []byte {
	buf := make([]byte, 0, 40)
	buf = binary.BigEndian.AppendUint16(buf, seed)
	if k.V6 {
		buf = append(append(buf, k.Lo[:]...), k.Hi[:]...)
	} else {
		buf = append(append(buf, k.Lo[12:]...), k.Hi[12:]...)
	}
	buf = append(buf, k.Proto, 0)
	if HasPorts(k.Proto) || k.Proto == ICMP || k.Proto == ICMPv6 {
		buf = binary.BigEndian.AppendUint16(buf, k.LoPort)
		buf = binary.BigEndian.AppendUint16(buf, k.HiPort)
	}
	sum := sha1.Sum(buf)
	return base64.StdEncoding.AppendEncode(append(b, "1:"...), sum[:])
}
