// Package offline reads captures and files of flows: it decodes datagrams, pairs flows into connections and names
// their endpoints, without Kafka. The verbs collect and doctor also decode received datagrams with it.
package offline

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/cli/console"
	"weir/internal/cli/flowfile"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/templates"
	"weir/internal/wire"
)

// An Output consumes decoded records in the order of the input. A data set that arrived before its template is an
// exception: its records follow the template. Consume must not keep r after it returns. An error ends the reading
// of all inputs.
type Output interface {
	Consume(o report.Origin, r *decode.Result) error
	Flush() error
}

// errOutput marks an error of the Output, which ends the reading of all inputs.
type errOutput struct{ error }

func (e errOutput) Unwrap() error { return e.error }

// A Reader decodes inputs one after another with one template store, and keeps data sets until their template
// arrives. Its exported fields must be set before it is used. It must not be used concurrently.
type Reader struct {
	Out        Output
	Port       uint16         // UDP destination port of datagrams in captures; 0: any
	Decoder    decode.Decoder // its State is Store
	Store      *templates.Store
	MaxWaiting int  // bounds WaitingOctets; further sets are dropped and counted as undecoded
	WireOnly   bool // Out needs the protobuf octets of flows only: datagrams have no Messages and Options

	verb           string // for messages
	stdin          io.Reader
	stderr         io.Writer
	result         decode.Result
	now            int64 // capture time of the newest datagram, ns since the epoch
	waiting        map[decode.TemplateKey][]waiting
	waitingNow     int
	reportedExcess bool // the user was warned that MaxWaiting was reached
	count          Counts
}

// Counts are the numbers of records in the input.
type Counts struct {
	Datagrams, Flows int
	Options          int // options data records
	Templates        int // template definitions, options templates included
	Undecoded        int // data sets dropped because their template did not arrive
	Errors           int
}

// Counts returns the numbers of records read so far.
func (o *Reader) Counts() Counts { return o.count }

// WaitingOctets returns the memory in octets of the data sets whose template has not arrived.
func (o *Reader) WaitingOctets() int { return o.waitingNow }

// A waiting set is a data set whose template has not arrived.
type waiting struct {
	order int // of arrival
	from  report.Origin
	set   decode.Set // Data is a copy that the set owns
}

// waitingOverhead estimates the memory of a waiting set besides its octets: the struct in a slice that may be half
// empty, the entry of the map, and the rounding of the allocator.
const waitingOverhead = 400

// octets returns the estimated memory of w in octets.
func (w *waiting) octets() int { return len(w.set.Data) + waitingOverhead }

// waitingInFiles is the default of MaxWaiting, in octets.
const waitingInFiles = 256 << 20

// New returns a Reader whose messages to stderr begin with the name of the verb. stdin is read for the input "-".
func New(verb string, stdin io.Reader, stderr io.Writer, out Output) *Reader {
	o := &Reader{
		verb: verb, stdin: stdin, stderr: stderr, Out: out,
		waiting: map[decode.TemplateKey][]waiting{}, MaxWaiting: waitingInFiles,
	}
	o.Store = templates.New(templates.Options{Local: true, Now: func() time.Time { return time.Unix(0, o.now) }})
	o.Decoder.State = o.Store
	return o
}

// Template returns the template of k for data from a source port, or nil when it has not arrived. It is a
// report.Templates.
func (o *Reader) Template(k *decode.TemplateKey, port uint16) *decode.Template {
	if p := o.Store.Known(k, port); p != nil {
		return p.Template()
	}
	return nil
}

