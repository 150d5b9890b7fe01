// Package pairs sends numbered conversations as IPFIX and records the outcome of each on the
// topics. It is for tests that kill processes meanwhile.
package pairs

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// Responder and Port are the address and port of the responder of all conversations.
var (
	Responder = [4]byte{192, 0, 2, 9}
	Port      = uint16(443)
)

// PerDatagram is the number of flows in a datagram. Half of them open conversations, half answer
// those of the previous datagram.
const PerDatagram = 20

const (
	templateID    = 300
	templateEvery = 10 * time.Second
	initiatorPort = 40000
)

// fields lists the template's fields: Information Elements and their lengths.
var fields = [][2]uint16{{8, 4}, {12, 4}, {7, 2}, {11, 2}, {4, 1}, {6, 1}, {136, 1}, {1, 4}, {2, 4}, {152, 8}, {153, 8}}

// A Ledger records the flows sent, and the flows and connections read. The zero value is ready.
type Ledger struct {
	mu       sync.Mutex
	pairs    []pair
	reports  map[report]bool
	problems []string
	flows    int
}

// A pair records the two directions of a conversation.
type pair struct {
	sent    [2]int64 // ns; 0: not yet
	seen    [2]uint8
	id      [16]byte // of its connection
	version uint32   // greatest
	records [2]uint32
}

// tooFar is the greatest time between the sending of the two directions for which they are
// certainly one connection: less than PAIR_LINGER, since they end with a FIN.
const tooFar = 4 * time.Second

// apart reports whether the sender was delayed between the two directions.
func (p *pair) apart() bool {
	return p.sent[0] > 0 && p.sent[1] > 0 && time.Duration(p.sent[1]-p.sent[0]) > tooFar
}

// A report is a version of a connection.
type report struct {
	id      [16]byte
	version uint32
}

// A Source is an exporter, identified by its observation domain.
type Source struct {
	to       io.Writer
	domain   uint32
	ledger   *Ledger
	sequence uint32
	template time.Time // when it was last sent
	open     []int     // opened by the last datagram
	buf      []byte
}

// NewSource returns a Source that writes datagrams to to.
func NewSource(to io.Writer, domain uint32, l *Ledger) *Source {
	return &Source{to: to, domain: domain, ledger: l}
}

// Send sends a datagram.
func (s *Source) Send(now time.Time) error {
	if now.Sub(s.template) >= templateEvery {
		s.template = now
		if err := s.message(now, s.templateSet()); err != nil {
			return err
		}
	}
	return s.send(now, PerDatagram/2)
}

// Finish answers the open conversations.
func (s *Source) Finish(now time.Time) error { return s.send(now, 0) }

// send answers the open conversations and opens new ones.
func (s *Source) send(now time.Time, opens int) error {
	set := binary.BigEndian.AppendUint16(nil, templateID)
	set = append(set, 0, 0)
	l := s.ledger
	l.mu.Lock()
	record := func(i, direction int) {
		l.pairs[i].sent[direction] = now.UnixNano()
		set = appendRecord(set, i, direction, now)
	}
	records := uint32(len(s.open) + opens)
	for _, i := range s.open {
		record(i, 1)
	}
	s.open = s.open[:0]
	for range opens {
		i := len(l.pairs)
		l.pairs = append(l.pairs, pair{})
		s.open = append(s.open, i)
		record(i, 0)
	}
	l.mu.Unlock()
	binary.BigEndian.PutUint16(set[2:], uint16(len(set)))
	err := s.message(now, set)
	s.sequence += records
	return err
}

// message sends an IPFIX message (RFC 7011 section 3.1) with one set.
func (s *Source) message(now time.Time, set []byte) error {
	b := binary.BigEndian.AppendUint16(s.buf[:0], 10)
	b = binary.BigEndian.AppendUint16(b, uint16(16+len(set)))
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.BigEndian.AppendUint32(b, s.sequence)
	b = binary.BigEndian.AppendUint32(b, s.domain)
	s.buf = append(b, set...)
	_, err := s.to.Write(s.buf)
	return err
}

func (s *Source) templateSet() []byte {
	set := []byte{0, 2, 0, byte(8 + 4*len(fields)), templateID >> 8, templateID & 0xff, 0, byte(len(fields))}
	for _, f := range fields {
		set = binary.BigEndian.AppendUint16(set, f[0])
		set = binary.BigEndian.AppendUint16(set, f[1])
	}
	return set
}

// initiator returns the address of a conversation's initiator.
func initiator(i int) [4]byte { return [4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)} }

