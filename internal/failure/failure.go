// Package failure keeps repeats of a failure out of logs.
package failure

import "time"

// A Repeats recognises the failure of a loop that fails for the same reason again and again. The zero value is ready to
// use. It must be used by one goroutine at a time.
type Repeats struct {
	// Every is the time after which the same failure is new again. 0: it is new again only after Recovered.
	Every time.Duration

	text string // text of the last new failure; "": none since Recovered
	at   time.Time
}

// IsNew reports whether err has to be reported: its text differs from that of the last failure, or Every has passed
// since that was reported. now is the caller's clock; it is not used if Every is 0.
func (r *Repeats) IsNew(err error, now time.Time) bool {
	text := err.Error()
	if text == r.text && (r.Every == 0 || now.Sub(r.at) < r.Every) {
		return false
	}
	r.text, r.at = text, now
	return true
}

// Recovered must be called when the loop succeeds: the next failure is new. It reports whether there was a failure
// since the last success.
func (r *Repeats) Recovered() bool {
	failed := r.text != ""
	r.text = ""
	return failed
}