// Run decodes the datagrams in hexes, then the inputs, and returns the exit code of the verb. "-" is standard
// input. An input that cannot be read is reported, and Run continues with the next. A truncated input is decoded
// up to its last complete record.
func (o *Reader) Run(hexes, inputs []string) int {
	code, stopped := console.ExitDone, false
	for _, name := range append([]string{""}, inputs...) {
		var err error
		if name == "" {
			err = o.hexes(hexes)
		} else {
			err = o.input(name)
		}
		var output errOutput
		switch {
		case err == nil:
			continue
		case errors.As(err, &output) && (console.IsBrokenPipe(err) || errors.Is(err, report.ErrEnough)):
			stopped = true // the consumer needs no further records
		case errors.As(err, &output):
			o.printf("standard output: %v", output.error)
			code, stopped = console.ExitFailed, true
		case errors.Is(err, flowfile.ErrCut): // all complete records were read
			o.printf("%s: %v", console.InputName(name), console.WithoutPath(err))
		default:
			o.printf("%s: %v", console.InputName(name), console.WithoutPath(err))
			code = console.ExitFailed
		}
		if stopped {
			break
		}
	}
	if !stopped {
		if err := o.Finish(); err != nil && !console.IsBrokenPipe(err) {
			o.printf("standard output: %v", err)
			code = console.ExitFailed
		}
	}
	return code
}

// Summary returns the counts as a line.
func (o *Reader) Summary() string {
	c := o.count
	return fmt.Sprintf("datagrams=%d flows=%d options=%d templates=%d undecoded=%d errors=%d",
		c.Datagrams, c.Flows, c.Options, c.Templates, c.Undecoded, c.Errors)
}

func (o *Reader) printf(format string, args ...any) {
	console.Linef(o.stderr, "weir %s: %s", o.verb, fmt.Sprintf(format, args...))
}

func (o *Reader) hexes(hexes []string) error {
	for _, h := range hexes {
		var d capture.Datagram
		d.Payload, d.Bad = capture.ParseHex(nil, []byte(h))
		if err := o.Datagram(&d); err != nil {
			return errOutput{err}
		}
	}
	return nil
}

// input decodes one file or standard input.
func (o *Reader) input(name string) error {
	in := o.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	content, err := flowfile.Open(in)
	if err != nil {
		return err
	}
	if flowfile.IsLines(content) {
		return o.flowLines(name, flowfile.NewLines(content))
	}
	r, err := capture.Open(content, capture.Options{Port: o.Port, Hex: name == "-"})
	if err != nil {
		return err
	}
	defer o.leftOut(name, r)
	for {
		var d capture.Datagram
		switch err := r.Next(&d); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		err := o.Datagram(&d)
		if err == nil && name == "-" {
			err = o.Out.Flush() // standard input may be a live capture: show its records at once
		}
		if err != nil {
			return errOutput{err}
		}
	}
}

