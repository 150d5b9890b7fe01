package kafka

import (
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/decode"
	"weir/internal/kafka/batches"
	"weir/internal/kafka/framing"
	"weir/internal/kafka/recordbatch"
)

// An Account is notified of the outcome of messages.
type Account = batches.Account

// A Packer puts several messages of one partition into a record, each with its length before it (package
// framing): the cost of a record in the client is then shared by its messages. The messages' own keys select the
// partition; the record has no key. Add may be called by several goroutines at once.
type Packer struct {
	p     *Producer
	most  int          // messages of a record
	packs sync.Pool    // of *pack, all empty
	room  atomic.Int64 // octets: capacity of a new pack, from the largest record so far

	mu      sync.Mutex // guards the fields below
	filling []*pack    // by partition, as many as are known; nil: no record is being filled
	turn    int        // selects the partition of messages without key
}

// A pack is a record that is being filled or is on its way to Kafka. Its buffer belongs to the client from send
// until settled is called.
type pack struct {
	buf   []byte
	at    time.Time // of the first message
	n     int
	aged  bool // it was there at the last tick already
	whose []share
	done  func(error)
}

// A share is the number of messages in a record that belong to an account, in a row.
type share struct {
	of Account
	n  int
}

// packOctets is the size in octets at which a record is full, whatever the number of its messages. It is far
// below the brokers' limit of about 1 MiB.
const packOctets = 128 << 10

// Packer returns a Packer of at most most messages a record. A record that does not fill is sent after the
// producer's linger, or twice that at most.
func (p *Producer) Packer(most int) *Packer {
	k := &Packer{p: p, most: most}
	k.room.Store(4 << 10)
	k.packs.New = func() any {
		x := &pack{buf: make([]byte, 0, k.room.Load())}
		x.done = func(err error) { k.settled(x, err) }
		return x
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.packers == nil {
		go p.tick()
	}
	p.packers = append(p.packers, k)
	return k
}

// Add adds the messages that spans delimit in buf, received at the instant at, to records. It copies them and
// never waits for Kafka. of is notified of each message once.
func (k *Packer) Add(buf []byte, spans []decode.Span, at time.Time, of Account) {
	n := int(k.p.partitions.Load())
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.filling) < n {
		k.filling = append(k.filling, make([]*pack, n-len(k.filling))...)
	}
	for _, s := range spans {
		message, key := buf[s.Start:s.ValueEnd], buf[s.ValueEnd:s.KeyEnd]
		if n == 0 { // the number of partitions is not known yet: the client finds the partition
			k.p.Produce(append([]byte(nil), key...), framing.AppendDelimited(nil, message), at,
				func(err error) { of.Settled(1, err) })
			continue
		}
		to := k.turn % n
		if len(key) > 0 {
			to = int(recordbatch.Partition(key, n))
		}
		x := k.filling[to]
		if x == nil {
			x = k.packs.Get().(*pack) // safe: the pool holds only *pack
			x.at, k.filling[to] = at, x
		}
		x.buf = framing.AppendDelimited(x.buf, message)
		x.n++
		if last := len(x.whose) - 1; last >= 0 && x.whose[last].of == of {
			x.whose[last].n++
		} else {
			x.whose = append(x.whose, share{of, 1})
		}
		if x.n >= k.most || len(x.buf) >= packOctets {
			k.send(to)
		}
	}
}

// send hands the record of a partition to the client. k.mu must be held.
func (k *Packer) send(to int) {
	x := k.filling[to]
	k.filling[to] = nil
	if n := int64(len(x.buf)); n > k.room.Load() {
		k.room.Store(n + n/16) // the next pack of this size need not grow
	}
	k.turn++
	k.p.producePacked(int32(to), x.buf, x.at, x.done) // a topic has few partitions
}

// settled notifies the accounts of a record's messages and returns the pack to the pool.
func (k *Packer) settled(x *pack, err error) {
	for _, w := range x.whose {
		w.of.Settled(w.n, err)
	}
	clear(x.whose) // the pool must not keep the account of a closed exporter
	x.buf, x.n, x.aged, x.whose = x.buf[:0], 0, false, x.whose[:0]
	k.packs.Put(x)
}

// flush sends the records that were there at the last flush already, or all of them.
func (k *Packer) flush(everything bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, x := range k.filling {
		switch {
		case x == nil:
		case x.aged || everything:
			k.send(i)
		default:
			x.aged = true
		}
	}
}

// tick flushes the packers at each linger until the producer is closed.
func (p *Producer) tick() {
	t := time.NewTicker(max(p.linger, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.ended:
			return
		case <-t.C:
			p.flushPackers(false)
		}
	}
}

func (p *Producer) flushPackers(everything bool) {
	p.mu.Lock()
	packers := p.packers
	p.mu.Unlock()
	for _, k := range packers {
		k.flush(everything)
	}
}
