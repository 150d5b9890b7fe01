package recordbatch

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestAKeyGoesToThePartitionThatTheClientWouldChoose(t *testing.T) {
	client := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rng := rand.New(rand.NewPCG(1, 2))
	for length := 1; length <= 48; length++ {
		for range 40 {
			key := make([]byte, length)
			for i := range key {
				key[i] = byte(rng.Uint32())
			}
			for n := 1; n <= 64; n++ {
				want := client.Partition(&kgo.Record{Key: key}, n)
				if got := Partition(key, n); int(got) != want {
					t.Fatalf("key %x of %d partitions: want %d, got %d", key, n, want, got)
				}
			}
		}
	}
}

// Two records, written by hand from the layout of KIP-98. The checksum is CRC-32C of the octets from the
// attributes on, computed bit by bit.
func TestABatchByHand(t *testing.T) {
	var b Batch
	b.Append([]byte("k"), []byte("v1"), 1000)
	b.Append(nil, []byte("v"), 999)
	out := b.Plain()
	b.WriteHeader(out, None, Stamp{ProducerID: 7, Epoch: 3, Sequence: 258})
	body := "0000" + // attributes: no compression, timestamps of the producer
		"00000001" + // last offset delta
		"00000000000003e8" + "00000000000003e8" + // first and greatest timestamp
		"0000000000000007" + "0003" + "00000102" + // producer id, epoch, first sequence
		"00000002" + // records
		"12" + "00" + "00" + "00" + "02" + "6b" + "04" + "7631" + "00" +
		"0e" + "00" + "01" + "02" + "01" + "02" + "76" + "00"
	octets, err := hex.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	crc := ^uint32(0)
	for _, o := range octets {
		crc ^= uint32(o)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0x82f63b78
			} else {
				crc >>= 1
			}
		}
	}
	want := "0000000000000000" + fmt.Sprintf("%08x", 9+len(octets)) + "ffffffff" + "02" + fmt.Sprintf("%08x", ^crc) + body
	if got := hex.EncodeToString(out); got != want {
		t.Errorf("want\n%s, got\n%s", want, got)
	}
}

// A record is an element of a batch.
type record struct {
	key, value []byte
	ms         int64
}

// check compares a batch with its records, as kmsg decodes them and as Each does.
func check(t *testing.T, b *Batch, want []record) {
	t.Helper()
	out := b.Plain()
	b.WriteHeader(out, None, Stamp{ProducerID: 1 << 40, Epoch: math.MaxInt16, Sequence: math.MaxInt32})
	var k kmsg.RecordBatch
	if err := k.ReadFrom(out); err != nil {
		t.Fatal(err)
	}
	if k.Magic != 2 || int(k.NumRecords) != len(want) || int(k.LastOffsetDelta) != len(want)-1 || int(k.Length) != len(out)-12 ||
		k.ProducerID != 1<<40 || k.ProducerEpoch != math.MaxInt16 || k.FirstSequence != math.MaxInt32 ||
		uint32(k.CRC) != crc32.Checksum(out[21:], crc32.MakeTable(crc32.Castagnoli)) {
		t.Fatalf("the header of %d records is %+v", len(want), k)
	}
	left, last := k.Records, want[0].ms
	for i, w := range want {
		n, used := kbinVarint(left)
		var r kmsg.Record
		if err := r.ReadFrom(left[:used+n]); err != nil {
			t.Fatal(err)
		}
		left = left[used+n:]
		if (len(r.Key) != 0 || len(w.key) != 0) && !bytes.Equal(r.Key, w.key) || !bytes.Equal(r.Value, w.value) ||
			int(r.OffsetDelta) != i || k.FirstTimestamp+r.TimestampDelta64 != w.ms || len(r.Headers) != 0 {
			t.Fatalf("record %d: want %+v, got %+v", i, w, r)
		}
		last = max(last, w.ms)
	}
	if len(left) != 0 || k.MaxTimestamp != last || k.FirstTimestamp != want[0].ms {
		t.Errorf("%d octets are left; timestamps %d to %d, want %d to %d", len(left), k.FirstTimestamp, k.MaxTimestamp, want[0].ms, last)
	}
	i := 0
	b.Each(func(key, value []byte, ms int64) {
		if !bytes.Equal(key, want[i].key) || !bytes.Equal(value, want[i].value) || ms != want[i].ms {
			t.Errorf("Each, record %d: want %+v, got %x, %x, %d", i, want[i], key, value, ms)
		}
		i++
	})
	if i != len(want) || b.Records() != len(want) || b.Len() != len(out) {
		t.Errorf("Each passed %d records, Records is %d, Len %d; want %d and %d", i, b.Records(), b.Len(), len(want), len(out))
	}
}

// kbinVarint decodes a zigzag varint of protobuf's kind.
func kbinVarint(b []byte) (v, used int) {
	u := uint64(0)
	for i, o := range b {
		u |= uint64(o&0x7f) << (7 * i)
		if o < 0x80 {
			return int(int64(u>>1) ^ -int64(u&1)), i + 1
		}
	}
	return 0, 0
}

func TestABatchIsWhatAppendedAndStaysWithinMaxRecord(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var b Batch
	for range 200 {
		b.Reset()
		var want []record
		for range 1 + rng.IntN(300) {
			r := record{
				[]byte(strings.Repeat("k", rng.IntN(80))), []byte(strings.Repeat("v", rng.IntN(1<<rng.IntN(12)))),
				1_790_000_000_000 + rng.Int64N(1<<rng.IntN(40)) - 1000,
			}
			before := b.Len()
			b.Append(r.key, r.value, r.ms)
			if grown := b.Len() - before; grown > MaxRecord(len(r.key), len(r.value)) {
				t.Fatalf("a record of %d and %d octets takes %d", len(r.key), len(r.value), grown)
			}
			want = append(want, r)
		}
		check(t, &b, want)
	}
}

func TestSequencesWrap(t *testing.T) {
	for _, tt := range []struct {
		from int32
		n    int
		want int32
	}{{0, 5, 5}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 2, 5, 2}, {math.MaxInt32, 0, math.MaxInt32}} {
		if got := NextSequence(tt.from, tt.n); got != tt.want {
			t.Errorf("%d and %d records: want %d, got %d", tt.from, tt.n, tt.want, got)
		}
	}
}

// FuzzBatch makes records of the input and compares the batch with kmsg's decoder.
func FuzzBatch(f *testing.F) {
	f.Add([]byte("keyvalue"), uint8(3), int64(1000), int64(-5))
	f.Add([]byte{}, uint8(0), int64(-1), int64(1<<62))
	f.Fuzz(func(t *testing.T, data []byte, split uint8, ms, delta int64) {
		var b Batch
		var want []record
		n := min(int(split), len(data))
		for i, at := range []int64{ms, ms + delta%(1<<60), ms} {
			r := record{data[:n], data[n:], at}
			if i == 2 {
				r.key, r.value = data[n:], data[:n]
			}
			b.Append(r.key, r.value, r.ms)
			want = append(want, r)
		}
		check(t, &b, want)
	})
}

func BenchmarkAppend(b *testing.B) {
	var x Batch
	key, value := make([]byte, 17), make([]byte, 105)
	b.ReportAllocs()
	for b.Loop() {
		if x.Len() > 1_000_000 {
			x.Reset()
		}
		x.Append(key, value, 1_790_000_000_000)
	}
}
