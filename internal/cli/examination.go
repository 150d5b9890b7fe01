package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/listen"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/doctor"
)

// doctorOptions configure an examination.
type doctorOptions struct {
	listen  []string // UDP addresses; nil: files
	period  time.Duration
	json    bool
	buffer  int              // receive buffer in octets; 0: the default
	started func([]net.Addr) // called after listening and before the first read; may be nil
}

// An examination is an offline.Output that passes decoded records to a Checkup.
type examination struct {
	mu    sync.Mutex // guards the fields below
	in    *offline.Reader
	check *doctor.Checkup
	loss  *offline.LossCount
}

func newExamination(verb string, stdin io.Reader, stderr io.Writer, now time.Time) *examination {
	c := &examination{check: doctor.New(), loss: offline.NewLossCount(now)}
	c.in = offline.New(verb, stdin, stderr, c)
	c.in.MaxWaiting = 64 << 20
	return c
}

// Consume implements offline.Output.
func (c *examination) Consume(from report.Origin, r *decode.Result) error {
	h := &from.Header
	s := doctor.Stream{Exporter: from.Meta.Exporter, Version: h.Version, Domain: h.Domain}
	switch h.Version {
	case 1, 5, 7, 9, 10:
	default:
		return nil // not an export datagram; the summary counts it as an error
	}
	if c.loss.Add(from, r) {
		c.check.Message(s, from.Meta.Received, h.Export)
		if len(r.Errors) > 0 {
			c.check.Malformed(s)
		}
	}
	for i := range r.Templates {
		c.check.Template(s, r.Templates[i].Template.ID, from.Meta.Received)
	}
	for _, m := range r.Messages {
		c.check.Flow(m)
	}
	return nil
}

func (c *examination) Flush() error { return nil }

// receiveFor receives datagrams for o.period or until ctx ends.
func (c *examination) receiveFor(ctx context.Context, o doctorOptions, stderr io.Writer) error {
	sockets, err := listen.Open(ctx, o.listen, listen.Options{Sockets: 1, Buffer: o.buffer})
	if err != nil {
		return err
	}
	defer sockets.Close()
	console.Linef(stderr, "weir doctor: receiving NetFlow and IPFIX on UDP %s for %v; Ctrl-C ends it early",
		sockets, o.period)
	ctx, cancel := context.WithTimeout(ctx, o.period)
	defer cancel()
	if o.started != nil {
		o.started(sockets.Addresses())
	}
	show := console.NewProgress(stderr)
	read := make(chan struct{})
	go func() {
		defer close(read)
		sockets.Receive(ctx, time.Second, func() listen.Handler { return c.receive }, func(err error) {
			show.Clear()
			console.Linef(stderr, "weir doctor: %v", err)
		})
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for reading := true; reading; {
		select {
		case <-read:
			reading = false
		case <-tick.C:
			c.mu.Lock()
			show.Count("%s", c.in.Summary())
			c.mu.Unlock()
		}
	}
	show.Clear()
	if text := sockets.DropsText(); text != "" {
		console.Linef(stderr, "weir doctor: %s; gaps in sequence numbers may be these", text)
	}
	return nil
}

func (c *examination) receive(b []byte, from netip.AddrPort, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.in.Datagram(&capture.Datagram{Src: from, Time: at.UnixNano(), Payload: b}) // Consume never fails
}

// A findingLine is a line of --json.
type findingLine struct {
	Exporter string          `json:"exporter"`
	Version  uint16          `json:"version"`
	Domain   uint32          `json:"domain"`
	Rule     doctor.Rule     `json:"finding"`
	Severity doctor.Severity `json:"severity"`
	What     string          `json:"what"`
	Advice   string          `json:"advice"`
}

// print prints the findings, grouped by export stream.
func (c *examination) print(stdout io.Writer, asJSON bool) error {
	c.in.EachWaiting(func(k *decode.TemplateKey, sets int) {
		s := doctor.Stream{Exporter: netip.AddrFrom16(k.Exporter).Unmap(), Version: uint16(k.Version), Domain: k.Domain}
		for range sets {
			c.check.Undecoded(s, k.ID)
		}
	})
	c.loss.Advance(c.in.Clock().Add(time.Minute))
	for _, row := range c.loss.Rows() {
		if l := row.Loss; l.Usable {
			s := doctor.Stream{Exporter: row.Exporter, Version: row.Version, Domain: row.Domain}
			c.check.Lost(s, l.Lost, l.Lost+l.Received, l.Unit.String())
		}
	}
	findings := c.check.Findings()
	w := bufio.NewWriter(stdout)
	if asJSON {
		e := json.NewEncoder(w)
		for _, f := range findings {
			line := findingLine{f.Exporter.String(), f.Version, f.Domain, f.Rule, f.Severity, f.What, f.Advice}
			if err := e.Encode(line); err != nil {
				return err
			}
		}
		return w.Flush()
	}
	for _, s := range c.check.Streams() {
		var own []doctor.Finding
		for _, f := range findings {
			if f.Stream == s.Stream {
				own = append(own, f)
			}
		}
		period := ""
		if s.Period > 0 {
			period = fmt.Sprintf(" in %v", s.Period.Round(time.Second))
		}
		console.Linef(w, "%v, version %d, domain %d: %d datagrams%s, %d flows",
			s.Exporter, s.Version, s.Domain, s.Messages, period, s.Flows)
		if own == nil {
			console.Linef(w, "  no findings")
		}
		for _, f := range own {
			console.Linef(w, "  %-8s %s: %s", f.Severity, f.Rule, f.What)
			for _, line := range wrapped(f.Advice, 78) {
				console.Linef(w, "             %s", line)
			}
		}
	}
	if n := c.check.Beyond(); n > 0 {
		console.Linef(w, "%d records of further exporters were not examined", n)
	}
	return w.Flush()
}

// wrapped breaks text at spaces into lines of at most width characters; a longer word has its own line.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
