package templates

import (
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// Barrier returns the record with which a replica finds the end of the log: once the
// replica reads it back, it has read all earlier records. nonce must be new at each
// start, so that the barrier of an earlier start does not match.
func Barrier(replica string, nonce []byte) Record {
	value, err := proto.Marshal(&flowpb.ExporterState{
		Schema:  schema,
		Replica: replica,
		State:   &flowpb.ExporterState_Barrier{Barrier: &flowpb.Barrier{Nonce: nonce}},
	})
	if err != nil { // replica is not valid UTF-8: the nonce alone identifies the barrier
		value = nonce
	}
	return Record{Key: BarrierKey(replica), Value: value}
}
