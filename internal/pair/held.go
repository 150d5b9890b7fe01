package pair

import "weir/internal/flowkey"

// EachOpen calls f with the key of every open connection until f returns false. Within
// a queue those that end first come first. f must not use the Machine.
func (m *Machine) EachOpen(f func(*flowkey.Key) bool) {
	for _, q := range []queueName{queueLinger, queueIdle, queueSmall} {
		for i := m.queues[q].front; i != 0; i = m.table.nodes.at(i).after {
			if !f(&m.table.entries.at(i).key.Key) {
				return
			}
		}
	}
}
