//go:build synctests

package simulation

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// A trace holds the log of a run in memory: a bubble makes no system call for it.
type trace struct {
	also io.Writer    // a second destination, or nil
	now  atomic.Int64 // fake time of the last request to a broker, ns since 1970; 0: none yet

	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (t *trace) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.also != nil {
		_, _ = t.also.Write(p)
	}
	return t.b.Write(p)
}

func (t *trace) printf(format string, args ...any) {
	fmt.Fprintf(t, time.Now().UTC().Format("15:04:05.000 ")+format+"\n", args...)
}

// Logf implements kfake.Logger.
func (t *trace) Logf(_ kfake.LogLevel, format string, args ...any) {
	t.printf("broker: "+format, args...)
}

// pointers matches logged pointers, which differ between runs.
var pointers = regexp.MustCompile("0x[0-9a-f]{8,}")

// sum returns the SHA-256 of the trace without pointers.
func (t *trace) sum() [sha256.Size]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return sha256.Sum256(pointers.ReplaceAll(t.b.Bytes(), []byte("pointer")))
}

func (t *trace) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
