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
	queueCount
)

// A queue is a list through its entries, by deadline.
type queue struct{ front, back int32 }

// push puts entry i at the back of a queue, and out of the one that it is in.
func (m *Machine) push(q queueName, i int32) {
	m.unqueue(i)
	e, l := m.table.entries.at(i), &m.queues[q]
	e.in, e.before, e.after = q, l.back, 0
	if l.back != 0 {
		m.table.entries.at(l.back).after = i
	} else {
		l.front = i
	}
	l.back = i
}

// unqueue takes entry i out of its queue.
func (m *Machine) unqueue(i int32) {
	e := m.table.entries.at(i)
	if e.in == queueNone {
		return
	}
	l := &m.queues[e.in]
	if e.before != 0 {
		m.table.entries.at(e.before).after = e.after
	} else {
		l.front = e.after
	}
	if e.after != 0 {
		m.table.entries.at(e.after).before = e.before
	} else {
		l.back = e.before
	}
	e.in, e.before, e.after = queueNone, 0, 0
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
