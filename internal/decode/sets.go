package decode

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"weir/internal/ipfix"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// Wire decodes a datagram into protobuf octets and record keys: r.Buf and r.Flows. It overwrites
// r.Buf and allocates nothing once r has grown. pkt must not change while the caller uses
// r.Unknown, which aliases it.
func (d *Decoder) Wire(pkt []byte, m *Meta, r *Result) {
	d.readable = false
	d.datagram(pkt, m, r)
}

// Read decodes a datagram into r.Messages and r.Options. Its flows are those of Wire, unmarshalled: it allocates
// a message per flow, which the caller owns.
func (d *Decoder) Read(pkt []byte, m *Meta, r *Result) {
	d.readable = true
	d.datagram(pkt, m, r)
	r.unmarshal()
}

// WireSet decodes a set that waited for its template, in the manner of Wire. p must be a plan for
// s.Key().
func (d *Decoder) WireSet(s *Set, p *Plan, r *Result) {
	d.readable = false
	d.waited(s, p, r)
}

// ReadSet decodes a set that waited for its template, in the manner of Read. p must be a plan for
// s.Key().
func (d *Decoder) ReadSet(s *Set, p *Plan, r *Result) {
	d.readable = true
	d.waited(s, p, r)
	r.unmarshal()
}

// unmarshal fills r.Messages with the flows of r.Buf. It fails only if the caller broke a contract: a text of the
// Decoder's configuration is not valid UTF-8. r.Errors then has an entry per flow, and the flow is left out.
func (r *Result) unmarshal() {
	if len(r.Flows) == 0 {
		return
	}
	r.Messages = make([]*flowpb.FlowMessage, 0, len(r.Flows))
	for _, s := range r.Flows {
		m := &flowpb.FlowMessage{}
		if err := proto.Unmarshal(r.Buf[s.Start:s.ValueEnd], m); err != nil {
			r.fail(int(m.GetRecordOffset()), "flow: "+err.Error(), wire.BadField)
			continue
		}
		r.Messages = append(r.Messages, m)
	}
}

// Key returns the identity of the template that s waits for.
func (s *Set) Key() TemplateKey {
	return TemplateKey{
		Exporter: Map16(s.Meta.Exporter), Domain: s.Header.Domain, ID: s.ID, Version: uint8(s.Header.Version),
	}
}

// reset empties r and keeps its space.
func (r *Result) reset() {
	r.Header, r.Hash, r.OldUptimes, r.Misencoded, r.BadRates, r.TooSmall, r.Beyond = Header{}, 0, 0, 0, 0, 0, 0
	r.OptionsRecords, r.Exported = 0, Exported{}
	r.Buf, r.Flows, r.Messages, r.Options = r.Buf[:0], r.Flows[:0], nil, nil
	r.Templates, r.Unknown, r.Errors = r.Templates[:0], r.Unknown[:0], r.Errors[:0]
	r.fields = r.fields[:0]
}

func (r *Result) fail(off int, what string, cause wire.Cause) {
	r.Errors = append(r.Errors, wire.Error{Off: off, What: what, Cause: cause})
}

func (d *Decoder) datagram(pkt []byte, m *Meta, r *Result) {
	r.reset()
	rd := wire.NewReader(pkt)
	if e, ok := ipfix.ReadHeader(&rd, &r.Header); !ok {
		r.Errors = append(r.Errors, e)
		return
	}
	r.Hash = Hash(pkt)
	d.begin(m, &r.Header, r.Hash)
	switch r.Header.Version {
	case ipfix.VersionNetFlow9, ipfix.VersionIPFIX:
		d.sets(pkt, &rd, r)
	default:
		d.legacy(&rd, r)
	}
	r.OldUptimes, r.Misencoded, r.BadRates = d.ctx.oldUptimes, d.ctx.misencoded, d.ctx.badRates
}

func (d *Decoder) waited(s *Set, p *Plan, r *Result) {
	r.reset()
	r.Header, r.Hash = s.Header, s.Hash
	d.begin(&s.Meta, &s.Header, s.Hash)
	d.data(s.Data, s.Off, p, r)
	r.OldUptimes, r.Misencoded, r.BadRates = d.ctx.oldUptimes, d.ctx.misencoded, d.ctx.badRates
}

