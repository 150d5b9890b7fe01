package templates

// A Local store has no shared log. Nothing is queued for one, what no datagram brings
// any more goes without a tombstone, and Due and Published are not for it: its owner
// calls Maintain or Confirm.

// Maintain confirms definitions that decoding used since the last call, and drops
// definitions and facts that were not received for their lifetime, by the clock of
// Options.Now. It is cheap to call; the search for what expired runs once a minute.
// The owner of a Local store must call it every second or so.
func (s *Store) Maintain() {
	s.Confirm()
	s.expired() // without a shared log there is nothing to bury
}

// Confirm is Maintain for a store that reads a recording: nothing expires in it, since
// its clock may jump from one recording to the next.
func (s *Store) Confirm() { s.confirmUsed() }
