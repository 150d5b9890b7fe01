package pair

// A queueName says in which queue an entry is.
type queueName uint8

// The queues. Deadlines come in order within each, since each adds a constant to
// stream time.
const (
	queueNone   queueName = iota
	queueLinger           // complete
	queueIdle
	queueSmall // idle ones that are one-sided and of few packets: given up first
	queueLate  // emitted, in grace
	queuePause // emitted, after the grace: connections that pause
	queueCount
)

// A queue is a list through its entries, by deadline.
type queue struct {
	front, back int32
	warmed      int // entries at the front that were warmed
}

// warmAhead is how many entries are warmed at a time.
const warmAhead = 16

// warm is called when the front of a queue is going to be taken. Entries come to
// the front long after they were last used, when no cache holds them any more.
// Read one after the other, each waits for memory; warm reads the first few of the
// queue in one go, whose waits overlap.
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
		i = m.table.nodes.at(i).after
	}
	l.warmed = max(n-1, 0)
	sum := uint64(0)
	for j, i := range at[:n] {
		e := m.table.entries.at(i)
		sum += e.key.scope + e.seq + e.origin + e.idents[keptIdents-1]
		at[j] = e.sides
	}
	for more := true; more; {
		more = false
		for j, i := range at[:n] {
			if i != 0 {
				s := m.sides.at(i)
				sum += s.octets + uint64(s.flags)
				at[j], more = s.next, more || s.next != 0
			}
		}
	}
	m.warmth = sum
}

// push puts entry i at the back of a queue, and out of the one that it is in.
func (m *Machine) push(q queueName, i int32) {
	m.unqueue(i)
	n, l := m.table.nodes.at(i), &m.queues[q]
	n.before, n.after = l.back, 0
	if l.back != 0 {
		m.table.nodes.at(l.back).after = i
	} else {
		l.front = i
	}
	l.back = i
	m.table.entries.at(i).in = q
}

// unqueue takes entry i out of its queue.
func (m *Machine) unqueue(i int32) {
	e := m.table.entries.at(i)
	if e.in == queueNone {
		return
	}
	n, l := m.table.nodes.at(i), &m.queues[e.in]
	if n.before != 0 {
		m.table.nodes.at(n.before).after = n.after
	} else {
		l.front = n.after
	}
	if n.after != 0 {
		m.table.nodes.at(n.after).before = n.before
	} else {
		l.back = n.before
	}
	e.in = queueNone
}

// due returns which of the fronts of queues is due next; 0 when none is by t.
func (m *Machine) due(t int64, queues ...queueName) (i int32) {
	var best *entry
	for _, q := range queues {
		n := m.queues[q].front
		if n == 0 {
			continue
		}
		e := m.table.entries.at(n)
		if e.deadline <= t && (best == nil || e.deadline < best.deadline || e.deadline == best.deadline && e.seq < best.seq) {
			i, best = n, e
		}
	}
	return i
}