// begin sets the values that the records of a datagram share.
func (d *Decoder) begin(m *Meta, h *Header, hash uint64) {
	d.ctx = context{
		meta: *m, header: *h, hash: hash, flowType: flowTypes[h.Version], facts: &noFacts, exporter: &noExporter,
	}
	d.ctx.maxAgeMs = cmp.Or(d.MaxUptimeAge.Milliseconds(), anyAgeMs)
	if d.Exporter != nil {
		if x := d.Exporter(m.Exporter); x != nil {
			d.ctx.exporter = x
		}
	}
	d.credit, d.factCredit, d.limit = smallAllowance, smallAllowance, cmp.Or(d.MaxOctets, math.MaxInt)
	if d.readable {
		d.limit = math.MaxInt
	}
	if h.Version >= ipfix.VersionNetFlow9 {
		d.loadFacts()
	}
	d.head = d.ctx.appendHead(d.head[:0], d.Replica)
}

var (
	noFacts    Facts
	noExporter Exporter
)

// key returns the identity of template id in the current datagram. It is valid until the next call.
func (d *Decoder) key(id uint16) *TemplateKey {
	h := &d.ctx.header
	d.k = TemplateKey{Exporter: Map16(d.ctx.meta.Exporter), Domain: h.Domain, ID: id, Version: uint8(h.Version)}
	return &d.k
}

// legacy decodes the records of v1, v5 and v7: the stated number, or as many as the datagram holds
// if these are fewer.
func (d *Decoder) legacy(rd *wire.Reader, r *Result) {
	p := legacyPlans[r.Header.Version]
	n, whole := int(r.Header.Count), rd.Len()/p.min
	off := rd.Off()
	b := rd.Rest()
	use := min(n, whole)
	d.data(b[:use*p.min], off, p, r)
	switch {
	case n > whole:
		r.fail(off+whole*p.min, "record count", wire.Truncated)
	case len(b) > n*p.min:
		r.fail(off+n*p.min, "octets after the last counted record", wire.Trailing)
	}
}

// sets decodes the sets of NetFlow v9 and IPFIX, then the data sets whose template followed them in
// the datagram: some exporters send a template after its data.
func (d *Decoder) sets(pkt []byte, rd *wire.Reader, r *Result) {
	if r.Header.Version == ipfix.VersionIPFIX {
		length := int(r.Header.Count)
		switch {
		case length < ipfix.HeaderIPFIX:
			r.fail(2, "message length", wire.BadLength)
			return
		case length > len(pkt):
			r.fail(2, "message length", wire.Truncated)
		case length < len(pkt):
			r.fail(length, "octets after the message", wire.Trailing)
			*rd = rd.Sub(length-ipfix.HeaderIPFIX, "message")
		}
	}
	d.pending = d.pending[:0]
	for rd.Len() >= ipfix.HeaderSet {
		start := rd.Off()
		id, n, cause := ipfix.ReadSetHeader(rd)
		if cause != "" {
			r.fail(start+2, "set length", cause)
		}
		if cause == wire.BadLength {
			break
		}
		set := rd.Sub(n, "set")
		switch kind := ipfix.KindOf(r.Header.Version, id); kind {
		case ipfix.DataSet:
			d.dataSet(id, &set, r)
		case ipfix.TemplateSet, ipfix.OptionsTemplateSet:
			d.templates(&set, kind == ipfix.OptionsTemplateSet, r)
		default:
			r.fail(start, "set id", wire.ReservedSet)
		}
	}
	for i := range d.pending {
		s := &d.pending[i]
		if p := d.State.Plan(d.key(s.ID), &s.Meta, &s.Header); p != nil && len(r.Templates)+r.OptionsRecords > 0 {
			d.data(s.Data, s.Off, p, r)
			continue
		}
		r.Unknown = append(r.Unknown, *s)
	}
}

