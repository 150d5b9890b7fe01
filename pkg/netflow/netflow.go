// Package netflow decodes NetFlow v1, v5, v7, v9 and IPFIX export datagrams.
//
// A Parser turns datagrams into Packets: flows as flowpb.FlowMessage, whatever the version, with the
// templates, options data and errors of the datagram. Templates of NetFlow v9 and IPFIX are kept in
// Templates, by exporter and observation domain. Data sets whose template has not been received yet are
// returned in Packet.Undecoded; they can be decoded once it has been received.
package netflow

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"weir/internal/decode"
	"weir/internal/ie"
	"weir/internal/templates"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// Templates stores templates, and the options data that gives records meaning (sampling rates,
// interface names, system init times), by exporter and observation domain. It is safe for
// concurrent use; each goroutine must have its own Parser.
type Templates struct {
	store      *templates.Store
	now        func() time.Time
	maintained atomic.Int64 // time of the last maintenance of the store, ns
}

// NewTemplates returns an empty Templates. now is the clock by which templates expire; nil stands
// for time.Now.
func NewTemplates(now func() time.Time) *Templates {
	if now == nil {
		now = time.Now
	}
	return &Templates{store: templates.New(templates.Options{Local: true, Now: now}), now: now}
}

// maintain confirms the templates that decoded data, so that unused templates are evicted before
// them, and drops expired templates once a second.
func (t *Templates) maintain() {
	t.store.Confirm()
	at, last := t.now().UnixNano(), t.maintained.Load()
	if at-last < int64(time.Second) && at >= last || !t.maintained.CompareAndSwap(last, at) {
		return
	}
	t.store.Maintain()
}

// A Parser parses datagrams, one at a time. It must not be used by several goroutines at once.
type Parser struct {
	templates *Templates
	decoder   decode.Decoder
	result    decode.Result
}

// NewParser returns a Parser that reads and fills t; nil stands for a Templates of its own.
func NewParser(t *Templates) *Parser {
	if t == nil {
		t = NewTemplates(nil)
	}
	return &Parser{templates: t, decoder: decode.Decoder{State: t.store}}
}

// SetMaxUptimeAge sets the maximum age of flow times that are given as an uptime greater than the uptime
// in the header. Such an uptime is either from before a wrap of the exporter's clock (49.7 days) or
// wrong. A flow with an older uptime gets its export time. 0, the default, means no limit; 24 h suits
// exporters of live traffic. SetMaxUptimeAge returns an error if age is neither 0 nor from 2 min to 1193 h.
func (p *Parser) SetMaxUptimeAge(age time.Duration) error {
	if age != 0 && (age < decode.MinUptimeAge || age > decode.MaxUptimeAge) {
		return fmt.Errorf("maximum age of uptimes %v: want %v to %v, or 0", age, decode.MinUptimeAge, decode.MaxUptimeAge)
	}
	p.decoder.MaxUptimeAge = age
	return nil
}

// A Packet is the content of an export datagram. Nothing in it aliases the datagram.
type Packet struct {
	Version  uint16        // 1, 5, 7, 9, 10 (IPFIX)
	Count    uint16        // records as the header states; IPFIX: the message's length, octets
	Uptime   time.Duration // sysUptime, whole ms; 0 for IPFIX
	Exported time.Time
	Sequence uint32 // 0 for v1
	Domain   uint32 // v9 source id, IPFIX observation domain id, v5 engine type * 256 + engine id

	Flows     []*flowpb.FlowMessage // in record order
	Options   []OptionsRecord
	Templates []Template
	Undecoded []DataSet
	Errors    []*Error // of parts that could not be decoded, in datagram order
}

