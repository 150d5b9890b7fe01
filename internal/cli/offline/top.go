package offline

import (
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/query"
)

// A Summation is an Output that adds flows to an Aggregation.
type Summation struct {
	Aggregation *query.Aggregation
	wire        []byte
}

// Consume adds the flows of r. Flows of a datagram are there as protobuf octets; others are encoded.
func (s *Summation) Consume(_ report.Origin, r *decode.Result) error {
	if len(r.Flows) > 0 {
		for _, f := range r.Flows {
			s.Aggregation.Add(r.Buf[f.Start:f.ValueEnd])
		}
		return nil
	}
	for _, m := range r.Messages {
		var err error
		if s.wire, err = (proto.MarshalOptions{}).MarshalAppend(s.wire[:0], m); err != nil {
			return err
		}
		s.Aggregation.Add(s.wire)
	}
	return nil
}

// Flush does nothing.
func (s *Summation) Flush() error { return nil }
