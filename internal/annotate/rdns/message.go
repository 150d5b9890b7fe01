package rdns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"weir/pkg/flowpb"
)

const (
	maxUDPPayload = 1232 // octets; passes nearly everywhere without fragmentation
	maxQuery      = 512  // octets of a query; a name takes 255 at most
	maxCNAMEs     = 16   // that are followed; bounds a loop
)

// A result is the outcome of the lookup of an address.
type result struct {
	answer Answer
	ttl    time.Duration // life of the answer; 0 for a failure

	// retry is set for a failure without a query, because the zone is silent: the time until the zone may be asked.
	// Such a failure does not count as one of the address, or its retry would be later than that of the zone.
	retry time.Duration
}

// failed reports whether the lookup gave no answer, in contrast to a known absence of a name.
func (r result) failed() bool {
	return r.answer.Status == flowpb.NameStatus_NAME_STATUS_SERVFAIL ||
		r.answer.Status == flowpb.NameStatus_NAME_STATUS_TIMEOUT
}

// A question asks for the records of a name, of class IN. It must not be modified while a query is in flight.
type question struct {
	// name is fully qualified and in lower case, as text with dots: "4.3.2.1.in-addr.arpa.". A dnsmessage.Name is an
	// array of 255 octets: a question is passed by pointer.
	name dnsmessage.Name
	kind dnsmessage.Type

	// address, with A and AAAA, is the address that the reply must contain to verify the name.
	address netip.Addr
}

// rootQuestion asks for the name servers of the root (". NS"). Every resolver has them in its cache.
var rootQuestion = question{name: dnsmessage.MustNewName("."), kind: dnsmessage.TypeNS}

// reverseQuestion asks for the names of a: PTR records of 4.3.2.1.in-addr.arpa. for 1.2.3.4 (RFC 1035 section 3.5), or
// of 32 nibbles below ip6.arpa. (RFC 3596 section 2.5).
func reverseQuestion(a netip.Addr) *question {
	q := &question{kind: dnsmessage.TypePTR}
	b := q.name.Data[:0]
	if a.Is4() {
		octets := a.As4()
		for i := range octets {
			b = append(strconv.AppendUint(b, uint64(octets[3-i]), 10), '.')
		}
		b = append(b, "in-addr.arpa."...)
	} else {
		const digits = "0123456789abcdef"
		octets := a.As16()
		for i := range octets {
			o := octets[15-i]
			b = append(b, digits[o&15], '.', digits[o>>4], '.')
		}
		b = append(b, "ip6.arpa."...)
	}
	q.name.Length = uint8(len(b))
	return q
}

// addressQuestion asks whether a is an address of host, which must be the result of hostname: its labels are valid, and
// it fits into a Name with a final dot.
func addressQuestion(host string, a netip.Addr) *question {
	q := &question{kind: dnsmessage.TypeAAAA, address: a}
	if a.Is4() {
		q.kind = dnsmessage.TypeA
	}
	q.name.Length = uint8(len(append(append(q.name.Data[:0], host...), '.')))
	return q
}

// appendQuery appends the message of a question: RD, and EDNS with maxUDPPayload (RFC 1035 section 4.1, RFC 6891
// section 6.1.2). It does not use dnsmessage.Builder, which would take a tenth of the time of a lookup.
func appendQuery(buf []byte, id uint16, q *question) []byte {
	const recursionDesired, optType = 0x0100, 41
	for _, field := range [6]uint16{id, recursionDesired, 1, 0, 0, 1} {
		buf = binary.BigEndian.AppendUint16(buf, field)
	}
	if q.name.Length > 1 { // not the root
		label := len(buf)
		buf = append(buf, 0)
		for _, c := range q.name.Data[:q.name.Length-1] {
			if c == '.' {
				buf[label] = byte(len(buf) - label - 1)
				label = len(buf)
			}
			buf = append(buf, c)
		}
		buf[label] = byte(len(buf) - label - 1)
	}
	buf = append(buf, 0)
	buf = binary.BigEndian.AppendUint16(buf, uint16(q.kind))
	buf = binary.BigEndian.AppendUint16(buf, uint16(dnsmessage.ClassINET))
	buf = append(buf, 0) // the root owns the OPT record
	buf = binary.BigEndian.AppendUint16(buf, optType)
	buf = binary.BigEndian.AppendUint16(buf, maxUDPPayload)
	return append(buf, 0, 0, 0, 0, 0, 0) // extended RCODE, version, flags; length
}

// A reply holds the content of a response that a lookup needs. It has no reference to the octets of the response.
type reply struct {
	// rcode includes the upper eight bits that EDNS carries (RFC 6891 section 6.1.3): BADVERS is 16.
	rcode dnsmessage.RCode

	// truncated is the bit TC. The fields below are not set then: the query must be repeated over TCP.
	truncated bool

	// targets are those of the PTR records at the end of the chain of CNAMEs, as sent: "WWW.example.com.". They are
	// chosen by the holder of the reverse zone and must pass hostname before any use. A target that dnsmessage cannot
	// read, for example with a dot within a label, is "".
	targets []string

	// contains reports whether an address record has the address of the question.
	contains bool

	// ttl is the least TTL of the records and of the CNAMEs that lead to them, at most maxTTL. 0 is possible.
	ttl time.Duration

	// negative is the life of a missing name, from minTTL to maxNegative: the lesser of the SOA's TTL and its minimum
	// (RFC 2308 section 5).
	negative time.Duration
}

