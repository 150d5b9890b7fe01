// Package replay sends the export datagrams of captures to a collector at their original pace.
package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/report"
	"weir/internal/cli/retime"
	"weir/internal/templates"
)

// Options configure a replay.
type Options struct {
	To           *net.UDPAddr // the collector
	Speed        float64      // multiple of the original pace; 0: as fast as possible
	Loop         bool         // start again at the end
	RewriteTimes bool         // move the times in the datagrams to now
	Port         uint16       // UDP destination port of the replayed datagrams; 0: any
}

// Run sends the export datagrams of files in their order, until all are sent or ctx ends. It prints progress and a
// summary to stderr. The error names each file that could not be read, and the number of failed sends.
func Run(ctx context.Context, files []string, o Options, stderr io.Writer) error {
	s := newSenders(o.To, stderr)
	defer s.close()
	p := &replayer{Options: o, send: s.send, now: time.Now, show: console.NewProgress(stderr), stderr: stderr}
	return p.run(ctx, files)
}

// A replayer sends datagrams at the pace of their captures. It must not be used concurrently.
type replayer struct {
	Options
	send   func(from netip.AddrPort, b []byte) error
	now    func() time.Time
	show   *console.Progress
	stderr io.Writer

	sent, others, failed int
	octets               int64
	shown                time.Time
	began                time.Time
}

// run sends all files, repeatedly with Loop, until ctx ends. A file that cannot be read is reported, and the next
// file is sent.
func (p *replayer) run(ctx context.Context, files []string) error {
	p.began = p.now()
	var errs []error
	for again := true; again && ctx.Err() == nil; again = p.Loop {
		before := p.sent
		for _, name := range files {
			err := p.file(ctx, name)
			switch {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, capture.ErrCut):
				console.Linef(p.stderr, "weir replay: %s: %v", name, console.WithoutPath(err))
			default:
				errs = append(errs, fmt.Errorf("%s: %w", console.InputName(name), console.WithoutPath(err)))
			}
		}
		if len(errs) > 0 || p.sent == before {
			break // a repetition would fail again
		}
	}
	p.show.Clear()
	if p.failed > 0 {
		errs = append(errs, fmt.Errorf("%d datagrams could not be sent", p.failed))
	}
	if p.sent == 0 && len(errs) == 0 && ctx.Err() == nil {
		errs = append(errs, errors.New("no NetFlow or IPFIX in the files"))
	}
	took := p.now().Sub(p.began)
	console.Linef(p.stderr, "%d datagrams sent, %s in %s; %d of something else left out",
		p.sent, report.FormatOctets(uint64(p.octets)), report.FormatDuration(took), p.others)
	return errors.Join(errs...)
}

// span returns the capture times of the first and last datagram of a file, in ns since the epoch; 0: unknown.
func (p *replayer) span(name string) (first, last int64, err error) {
	defer func(n int) { p.others = n }(p.others)
	err = p.eachDatagram(name, func(d *capture.Datagram, _ float64) error {
		if first == 0 {
			first = d.Time
		}
		last = max(last, d.Time)
		return nil
	})
	return first, last, err
}

func (p *replayer) file(ctx context.Context, name string) error {
	var mover *retime.Mover
	var store *templates.Store // state of mover
	var seconds int64
	if p.RewriteTimes {
		first, last, err := p.span(name)
		if err != nil && !errors.Is(err, capture.ErrCut) {
			return err
		}
		at := first
		if p.Speed == 0 || p.Speed > 1 {
			at = last
		}
		if at != 0 {
			seconds = p.now().Unix() - at/int64(time.Second)
		}
		store = templates.New(templates.Options{Local: true, Now: p.now})
		mover = retime.New(store)
	}
	var first int64
	start := p.now()
	return p.eachDatagram(name, func(d *capture.Datagram, done float64) error {
		if first == 0 {
			first = d.Time
		}
		if p.Speed > 0 && d.Time != 0 {
			due := start.Add(time.Duration(float64(d.Time-first) / p.Speed))
			if err := p.sleepUntil(ctx, due, name, done); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		payload := d.Payload
		if mover != nil {
			payload = bytes.Clone(payload)
			mover.Move(payload, d.Src, d.Time, seconds)
			store.Confirm()
		}
		if err := p.send(d.Src, payload); err != nil {
			if p.failed++; p.failed == 1 {
				p.show.Clear()
				console.Linef(p.stderr, "weir replay: %v", err)
			}
			return nil
		}
		p.sent++
		p.octets += int64(len(payload))
		p.progress(name, done)
		return nil
	})
}

// sleepUntil waits until due or until ctx ends, and updates the progress every second.
func (p *replayer) sleepUntil(ctx context.Context, due time.Time, name string, done float64) error {
	for {
		wait := due.Sub(p.now())
		if wait <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(wait, time.Second)):
			p.progress(name, done)
		}
	}
}

