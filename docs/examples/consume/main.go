// Command consume is an example of a consumer in Go. It reads netflow.connections with the messages of
// pkg/flowpb and prints totals.
//
//	go run ./docs/examples/consume 127.0.0.1:19092
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

const topic = "netflow.connections"

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: consume HOST:PORT")
	}
	if err := consume(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

// consume reads until no record arrives for 3 s.
func consume(broker string) error {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(broker), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // skip aborted transactions
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	latest := map[string]*flowpb.Connection{} // by connection_id: the greatest version is valid
	reports := 0
	for quiet := false; !quiet; {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		fetches := cl.PollFetches(ctx)
		cancel()
		quiet = fetches.NumRecords() == 0
		for _, e := range fetches.Errors() {
			if ctx.Err() == nil {
				return fmt.Errorf("%s, partition %d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		for _, r := range fetches.Records() {
			c := &flowpb.Connection{}
			if err := proto.Unmarshal(r.Value, c); err != nil {
				return fmt.Errorf("%s, partition %d, offset %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			reports++
			if id := string(c.ConnectionId); c.Version > latest[id].GetVersion() {
				latest[id] = c
			}
		}
	}
	var octets, packets uint64
	for _, c := range latest {
		octets += c.GetForward().GetOctets() + c.GetReverse().GetOctets()
		packets += c.GetForward().GetPackets() + c.GetReverse().GetPackets()
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"reports": reports, "connections": len(latest), "octets": octets, "packets": packets,
	})
}
