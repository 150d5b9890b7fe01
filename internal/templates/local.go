package templates

// A Local store has no shared log: it queues no records, and expired entries need no
// tombstone. Its owner must call Maintain or Confirm in place of Due and Published.

// Maintain confirms the definitions that decoding used since the last call, and deletes
// definitions and facts that were not received for their lifetime, by the clock of
// Options.Now. The owner of a Local store must call it about once a second. It is cheap:
// the search for expired entries runs once a minute.
func (s *Store) Maintain() {
	s.Confirm()
	s.expired() // a Local store has no tombstones to publish
}

// Confirm is Maintain without expiry. The owner of a Local store that reads recordings
// must call it: the clock may jump from a recording to the next.
func (s *Store) Confirm() { s.confirmUsed() }
