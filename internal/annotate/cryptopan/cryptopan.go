// Package cryptopan maps addresses so that two addresses with a common prefix of exactly n bits have images with
// a common prefix of exactly n bits: Crypto-PAn (J. Fan, J. Xu, M. Ammar, S. Moon: Prefix-preserving IP address
// anonymization, 2004). The map is one to one and depends on the key alone.
package cryptopan

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// KeyLen is the length of a key, octets.
const KeyLen = 32

// A Map anonymizes addresses with a key. Its methods may be called concurrently.
type Map struct {
	block cipher.Block
	pad   [16]byte
	mac   []byte // key of Tag, derived from the whole key
}

// New returns the Map of a key of KeyLen octets: 16 octets of AES key, then 16 octets that are encrypted to the
// padding.
func New(key []byte) (*Map, error) {
	if len(key) != KeyLen {
		return nil, fmt.Errorf("a key of %d octets: want %d", len(key), KeyLen)
	}
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		return nil, fmt.Errorf("AES: %w", err)
	}
	m := &Map{block: block}
	block.Encrypt(m.pad[:], key[16:])
	sum := sha256.Sum256(append([]byte("weir tag"), key...))
	m.mac = sum[:]
	return m, nil
}

// ParseKey reads the text of a key file: KeyLen octets, or twice as many hexadecimal digits, with optional white
// space around them.
func ParseKey(text []byte) ([]byte, error) {
	if len(text) == KeyLen {
		return text, nil
	}
	digits := strings.TrimSpace(string(text))
	if key, err := hex.DecodeString(digits); err == nil && len(key) == KeyLen {
		return key, nil
	}
	return nil, fmt.Errorf("not a key: the file has %d octets, want %d octets or "+
		"%d hexadecimal digits (openssl rand -hex %d)",
		len(text), KeyLen, 2*KeyLen, KeyLen)
}

// Addr returns the image of a, of the same family. A v4-mapped address is treated as the IPv4 address; the zone
// is dropped.
func (m *Map) Addr(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		m.octets(b[:])
		return netip.AddrFrom4(b)
	}
	if a.Is6() {
		b := a.As16()
		m.octets(b[:])
		return netip.AddrFrom16(b)
	}
	return a
}

// octets maps an address in place. Bit i is flipped if the encryption of the first i bits, filled up with the
// padding, begins with 1.
func (m *Map) octets(addr []byte) {
	var in, out [16]byte
	in = m.pad
	var image [16]byte
	for i := range len(addr) * 8 {
		m.block.Encrypt(out[:], in[:])
		image[i/8] |= out[0] >> 7 << (7 - i%8)
		// The next input has one more bit of the address.
		mask := byte(0x80) >> (i % 8)
		in[i/8] = in[i/8]&^mask | addr[i/8]&mask
	}
	for i := range addr {
		addr[i] ^= image[i]
	}
}

// Tag returns 16 octets that identify parts, an HMAC: equal parts give equal tags, and without the key a tag
// reveals nothing about them. A part must have fewer than 256 octets, or two lists of parts may give the same
// input.
func (m *Map) Tag(parts ...[]byte) []byte {
	h := hmac.New(sha256.New, m.mac)
	for _, p := range parts {
		h.Write([]byte{byte(len(p))})
		h.Write(p)
	}
	return h.Sum(nil)[:16]
}
