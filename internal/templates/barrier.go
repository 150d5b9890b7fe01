package templates

import (
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// Barrier returns the record by which replica finds the end of the log: once it
// comes back, all that was there before has been read. nonce is new at each start.
func Barrier(replica string, nonce []byte) Record {
	value, err := proto.Marshal(&flowpb.ExporterState{
		Schema:  schema,
		Replica: replica,
		State:   &flowpb.ExporterState_Barrier{Barrier: &flowpb.Barrier{Nonce: nonce}},
	})
	if err != nil { // replica is not UTF-8: the nonce alone is proof enough
		value = nonce
	}
	return Record{Key: BarrierKey(replica), Value: value}
}