func appendRecord(b []byte, i, direction int, now time.Time) []byte {
	src, dst, srcPort, dstPort := initiator(i), Responder, initiatorPort+uint16(i>>24), Port
	octets, packets := uint32(1000+i%500), uint32(10)
	if direction == 1 {
		src, dst, srcPort, dstPort = dst, src, dstPort, srcPort
		octets, packets = 9000, 12
	}
	b = append(append(b, src[:]...), dst[:]...)
	b = binary.BigEndian.AppendUint16(b, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = append(b, 6, 0x1b, 3) // TCP, SYN PSH ACK FIN, end of flow detected
	b = binary.BigEndian.AppendUint32(b, octets)
	b = binary.BigEndian.AppendUint32(b, packets)
	start := now.Add(-2 * time.Second).UnixMilli()
	b = binary.BigEndian.AppendUint64(b, uint64(start+int64(direction)*3))
	return binary.BigEndian.AppendUint64(b, uint64(start+1000))
}

// number returns the number of the conversation of two addresses, and the direction.
func number(src, dst []byte) (i, direction int, ok bool) {
	if len(src) != 4 || len(dst) != 4 {
		return 0, 0, false
	}
	if [4]byte(src) == Responder {
		src, dst, direction = dst, src, 1
	}
	if [4]byte(dst) != Responder || src[0] != 10 {
		return 0, 0, false
	}
	return int(src[1])<<16 | int(src[2])<<8 | int(src[3]), direction, true
}

// Take processes the value of a record of the flows or connections topic, in its plain form. mine
// reports whether a flow was sent by a Source.
func (l *Ledger) Take(topic string, value []byte, mine func(*flowpb.FlowMessage) bool) error {
	if strings.HasSuffix(topic, "flows") {
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(value, &m); err != nil {
			return fmt.Errorf("%s: %w", topic, err)
		}
		if mine(&m) {
			l.Flow(&m)
		}
		return nil
	}
	var m flowpb.Connection
	if err := proto.Unmarshal(value, &m); err != nil {
		return fmt.Errorf("%s: %w", topic, err)
	}
	l.Connection(&m)
	return nil
}

// Flow processes a message of the flows topic. It ignores flows of other senders.
func (l *Ledger) Flow(m *flowpb.FlowMessage) {
	i, d, ok := number(m.SrcAddr, m.DstAddr)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i >= len(l.pairs) {
		l.problem("flow %d was never sent", i)
		return
	}
	l.flows++
	if l.pairs[i].seen[d]++; l.pairs[i].seen[d] > 1 {
		l.problem("flow %d, direction %d, is on the topic %d times", i, d, l.pairs[i].seen[d])
	}
}

// Connection processes a message of the connections topic. It ignores connections of other senders.
func (l *Ledger) Connection(m *flowpb.Connection) {
	i, d, ok := number(m.GetInitiator().GetAddress(), m.GetResponder().GetAddress())
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i >= len(l.pairs) || len(m.ConnectionId) != 16 {
		l.problem("connection %x of conversation %d, which was never sent", m.ConnectionId, i)
		return
	}
	r := report{[16]byte(m.ConnectionId), m.Version}
	if l.reports == nil {
		l.reports = map[report]bool{}
	}
	if l.reports[r] {
		l.problem("connection %x, version %d, is on the topic twice", r.id, r.version)
	}
	l.reports[r] = true
	p := &l.pairs[i]
	if p.version > 0 && p.id != r.id && !p.apart() {
		l.problem("conversation %d has two connections, %x and %x; its directions were sent %v apart", i, p.id, r.id, time.Duration(p.sent[1]-p.sent[0]))
	}
	if r.version > p.version {
		p.id, p.version = r.id, r.version
		p.records = [2]uint32{m.GetForward().GetRecords(), m.GetReverse().GetRecords()}
		if d == 1 { // one-sided: the responder counts as the initiator
			p.records[0], p.records[1] = p.records[1], p.records[0]
		}
	}
}

// maxProblems bounds the problems that are recorded.
const maxProblems = 20

func (l *Ledger) problem(format string, args ...any) {
	if len(l.problems) < maxProblems {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
}

// A Verdict is the result of a Ledger for the flows sent before a time.
type Verdict struct {
	Sent, Flows, Connections int
	Missing                  []time.Time // when flows were sent that are not on the topic
	Unreported               int         // conversations with a flow on the topic that no connection contains
	Apart                    int         // conversations that are not checked: the sender was delayed between their directions
	Problems                 []string    // violations that no kill of a process explains
}

// Judge returns the verdict on the flows sent before a time.
func (l *Ledger) Judge(before time.Time) Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := Verdict{Flows: l.flows, Problems: l.problems}
	for i := range l.pairs {
		p := &l.pairs[i]
		late := false
		for d, at := range p.sent {
			if at == 0 || at >= before.UnixNano() {
				late = true
				continue
			}
			v.Sent++
			if p.seen[d] == 0 {
				v.Missing = append(v.Missing, time.Unix(0, at))
			}
		}
		if p.version > 0 {
			v.Connections++
		}
		if p.apart() {
			v.Apart++
			continue
		}
		if !late && (p.records[0] != uint32(p.seen[0]) || p.records[1] != uint32(p.seen[1])) {
			v.Unreported++
		}
	}
	return v
}
