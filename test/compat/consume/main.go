// Command consume reads netflow.flows with goflow2's own message, as a consumer that was
// written for goflow2 v2 does, and adds up.
//
//	go run ./consume HOST:PORT
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	goflow "github.com/netsampler/goflow2/v2/pb"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: consume HOST:PORT")
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(os.Args[1]), kgo.ConsumeTopics("netflow.flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		log.Fatal(err)
	}
	defer cl.Close()
	flows, octets, packets := 0, uint64(0), uint64(0)
	for quiet := false; !quiet; { // nothing came for 3 s
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		fetches := cl.PollFetches(ctx)
		cancel()
		quiet = fetches.NumRecords() == 0
		for _, r := range fetches.Records() {
			var m goflow.FlowMessage
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				log.Fatal(err)
			}
			if m.Type == goflow.FlowMessage_FLOWUNKNOWN || m.TimeReceivedNs == 0 || len(m.SamplerAddress) == 0 {
				log.Fatalf("not what goflow2 writes: %v", &m)
			}
			flows, octets, packets = flows+1, octets+m.Bytes, packets+m.Packets
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"flows": flows, "octets": octets, "packets": packets}); err != nil {
		log.Fatal(err)
	}
}
