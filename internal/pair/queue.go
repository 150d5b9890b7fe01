package pair

// A queueName identifies the queue that contains an entry. An entry is in exactly one queue from its first schedule
// until forget. Advance looks at the fronts of the open queues only, and expire at those of the emitted ones, so that a
// step of stream time costs as much as the entries that it ends.
type queueName uint8

// The queues. Within each, entries are in the order of their deadlines, because a push adds a constant to stream
// time. This order must be kept: due looks only at the front.
const (
	queueNone   queueName = iota // in no queue
	queueLinger                  // open and complete: due after PAIR_LINGER
	queueIdle                    // open: due after PAIR_IDLE
	queueSmall                   // open, oneSidedAndSmall: due after PAIR_IDLE, evicted before other open entries
	queueLate                    // emitted, in grace
	queuePause                   // emitted, after the grace: connections that pause
	queueCount
)

// A queue is a doubly linked list of entries through their nodes, in the order of deadlines. front and back are numbers
// of entries, 0 if the queue is empty. Numbers take half the memory of pointers and are not scanned by the garbage
// collector.
type queue struct {
	front, back int32
	warmed      int // entries at the front that were warmed
}

// warmAhead is the number of entries that warm reads at a time.
const warmAhead = 16

// warm loads the first entries of a queue into the CPU's caches. It must be called before the front of q is removed.
// Entries reach the front long after their last use, when no cache holds them: read one after another, each would wait
// for memory. warm reads several in one loop, so that their waits overlap. It changes nothing but warmed and warmth.
// The entries may leave the queue before they reach its front: then some of the reads were in vain.
func (m *Machine) warm(q queueName) {
	l := &m.queues[q]
	if l.warmed > 0 {
		l.warmed--
		return
	}
	var at [warmAhead]int32
	n, i := 0, l.front
	for ; n < warmAhead && i != 0; n++ {
		at[n] = i
		i = m.table.nodes.ref(i).after
	}
	l.warmed = max(n-1, 0)
	sum := uint64(0)
	for j, i := range at[:n] {
		e := m.table.entries.ref(i)
		sum += e.key.scope + e.seq + e.origin + e.idents[keptIdents-1]
		at[j] = e.sides
	}
	for more := true; more; {
		more = false
		for j, i := range at[:n] {
			if i != 0 {
				s := m.sides.ref(i)
				sum += s.octets + uint64(s.flags)
				at[j], more = s.next, more || s.next != 0
			}
		}
	}
	m.warmth = sum
}

// push moves entry i from its queue, if any, to the back of queue q. Its deadline must not be before that of the back.
// A push at the back takes constant time. A deadline before that of the back would be found late: due stops at the
// first entry that is not due.
func (m *Machine) push(q queueName, i int32) {
	m.unqueue(i)
	n, l := m.table.nodes.ref(i), &m.queues[q]
	n.before, n.after = l.back, 0
	if l.back != 0 {
		m.table.nodes.ref(l.back).after = i
	} else {
		l.front = i
	}
	l.back = i
	m.table.entries.ref(i).in = q
}

// unqueue removes entry i from its queue, if any. The links of the node itself are left: push sets both.
func (m *Machine) unqueue(i int32) {
	e := m.table.entries.ref(i)
	if e.in == queueNone {
		return
	}
	n, l := m.table.nodes.ref(i), &m.queues[e.in]
	if n.before != 0 {
		m.table.nodes.ref(n.before).after = n.after
	} else {
		l.front = n.after
	}
	if n.after != 0 {
		m.table.nodes.ref(n.after).before = n.before
	} else {
		l.back = n.before
	}
	e.in = queueNone
}

// due returns the entry with the earliest deadline at the fronts of queues, 0 if no deadline is at or before t. Of
// equal deadlines the entry that changed first comes first, so that a replay emits in the same order. It reads one
// entry per queue: within a queue, the front has the earliest deadline.
func (m *Machine) due(t int64, queues ...queueName) (i int32) {
	var best *entry
	for _, q := range queues {
		n := m.queues[q].front
		if n == 0 {
			continue
		}
		e := m.table.entries.ref(n)
		if e.deadline <= t && (best == nil || e.deadline < best.deadline ||
			e.deadline == best.deadline && e.seq < best.seq) {
			i, best = n, e
		}
	}
	return i
}