// templates learns the template records of a set.
func (d *Decoder) templates(set *wire.Reader, options bool, r *Result) {
	for set.Len() > 0 {
		off := set.Off()
		done, withdrawn, err := ipfix.ReadTemplate(set, uint8(r.Header.Version), options, &d.tmpl)
		switch {
		case err != nil:
			r.Errors = append(r.Errors, *err)
			if _, short := set.Failure(); short {
				return
			}
			continue
		case done:
			return
		case withdrawn:
			// RFC 7011 section 8.4: withdrawals must not be used over UDP.
			if w, ok := d.State.(Withdrawer); ok && w.Withdraw(d.key(d.tmpl.ID), options) {
				continue
			}
			r.fail(off, "template withdrawal", wire.Withdrawal)
			continue
		}
		if _, e := d.State.Learn(d.key(d.tmpl.ID), &d.ctx.meta, &d.ctx.header, &d.tmpl); e != nil {
			r.fail(off, refusal(e), wire.BadTemplate)
			continue
		}
		r.learnt(&d.tmpl, off)
	}
}

// refusal returns the reason for which a State refused a template. It formats nothing for a
// *wire.Error.
func refusal(err error) string {
	if e, ok := err.(*wire.Error); ok { //nolint:errorlint // wrapped errors are handled below
		return e.What
	}
	if e := (*wire.Error)(nil); errors.As(err, &e) {
		return e.What
	}
	return err.Error()
}

// learnt stores a copy of t. The fields of all templates of a datagram share one slice, so that one
// datagram bounds their space.
func (r *Result) learnt(t *Template, off int) {
	n := len(r.fields)
	r.fields = append(r.fields, t.Fields...)
	l := Learnt{Template: *t, Off: off}
	l.Template.Fields = r.fields[n:len(r.fields):len(r.fields)]
	r.Templates = append(r.Templates, l)
}

// dataSet decodes a data set, or puts it aside if its template is unknown.
func (d *Decoder) dataSet(id uint16, set *wire.Reader, r *Result) {
	off := set.Off()
	b := set.Rest()
	if p := d.State.Plan(d.key(id), &d.ctx.meta, &d.ctx.header); p != nil {
		d.data(b, off, p, r)
		return
	}
	d.pending = append(d.pending, Set{Meta: d.ctx.meta, Header: r.Header, Hash: r.Hash, ID: id, Off: off, Data: b})
}

// data decodes the records of a data set. Octets after the last record that are fewer than a record
// needs are padding with any content (RFC 7011 section 3.3.1). Padding must follow a record: a set
// with content but without a whole record is an error.
//
// In NetFlow v9 sets are padded to a multiple of 4 octets (RFC 3954 section 5.3), in IPFIX padding
// is optional and shorter than a record. With variable-length records the minimum length of a record
// decides: fewer octets than that cannot be a record.
func (d *Decoder) data(b []byte, off int, p *Plan, r *Result) {
	switch {
	case len(b) < p.min:
		if len(b) > 0 {
			r.fail(off, "data set", wire.NoRecord)
		}
	case p.template.Options:
		d.options(b, off+len(b), p, r)
	case p.min < MinFlow:
		d.smallRecords(b, off, p, r)
	default:
		d.last = math.MaxInt
		d.records(b, off, p, r)
	}
}

// smallRecords decodes records that may be shorter than MinFlow octets: at most one flow per
// MinFlow octets of all data sets of the datagram.
//
// The credit accumulates over such sets of a datagram, so the number of sets does not change the
// bound: a set adds its octets, its header included, and each flow takes MinFlow of them.
func (d *Decoder) smallRecords(b []byte, off int, p *Plan, r *Result) {
	d.credit += ipfix.HeaderSet + len(b)
	before := len(r.Flows)
	d.last = before + d.credit/MinFlow
	d.records(b, off, p, r)
	d.credit -= MinFlow * (len(r.Flows) - before)
}

// countUndecoded counts the records of b that are not decoded because a limit is reached.
func (d *Decoder) countUndecoded(b []byte, off int, p *Plan, r *Result) {
	n := p.count(b)
	if n == 0 {
		r.Errors = append(r.Errors, recordError(off))
		return
	}
	if len(r.Flows) < d.last {
		r.Beyond += n
		return
	}
	r.TooSmall += n
	r.fail(off, "records", wire.RecordTooSmall)
}