// leftOut reports the packets of an input that may be export datagrams but were not decoded.
func (o *Reader) leftOut(name string, r *capture.Reader) {
	s, parts := r.Stats(), []string(nil)
	for _, p := range []struct {
		n    int
		what string
	}{
		{s.Fragments, "IP fragments"},
		{s.Cut, "packets cut by the capture's snap length"},
		{s.Malformed, "malformed packets"},
		{s.OtherLink, "packets of a link type that is not supported"},
		{s.OtherPort, "datagrams to other ports"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if parts != nil {
		o.printf("%s: not decoded: %s", console.InputName(name), strings.Join(parts, ", "))
	}
}

// Datagram decodes a datagram, then the sets that waited for its templates. The error is the error of the Output.
func (o *Reader) Datagram(d *capture.Datagram) error {
	o.count.Datagrams++
	from := report.Origin{Datagram: o.count.Datagrams}
	from.Meta = decode.Meta{Exporter: d.Src.Addr(), Port: d.Src.Port(), Received: d.Time}
	o.now = max(o.now, d.Time)
	r := &o.result
	if d.Bad != nil {
		*r = decode.Result{Errors: []wire.Error{*d.Bad}}
		return o.consume(from, r)
	}
	if o.WireOnly {
		o.Decoder.Wire(d.Payload, &from.Meta, r)
	} else {
		o.Decoder.Read(d.Payload, &from.Meta, r)
	}
	o.Store.Confirm()
	from.Header = r.Header
	for i := range r.Unknown {
		o.wait(from, &r.Unknown[i])
	}
	err := o.consume(from, r)
	if err != nil || len(o.waiting) == 0 {
		return err
	}
	var ready []waiting
	for i := range r.Templates {
		k := decode.TemplateKey{
			Exporter: decode.Map16(from.Meta.Exporter),
			Domain:   from.Header.Domain,
			ID:       r.Templates[i].Template.ID,
			Version:  uint8(from.Header.Version),
		}
		ready = append(ready, o.waiting[k]...)
		delete(o.waiting, k)
	}
	return o.decodeWaiting(ready)
}

// Finish decodes the waiting sets whose template arrived, counts the others as undecoded, and flushes the Output.
func (o *Reader) Finish() error {
	var rest []waiting
	for _, w := range o.waiting {
		rest = append(rest, w...)
	}
	clear(o.waiting)
	err := o.decodeWaiting(rest)
	for _, w := range o.waiting {
		o.count.Undecoded += len(w)
	}
	return errors.Join(err, o.Out.Flush())
}

// wait stores a copy of s until its template arrives; the octets of s belong to the datagram. A set without octets
// has no records and is not stored.
func (o *Reader) wait(from report.Origin, s *decode.Set) {
	if len(s.Data) == 0 {
		return
	}
	w := waiting{order: o.count.Datagrams<<16 | s.Off, from: from, set: *s}
	if o.waitingNow+w.octets() > o.MaxWaiting {
		if o.count.Undecoded++; !o.reportedExcess {
			o.reportedExcess = true
			o.printf("data sets that wait for their template take %d MiB: further sets are dropped, and counted as undecoded",
				o.MaxWaiting>>20)
		}
		return
	}
	w.set.Data = slices.Clone(s.Data)
	o.waitingNow += w.octets()
	k := s.Key()
	o.waiting[k] = append(o.waiting[k], w)
}

// Advance sets the clock of the template store to now, if that is later, and removes expired templates. It is for
// live input only; files advance the clock by the time of receipt of their datagrams.
func (o *Reader) Advance(now time.Time) {
	o.now = max(o.now, now.UnixNano())
	o.Store.Maintain()
}

// Clock returns the clock of the template store.
func (o *Reader) Clock() time.Time { return time.Unix(0, o.now) }

// EachWaiting calls f with each missing template and the number of data sets that wait for it, in order of
// template id.
func (o *Reader) EachWaiting(f func(k *decode.TemplateKey, sets int)) {
	keys := slices.SortedFunc(maps.Keys(o.waiting), func(a, b decode.TemplateKey) int { return int(a.ID) - int(b.ID) })
	for _, k := range keys {
		f(&k, len(o.waiting[k]))
	}
}

// Expire drops the waiting sets that were received before at, in ns since the epoch, and counts them as undecoded.
func (o *Reader) Expire(at int64) {
	for k, list := range o.waiting {
		list = slices.DeleteFunc(list, func(w waiting) bool {
			old := w.from.Meta.Received < at
			if old {
				o.count.Undecoded++
				o.waitingNow -= w.octets()
			}
			return old
		})
		if o.waiting[k] = list; len(list) == 0 {
			delete(o.waiting, k)
		}
	}
}

// decodeWaiting decodes sets that waited for their template, in the order of their arrival.
func (o *Reader) decodeWaiting(ready []waiting) error {
	slices.SortFunc(ready, func(a, b waiting) int { return cmp.Compare(a.order, b.order) })
	for _, w := range ready {
		k := w.set.Key()
		plan := o.Store.Plan(&k, &w.set.Meta, &w.set.Header)
		if plan == nil {
			o.waiting[k] = append(o.waiting[k], w)
			continue
		}
		o.waitingNow -= w.octets()
		if o.WireOnly {
			o.Decoder.WireSet(&w.set, plan, &o.result)
		} else {
			o.Decoder.ReadSet(&w.set, plan, &o.result)
		}
		if err := o.consume(w.from, &o.result); err != nil {
			return err
		}
	}
	return nil
}

// consume counts the records of r and passes them to the Output. A missing template is not an error here: the set
// waits, and is counted as undecoded in Finish.
func (o *Reader) consume(from report.Origin, r *decode.Result) error {
	r.Errors = slices.DeleteFunc(r.Errors, func(e wire.Error) bool { return e.Cause == wire.MissingTemplate })
	o.count.Flows += max(len(r.Flows), len(r.Messages)) // datagrams have Flows, lines of text only Messages
	o.count.Options += max(r.OptionsRecords, len(r.Options))
	o.count.Templates += len(r.Templates)
	o.count.Errors += len(r.Errors)
	return o.Out.Consume(from, r)
}
