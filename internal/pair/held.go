package pair

import "weir/internal/flowkey"

// EachOpen calls f with the key of every open connection, until f returns false. Within a queue it follows the order
// of deadlines. f must not use the Machine, and must not keep the key.
func (m *Machine) EachOpen(f func(*flowkey.Key) bool) {
	for _, q := range []queueName{queueLinger, queueIdle, queueSmall} {
		for i := m.queues[q].front; i != 0; i = m.table.nodes.ref(i).after {
			if !f(&m.table.entries.ref(i).key.Key) {
				return
			}
		}
	}
}