var (
	// errOther is the error of a datagram that must be passed over: it does not answer the query.
	errOther = errors.New("response to another query")
	// errFormat is the error of a response to the query that cannot be read to its end.
	errFormat = errors.New("malformed response")
)

// parseReply reads the response to a question. It returns errOther if message is no response, or has another id or
// question.
//
// The octets may come from anybody. The cost is bounded by the length of message times maxCNAMEs, and by 10 compression
// pointers a name in dnsmessage. A CNAME chain is followed within the message only, as a resolver sends it (RFC 2317
// delegates reverse zones by CNAMEs); owners are compared without regard to case.
func parseReply(message []byte, id uint16, q *question) (r reply, err error) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil {
		return r, errOther
	}
	if !header.Response || header.ID != id || binary.BigEndian.Uint16(message[4:]) != 1 {
		return r, errOther
	}
	asked, err := p.Question()
	if err != nil || p.SkipAllQuestions() != nil { // the latter ends the section
		return r, errOther
	}
	if !equalNames(&asked.Name, &q.name) || asked.Type != q.kind || asked.Class != dnsmessage.ClassINET {
		return r, errOther
	}
	r.rcode, r.truncated = header.RCode, header.Truncated
	if r.truncated {
		return r, nil
	}
	r.ttl, r.negative = maxTTL, minTTL
	owner, answers := q.name, p // p is copied: each CNAME is followed from the first answer
	for range maxCNAMEs {
		p = answers
		found, next, err := r.readAnswers(&p, &owner, q)
		if err != nil {
			return r, err
		}
		if found || next == nil {
			break
		}
		owner = *next
	}
	return r, r.readRest(&p)
}

// readAnswers reads the answers that owner has, and returns the target of its first CNAME if there is one. found
// reports whether owner has records of the type that was asked for. p must stand before the first answer, and stands
// behind the last one afterwards.
func (r *reply) readAnswers(
	p *dnsmessage.Parser, owner *dnsmessage.Name, q *question,
) (found bool, next *dnsmessage.Name, err error) {
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return found, next, nil
		}
		switch {
		case err != nil: // an owner with a dot in a label, or malformed: then skipping fails as well
		case h.Length == 0 || h.Class != dnsmessage.ClassINET || !equalNames(&h.Name, owner):
			// Without RDATA, dnsmessage would read the next record as RDATA.
		case h.Type == q.kind:
			found = true
			r.ttl = min(r.ttl, seconds(h.TTL))
			if r.readRecord(p, q) {
				continue
			}
		case h.Type == dnsmessage.TypeCNAME && next == nil:
			if c, err := p.CNAMEResource(); err == nil {
				next = &c.CNAME
				r.ttl = min(r.ttl, seconds(h.TTL))
				continue
			}
		}
		if p.SkipAnswer() != nil {
			return false, nil, errFormat
		}
	}
}

// readRecord reads a record of the type that was asked for. It returns false if the record was not consumed, so that
// the caller must skip it. dnsmessage does not compare RDLENGTH with the length of a name: a target may extend into
// the next record. It is text from the same sender all the same.
func (r *reply) readRecord(p *dnsmessage.Parser, q *question) bool {
	switch q.kind {
	case dnsmessage.TypePTR:
		ptr, err := p.PTRResource()
		if err != nil {
			r.targets = append(r.targets, "")
			return false
		}
		r.targets = append(r.targets, string(ptr.PTR.Data[:ptr.PTR.Length]))
		return true
	case dnsmessage.TypeA:
		a, err := p.AResource()
		r.contains = r.contains || err == nil && netip.AddrFrom4(a.A) == q.address
		return err == nil
	case dnsmessage.TypeAAAA:
		a, err := p.AAAAResource()
		r.contains = r.contains || err == nil && netip.AddrFrom16(a.AAAA) == q.address
		return err == nil
	default:
		return false
	}
}

// readRest reads the first SOA of the authority section and the extended RCODE. p must stand behind the answers. The
// SOA gives the life of a missing name; its owner is not compared, since the zone cut is not known here.
func (r *reply) readRest(p *dnsmessage.Parser) error {
	for soa := false; ; {
		h, err := p.AuthorityHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err == nil && h.Type == dnsmessage.TypeSOA && h.Length > 0 && !soa {
			if s, err := p.SOAResource(); err == nil {
				soa = true
				r.negative = clamp(seconds(min(h.TTL, s.MinTTL)), maxNegative)
				continue
			}
		}
		if p.SkipAuthority() != nil {
			return errFormat
		}
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err == nil && h.Type == dnsmessage.TypeOPT {
			r.rcode |= dnsmessage.RCode(h.TTL>>24) << 4 // of any version: ExtendedRCode knows version 0 alone
			return nil
		}
		if p.SkipAdditional() != nil {
			return errFormat
		}
	}
}

// equalNames reports whether a and b are the same but for the case of ASCII letters (RFC 4343).
func equalNames(a, b *dnsmessage.Name) bool {
	if a.Length != b.Length {
		return false
	}
	for i, x := range a.Data[:a.Length] {
		if y := b.Data[i]; x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// seconds returns the duration of a TTL. RFC 2181 section 8 wants a TTL with the top bit set to count as 0; clamp
// bounds it anyway.
func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// clamp returns d, but at least minTTL and at most most.
func clamp(d, most time.Duration) time.Duration { return max(minTTL, min(d, most)) }