// An Error describes a part of a datagram that could not be decoded.
type Error struct {
	Offset int    // octets from the start of the datagram
	What   string // the field or part being read
	Cause  string // from a closed set: short, bad_length, bad_template, missing_template, …
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s at octet %d: %s", e.What, e.Offset, e.Cause) }

// A Template is a template or options template, in force from its datagram on.
type Template struct {
	ID      uint16
	Options bool
	Scopes  int // the first Scopes fields are scopes
	Fields  []Field
}

// A Field is a field of a template.
type Field struct {
	PEN    uint32 // private enterprise number, 0: IANA's
	ID     uint16
	Name   string // "" where it is not known
	Length uint16 // octets; 65535: of variable length (RFC 7011 section 7)
}

// An OptionsRecord is a record of options data.
type OptionsRecord struct {
	TemplateID uint16
	Values     []Value // in record order, scopes first
}

// A Value is a field of an options record.
type Value struct {
	PEN    uint32 // private enterprise number, 0: IANA's
	ID     uint16
	Name   string // "" where it is not known
	Scope  bool
	Octets []byte // as exported, network byte order
}

// Uint returns the value as an unsigned integer; ok is false for no octets and for more than 8.
func (v *Value) Uint() (n uint64, ok bool) {
	if len(v.Octets) == 0 || len(v.Octets) > 8 {
		return 0, false
	}
	for _, c := range v.Octets {
		n = n<<8 | uint64(c)
	}
	return n, true
}

// Text returns the value as a string without trailing zero octets. It replaces invalid UTF-8 by U+FFFD.
func (v *Value) Text() string {
	return strings.ToValidUTF8(string(bytes.TrimRight(v.Octets, "\x00")), "\uFFFD")
}

// A DataSet is a data set whose template is not known yet.
type DataSet struct {
	TemplateID uint16
	parser     *Parser
	set        decode.Set
}

// Parse decodes a datagram that was received from an exporter at a time. A zero from or at stands
// for an unknown value; without from, templates belong to no address. It returns an error if
// nothing could be decoded; Packet.Errors lists the parts that could not.
func (p *Parser) Parse(datagram []byte, from netip.AddrPort, at time.Time) (*Packet, error) {
	m := decode.Meta{Exporter: from.Addr().Unmap().WithZone(""), Port: from.Port()}
	if !at.IsZero() {
		m.Received = at.UnixNano()
	}
	p.decoder.Read(datagram, &m, &p.result)
	p.templates.maintain()
	packet := p.packet(&p.result.Header)
	for i := range p.result.Unknown {
		s := p.result.Unknown[i]
		s.Data = slices.Clone(s.Data)
		packet.Undecoded = append(packet.Undecoded, DataSet{s.ID, p, s})
	}
	nothing := len(packet.Flows)+len(packet.Options)+len(packet.Templates)+len(packet.Undecoded) == 0
	if nothing && len(packet.Errors) > 0 {
		return packet, fmt.Errorf("nothing in the datagram could be decoded: %w", packet.Errors[0])
	}
	return packet, nil
}

// ParseHex is Parse for hex text; it ignores white space.
func (p *Parser) ParseHex(text string, from netip.AddrPort, at time.Time) (*Packet, error) {
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, fmt.Errorf("hex text of a datagram: %w", err)
	}
	return p.Parse(b, from, at)
}

// ErrNoTemplate is returned by DataSet.Decode while the template is unknown.
var ErrNoTemplate = errors.New("the template is not known yet")

// Decode decodes the set, or returns ErrNoTemplate if its template has not been received. The
// Packet has the header of the set's datagram and the records of this set only. It uses the Parser
// of the datagram, so it must not run concurrently with Parse.
func (d *DataSet) Decode() (*Packet, error) {
	k := d.set.Key()
	plan := d.parser.templates.store.Plan(&k, &d.set.Meta, &d.set.Header)
	if plan == nil {
		return nil, ErrNoTemplate
	}
	d.parser.decoder.ReadSet(&d.set, plan, &d.parser.result)
	return d.parser.packet(&d.set.Header), nil
}

// packet returns a copy of the current result under header h, without undecoded sets.
func (p *Parser) packet(h *decode.Header) *Packet {
	r, v9 := &p.result, h.Version == 9
	out := &Packet{
		Version: h.Version, Count: h.Count, Uptime: time.Duration(h.Uptime) * time.Millisecond,
		Exported: time.Unix(0, h.Export), Sequence: h.Sequence, Domain: h.Domain,
		Flows: slices.Clone(r.Messages),
	}
	for i := range r.Errors {
		if e := &r.Errors[i]; e.Cause != wire.MissingTemplate { // its set is in Undecoded
			out.Errors = append(out.Errors, &Error{e.Off, e.What, string(e.Cause)})
		}
	}
	for i := range r.Templates {
		t := &r.Templates[i].Template
		fields := make([]Field, len(t.Fields))
		for i, f := range t.Fields {
			fields[i] = Field{f.PEN, f.ID, name(v9, f.PEN, f.ID, i < t.Scopes), f.Length}
		}
		out.Templates = append(out.Templates, Template{t.ID, t.Options, t.Scopes, fields})
	}
	for i := range r.Options {
		o := OptionsRecord{TemplateID: r.Options[i].TemplateID}
		for _, v := range r.Options[i].Values {
			o.Values = append(o.Values, Value{v.PEN, v.ID, name(v9, v.PEN, v.ID, v.Scope), v.Scope, slices.Clone(v.Octets)})
		}
		out.Options = append(out.Options, o)
	}
	return out
}

// scopes are the names of the scope field types of NetFlow v9, RFC 3954 section 6.1.
var scopes = map[uint16]string{1: "System", 2: "Interface", 3: "Line Card", 4: "Cache", 5: "Template"}

// name returns the name of an element or scope, "" if unknown.
func name(v9 bool, pen uint32, id uint16, scope bool) string {
	if v9 && scope {
		return scopes[id]
	}
	e, _ := ie.Lookup(pen, id)
	if v9 {
		e, _ = ie.LookupV9(id)
	}
	return e.Name
}
