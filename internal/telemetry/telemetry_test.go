package telemetry

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestPages(t *testing.T) {
	var reason error
	h := handler(NewRegistry(), func() error { return reason })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	tests := []struct {
		name, path string
		reason     error
		code       int
		body       string
	}{
		{"alive", "/healthz", errors.New("no Kafka"), 200, "ok"},
		{"ready", "/readyz", nil, 200, "ready"},
		{"not ready says why", "/readyz", errors.New("templates are still being read"), 503, "templates are still being read"},
		{"metrics of the process", "/metrics", nil, 200, "go_goroutines"},
		{"another page", "/x", nil, 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reason = tt.reason
			code, body := get(tt.path)
			if code != tt.code || !strings.Contains(body, tt.body) {
				t.Errorf("want %d with %q, got %d with %.80q", tt.code, tt.body, code, body)
			}
		})
	}
}

func TestATakenAddressIsNamed(t *testing.T) {
	ctx := t.Context()
	addr := make(chan string, 1)
	go func() {
		_ = Serve(ctx, "127.0.0.1:0", NewRegistry(), func() error { return nil }, func(a string) { addr <- a }) // ends with the test
	}()
	taken := <-addr
	err := Serve(ctx, taken, NewRegistry(), func() error { return nil }, nil)
	if err == nil || !strings.Contains(err.Error(), "METRICS_LISTEN="+taken) {
		t.Errorf("got %v", err)
	}
}

func TestCheckTellsWhyAServiceIsNotReady(t *testing.T) {
	var reason atomic.Pointer[error]
	addr := make(chan string, 1)
	go func() {
		_ = Serve(t.Context(), "127.0.0.1:0", NewRegistry(), func() error { // ends with the test
			if r := reason.Load(); r != nil {
				return *r
			}
			return nil
		}, func(a string) { addr <- a })
	}()
	_, port, _ := strings.Cut(<-addr, ":")
	if err := Check(t.Context(), "0.0.0.0:"+port); err != nil {
		t.Errorf("ready: %v", err)
	}
	why := errors.New("no Kafka")
	reason.Store(&why)
	if err := Check(t.Context(), ":"+port); err == nil || !strings.Contains(err.Error(), "no Kafka") {
		t.Errorf("want the reason, got %v", err)
	}
}
