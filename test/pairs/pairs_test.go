package pairs

import (
	"net/netip"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

type datagrams [][]byte

func (d *datagrams) Write(b []byte) (int, error) {
	*d = append(*d, append([]byte(nil), b...))
	return len(b), nil
}

// The ledger must detect missing and duplicated flows and reports of a source.
func TestTheLedgerSeesWhatIsMissingAndWhatIsTwice(t *testing.T) {
	var sent datagrams
	var l Ledger
	s := NewSource(&sent, 7, &l)
	at := time.Unix(1_700_000_000, 0)
	for range 3 {
		if err := s.Send(at); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Finish(at); err != nil {
		t.Fatal(err)
	}
	if v := l.Judge(at.Add(1)); v.Sent != 60 || len(v.Missing) != 60 || v.Connections != 0 {
		t.Fatalf("nothing has been seen: %+v", v)
	}
	d := decode.Decoder{State: templates.New(templates.Options{})}
	var flows []*flowpb.FlowMessage
	for _, b := range sent {
		var r decode.Result
		d.Read(b, &decode.Meta{Exporter: netip.MustParseAddr("192.0.2.1"), Port: 1, Received: at.UnixNano()}, &r)
		if len(r.Errors) > 0 {
			t.Fatal(r.Errors)
		}
		flows = append(flows, r.Messages...)
	}
	if got := flows[len(flows)-1].SequenceNum; got != 50 {
		t.Errorf("the last message's sequence number: want 50, the number of flows before it, got %d", got)
	}
	for _, m := range flows[1:] {
		l.Flow(m)
	}
	if v := l.Judge(at.Add(1)); len(v.Missing) != 1 || v.Unreported != 30 || len(v.Problems) != 0 {
		t.Errorf("one flow is missing, no connection was seen: %+v", v)
	}
	for i := range 30 {
		c := &flowpb.Connection{ConnectionId: append(make([]byte, 15), byte(i)), Version: 1, Initiator: &flowpb.Endpoint{}, Responder: &flowpb.Endpoint{Address: Responder[:]}, Forward: &flowpb.Traffic{Records: 1}, Reverse: &flowpb.Traffic{Records: 1}}
		a := initiator(i)
		c.Initiator.Address = a[:]
		if i == 0 { // its first flow is missing: one-sided, seen from the responder
			c.Initiator, c.Responder, c.Reverse = c.Responder, c.Initiator, nil
		}
		l.Connection(c)
	}
	if v := l.Judge(at.Add(1)); v.Unreported != 0 || v.Connections != 30 || len(v.Problems) != 0 {
		t.Errorf("all connections were seen: %+v", v)
	}
	l.Flow(flows[1])
	l.Connection(&flowpb.Connection{ConnectionId: make([]byte, 16), Version: 1, Initiator: &flowpb.Endpoint{Address: Responder[:]}, Responder: &flowpb.Endpoint{Address: []byte{10, 0, 0, 0}}})
	if v := l.Judge(at.Add(1)); len(v.Problems) != 2 {
		t.Errorf("a flow and a report came twice: %+v", v)
	}
}

func TestConversationsInWhichTheSenderStoodStillAreNotJudged(t *testing.T) {
	var sent datagrams
	var l Ledger
	s := NewSource(&sent, 7, &l)
	at := time.Unix(1_700_000_000, 0)
	if err := s.Send(at); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(at.Add(7 * time.Second)); err != nil {
		t.Fatal(err)
	}
	report := func(id byte) {
		a := initiator(0)
		l.Connection(&flowpb.Connection{ConnectionId: append(make([]byte, 15), id), Version: 1, Initiator: &flowpb.Endpoint{Address: a[:]}, Responder: &flowpb.Endpoint{Address: Responder[:]}, Forward: &flowpb.Traffic{Records: 1}})
	}
	report(1)
	report(2)
	if v := l.Judge(at.Add(time.Minute)); len(v.Problems) != 0 || v.Apart != PerDatagram/2 || v.Unreported != 0 {
		t.Errorf("7 s between the directions make two connections: %+v", v)
	}
}
