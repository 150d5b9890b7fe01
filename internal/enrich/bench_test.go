package enrich

import (
	"context"
	"encoding/binary"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/internal/weirtest/messages"
	"weir/pkg/flowpb"
)

// BenchmarkWorker takes flows from the embedded broker in the same process:
// consume, pair, produce, commit. Two flows make a connection.
func BenchmarkWorker(b *testing.B) {
	const flows = 200_000
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	conf := config(c, "bench")
	conf.CommitRecords, conf.CommitEvery = 20_000, 500*time.Millisecond
	conf.Kafka.SessionTimeout = 10 * time.Second
	ctx := b.Context()
	if err := kafka.Ensure(ctx, conf.Kafka, conf.Topics, nil, kafka.Flows, kafka.Pairing, kafka.Connections); err != nil {
		b.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.MaxBufferedRecords(flows))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	at := time.Now().Add(-time.Hour)
	for i := range flows {
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: binary.BigEndian.AppendUint32(nil, 10<<24|uint32(i/2)), DstAddr: []byte{192, 0, 2, 1},
			SrcPort: 40000, DstPort: 443, Proto: 6, TcpFlags: 0x1b, Bytes: 1000, Packets: 10, SamplerAddress: []byte{192, 0, 2, 9},
			TimeReceivedNs: uint64(at.Add(time.Duration(i) * 50 * time.Microsecond).UnixNano()), TimeFlowStartNs: uint64(at.UnixNano()), TimeFlowEndNs: uint64(at.UnixNano()),
			TimeResolutionUs: 1000, DatagramHash: uint64(i), FlowEndReason: 3,
		}
		if i%2 == 1 {
			m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort
		}
		v, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		cl.Produce(ctx, &kgo.Record{Topic: "t.flows", Key: binary.BigEndian.AppendUint32(nil, uint32(i/2)), Value: v}, nil)
	}
	if err := cl.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	taken := 0
	for b.Loop() {
		conf.Group = "bench" + time.Now().Format("150405.000000000")
		w, err := New(conf, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			b.Fatal(err)
		}
		run, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(run) }()
		tick := time.NewTicker(5 * time.Millisecond)
		for w.Stats().Flows < flows {
			<-tick.C
		}
		tick.Stop()
		stop()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		taken += flows
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(taken), "ns/flow")
}

func BenchmarkReadFlow(b *testing.B) {
	seed := make([]byte, 40)
	for i := range seed {
		seed[i] = byte(i*37 + 1)
	}
	value, err := proto.Marshal(messages.Filled(seed))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("enrich", func(b *testing.B) {
		b.ReportAllocs()
		var m flowpb.FlowMessage
		for b.Loop() {
			if err := flowpb.ReadPairingFields(value, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(value, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppendConnection(b *testing.B) {
	c := conversation()
	b.Run("enrich", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			buf = flowpb.AppendConnection(buf[:0], c)
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			buf, _ = proto.MarshalOptions{}.MarshalAppend(buf[:0], c)
		}
	})
}