func (p *replayer) progress(name string, done float64) {
	now := p.now()
	if now.Sub(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown = now
	p.show.Count("%s: %.0f %%, %d datagrams sent in %s",
		name, 100*done, p.sent, report.FormatDuration(now.Sub(p.began)))
}

// eachDatagram calls f with each export datagram of a file. done is the fraction of the file that was read, 0 to
// 1.
func (p *replayer) eachDatagram(name string, f func(d *capture.Datagram, done float64) error) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	size := int64(1)
	if s, err := in.Stat(); err == nil && s.Size() > 0 {
		size = s.Size()
	}
	read := &counted{r: in}
	r, err := capture.Open(read, capture.Options{Port: p.Port})
	if err != nil {
		return err
	}
	for {
		var d capture.Datagram
		if err := r.Next(&d); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if d.Bad != nil || !isExport(d.Payload) {
			p.others++
			continue
		}
		if err := f(&d, float64(read.n)/float64(size)); err != nil {
			return err
		}
	}
}

// isExport reports whether a datagram has a version number of NetFlow or IPFIX.
func isExport(b []byte) bool {
	if len(b) < 16 {
		return false
	}
	switch binary.BigEndian.Uint16(b) {
	case 1, 5, 7, 9, 10:
		return true
	}
	return false
}

// A counted reader counts the octets that were read.
type counted struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// senders holds a socket for each source of datagrams in a capture.
type senders struct {
	to      *net.UDPAddr
	conns   map[netip.AddrPort]*net.UDPConn
	own     map[netip.Addr]netip.Addr // exporter in the capture → source address here; invalid: chosen by the system
	stderr  io.Writer
	refused bool
}

func newSenders(to *net.UDPAddr, stderr io.Writer) *senders {
	return &senders{to: to, conns: map[netip.AddrPort]*net.UDPConn{}, own: map[netip.Addr]netip.Addr{}, stderr: stderr}
}

// mostSenders bounds the number of sockets; further sources share a socket.
const mostSenders = 1000

func (s *senders) send(from netip.AddrPort, b []byte) error {
	if len(s.conns) >= mostSenders && s.conns[from] == nil {
		from = netip.AddrPort{}
	}
	c := s.conns[from]
	if c == nil {
		var err error
		if c, err = s.open(from.Addr()); err != nil {
			return err
		}
		s.conns[from] = c
	}
	_, err := c.Write(b)
	for try := 0; errors.Is(err, syscall.ENOBUFS) && try < 100; try++ {
		time.Sleep(time.Millisecond)
		_, err = c.Write(b)
	}
	if errors.Is(err, syscall.ECONNREFUSED) { // the error belongs to an earlier datagram; b was not sent
		if !s.refused {
			s.refused = true
			console.Linef(s.stderr, "weir replay: nothing listens at %v; continuing", s.to)
		}
		_, err = c.Write(b)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil // UDP has no delivery report: count it as sent
	}
	return err
}

// open opens a socket for an exporter of the capture. If the target is a loopback address, each exporter after the
// first gets its own source address in 127.1.0.0/16.
func (s *senders) open(exporter netip.Addr) (*net.UDPConn, error) {
	to, _ := netip.AddrFromSlice(s.to.IP)
	to = to.Unmap()
	own, known := s.own[exporter]
	if !known && to.Is4() && to.IsLoopback() && len(s.own) > 0 {
		n := uint32(127<<24 | 1<<16 | len(s.own)) // len is at most mostSenders
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], n)
		own = netip.AddrFrom4(a)
	}
	if own.IsValid() {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0)), s.to)
		if err == nil {
			if !known {
				console.Linef(s.stderr, "weir replay: exporter %v of the capture sends from %v", exporter, own)
			}
			s.own[exporter] = own
			return c, nil
		}
	}
	s.own[exporter] = netip.Addr{} // the system chooses the address
	return net.DialUDP("udp", nil, s.to)
}

func (s *senders) close() {
	for _, c := range s.conns {
		_ = c.Close() // UDP sockets have no pending data to lose
	}
}