// count returns the number of whole records at the beginning of b.
func (p *Plan) count(b []byte) (n int) {
	if p.fixed {
		return len(b) / p.min
	}
	for ; len(b) >= p.min; n++ {
		var ok bool
		for i := range p.template.Fields {
			if _, b, ok = ipfix.NextField(b, p.template.Fields[i].Length); !ok {
				return n
			}
		}
	}
	return n
}

// records decodes flow records until b, d.last or d.limit ends them. It chooses the path: append for
// records that name their exporter or use elements that the exporter defined, and for plans without
// a fast plan; otherwise the fast path.
func (d *Decoder) records(b []byte, off int, p *Plan, r *Result) {
	d.rec.plan, d.rec.drop, d.rec.decoder = p, d.DropElements, d
	d.rec.relay, d.rec.exporterByAddr = p.relayed && d.ExporterOfRecord, d.Exporter
	d.rec.define(p, &d.ctx)
	switch {
	case d.path != nil:
		d.path(d, b, off, p, r)
	case p.fast == nil || d.rec.relay || d.rec.defined != nil:
		d.appendRecords(b, off, p, r)
	case p.fixed:
		d.fastRecords(b, off, p, r)
	default:
		d.variableRecords(b, off, p, r)
	}
	if d.ctx.formsSeen != 0 {
		d.learnForms()
	}
}

// appendRecords decodes flow records into r.Buf, step by step. It handles every plan;
// tests compare the fast path with it.
func (d *Decoder) appendRecords(b []byte, off int, p *Plan, r *Result) {
	for end := off + len(b); len(b) >= p.min; {
		at := end - len(b)
		start := len(r.Buf)
		if start >= d.limit || len(r.Flows) >= d.last {
			d.countUndecoded(b, at, p, r)
			return
		}
		buf, rest, ok := d.rec.append(r.Buf, &d.ctx, d.head, b, at, &d.out)
		if !ok {
			r.Buf = buf[:start]
			r.Errors = append(r.Errors, recordError(at))
			return
		}
		span := Span{Start: start, ValueEnd: len(buf)}
		if k, ok := d.out.key(); ok {
			buf = k.Append(buf)
		}
		span.KeyEnd = len(buf)
		r.Buf, b = buf, rest
		r.Flows = append(r.Flows, span)
	}
}

// options decodes the records of options data and passes their facts to the State. Only Read keeps
// the records.
func (d *Decoder) options(b []byte, end int, p *Plan, r *Result) {
	v, learnt := &d.optionValues, false
	k := d.key(0)
	d.factCredit += len(b)
	for len(b) >= p.min {
		at := end - len(b)
		if d.factCredit < 0 {
			r.OptionsRecords += p.count(b)
			r.fail(at, "options records", wire.RecordTooSmall)
			break
		}
		rest, ok := p.readOptions(b, v)
		if !ok {
			r.Errors = append(r.Errors, recordError(at))
			break
		}
		r.OptionsRecords++
		if d.readable {
			r.Options = append(r.Options, OptionsRecord{
				TemplateID: p.template.ID, Off: at, Values: p.values(b), Facts: slices.Clone(v.facts), Exported: v.total,
			})
		}
		b = rest
		if v.badRate {
			d.ctx.badRates++
		}
		if v.total.Has {
			r.Exported = v.total
		}
		if v.has != 0 {
			d.factCredit -= MinFact * max(1, len(v.facts))
		}
		for _, f := range v.facts {
			d.State.LearnFact(k, &d.ctx.meta, &d.ctx.header, f)
			learnt = true
		}
	}
	clear(v.octets[:]) // the caller owns the datagram: keep no reference to it
	if learnt {
		d.loadFacts()
	}
}

// loadFacts reads the options data of the datagram's exporter into d.ctx.
func (d *Decoder) loadFacts() {
	d.ctx.facts = d.State.Facts(d.key(0))
	d.ctx.initMs = plausibleInit(&d.ctx.header, d.ctx.facts.InitMs(d.ctx.meta.Port))
	d.ctx.codeFirst = d.ctx.facts.icmpForms.codeFirst()
}

// float64From reads a float32 or float64.
func float64From(b []byte) float64 { return math.Float64frombits(floatBits(b)) }
