package page

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

//go:embed assets
var assets embed.FS

// mostStreams bounds the number of concurrent event streams.
const mostStreams = 64

// A Server serves the page of a Board over HTTP.
type Server struct {
	board   *Board
	host    string // listening host, as configured
	every   time.Duration
	streams atomic.Int32
}

// NewServer returns a Server of a board. host is the host name or address in the URL of the page, and every is the
// interval between two events.
func NewServer(b *Board, host string, every time.Duration) *Server {
	return &Server{board: b, host: host, every: every}
}

// Serve serves until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		_ = srv.Close() // event streams end only with their connection
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// Handler returns the handler of the page, its assets, its events and /snapshot.json.
func (s *Server) Handler() http.Handler {
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // cannot happen: assets is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /snapshot.json", func(w http.ResponseWriter, r *http.Request) {
		window, err := windowOf(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.board.Snapshot(seriesSeconds, window)) // an error means that the client is gone
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !s.allowed(r.Host) {
			text := fmt.Sprintf("%q is not a name of this page: use http://%s or an address", r.Host, s.host)
			http.Error(w, text, http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// allowed reports whether a Host header names this server: an address, localhost, or the configured host. Other
// names must be rejected, since a foreign page may have made its own name resolve to this address (DNS rebinding).
func (s *Server) allowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if a, err := netip.ParseAddr(host); err == nil {
		own, err := netip.ParseAddr(s.host)
		return err != nil || !own.IsLoopback() || a.IsLoopback()
	}
	return strings.EqualFold(host, "localhost") || host != "" && strings.EqualFold(host, s.host)
}

// windowOf returns the index in windows of the parameter window, in s; without it, that of 5 minutes.
func windowOf(r *http.Request) (w int, err error) {
	text := r.URL.Query().Get("window")
	if text == "" {
		return 1, nil
	}
	for w, seconds := range windows {
		if text == strconv.FormatInt(seconds, 10) {
			return w, nil
		}
	}
	return 0, fmt.Errorf("window=%.20q: want 60, 300 or 900 seconds", text)
}

// events streams snapshots. The first has the whole series. Each later snapshot repeats the seconds whose octets may
// have changed: records report octets of the past.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	window, err := windowOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.streams.Add(1) > mostStreams {
		s.streams.Add(-1)
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer s.streams.Add(-1)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	const overlap = 5 // s; a missed event leaves no gap
	for seconds := seriesSeconds; ; {
		snapshot := s.board.Snapshot(seconds, window)
		b, err := json.Marshal(snapshot)
		if err != nil {
			return
		}
		seconds = int(snapshot.Incomplete) + overlap
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // not every connection supports deadlines
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}
