// Package recordbatch builds the record batches of Kafka's produce requests (message format version 2, KIP-98) in
// place: the octets that Append writes are those that are sent. It also chooses partitions as Kafka's Java client
// does.
package recordbatch

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"
)

// HeaderOctets is the length of a batch before its records.
const HeaderOctets = 61

// A Batch is a record batch that is being built. The zero value is an empty batch.
type Batch struct {
	buf         []byte // room for the header, then the records
	n           int32
	first, last int64 // timestamps in ms since the epoch: of the first record, and the greatest
}

// Records returns the number of records.
func (b *Batch) Records() int { return int(b.n) }

// Len returns the length of the batch without compression, octets.
func (b *Batch) Len() int { return max(len(b.buf), HeaderOctets) }

// Cap returns the memory of the batch, octets.
func (b *Batch) Cap() int { return cap(b.buf) }

// Reset removes all records and keeps the memory.
func (b *Batch) Reset() { b.buf, b.n = b.buf[:0], 0 }

// MaxRecord returns the greatest number of octets by which a record with such a key and value lengthens a batch.
func MaxRecord(key, value int) int {
	// Length, attributes, timestamp delta, offset delta, lengths of key and value, number of headers.
	return key + value + 3*binary.MaxVarintLen32 + 1 + binary.MaxVarintLen64 + binary.MaxVarintLen32 + 1
}

// Append appends a record with a timestamp in ms since the epoch. An empty key becomes a null key. The lengths of
// key, value and batch must be below 2^31.
func (b *Batch) Append(key, value []byte, ms int64) {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, HeaderOctets)...)
		b.first, b.last = ms, ms
	}
	delta := ms - b.first
	b.last = max(b.last, ms)
	keyLength := int64(len(key))
	if keyLength == 0 {
		keyLength = -1
	}
	body := 1 + varintLen(delta) + varintLen(int64(b.n)) + varintLen(keyLength) + len(key) +
		varintLen(int64(len(value))) + len(value) + 1
	w := b.buf
	w = binary.AppendVarint(w, int64(body))
	w = append(w, 0) // attributes
	w = binary.AppendVarint(w, delta)
	w = binary.AppendVarint(w, int64(b.n))
	w = binary.AppendVarint(w, keyLength)
	w = append(w, key...)
	w = binary.AppendVarint(w, int64(len(value)))
	w = append(w, value...)
	b.buf = append(w, 0) // headers
	b.n++
}

// varintLen returns the length of v in the zigzag encoding.
func varintLen(v int64) int { return (bits.Len64(uint64(v)<<1^uint64(v>>63)|1) + 6) / 7 }

// Plain returns the batch without compression: room for the header, then the records. It is valid until the next
// Append or Reset.
func (b *Batch) Plain() []byte { return b.buf }

// Octets returns the records without compression.
func (b *Batch) Octets() []byte { return b.buf[HeaderOctets:] }

// Each calls f for each record, in order. key is nil if the record has none. key and value alias the batch.
func (b *Batch) Each(f func(key, value []byte, ms int64)) {
	left := b.buf
	if len(left) > 0 {
		left = left[HeaderOctets:]
	}
	next := func() int64 {
		v, n := binary.Varint(left)
		left = left[n:] // the octets are those that Append wrote
		return v
	}
	for range b.n {
		next() // length
		left = left[1:]
		ms := b.first + next()
		next() // offset delta
		var key []byte
		if n := next(); n > 0 {
			key, left = left[:n:n], left[n:]
		}
		n := next()
		value := left[:n:n]
		left = left[n+1:]
		f(key, value, ms)
	}
}

// A Stamp is the part of a header that may change between two tries to send the same records. Its zero value is
// not valid: a producer that is not idempotent has ProducerID, Epoch and Sequence -1.
type Stamp struct {
	ProducerID int64
	Epoch      int16
	Sequence   int32 // of the first record
}

// None is the codec of a batch that is not compressed. The other codecs come from kgo's compressor.
const None = 0

// WriteHeader writes the header of b into the first HeaderOctets of out, after which the records follow in the
// form of a codec.
func (b *Batch) WriteHeader(out []byte, codec int8, s Stamp) {
	be := binary.BigEndian
	be.PutUint64(out, 0)                       // first offset
	be.PutUint32(out[8:], uint32(len(out)-12)) // length of the rest
	be.PutUint32(out[12:], math.MaxUint32)     // epoch of the leader: set by the broker
	out[16] = 2                                // version of the format
	be.PutUint16(out[21:], uint16(codec))
	be.PutUint32(out[23:], uint32(b.n-1))
	be.PutUint64(out[27:], uint64(b.first))
	be.PutUint64(out[35:], uint64(b.last))
	be.PutUint64(out[43:], uint64(s.ProducerID))
	be.PutUint16(out[51:], uint16(s.Epoch))
	be.PutUint32(out[53:], uint32(s.Sequence))
	be.PutUint32(out[57:], uint32(b.n))
	be.PutUint32(out[17:], crc32.Checksum(out[21:], castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NextSequence returns the sequence number after n records: numbers wrap from 2^31-1 to 0.
func NextSequence(sequence int32, n int) int32 {
	return int32((int64(sequence) + int64(n)) & math.MaxInt32)
}
