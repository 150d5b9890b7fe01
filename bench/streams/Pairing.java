package weir.bench;

import com.google.protobuf.CodedInputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;

/**
 * Pairs the flows that goflow2 writes with Kafka Streams, as a user who has no Weir would: a window
 * join of both directions by 5-tuple, exactly once. Arguments: BROKERS INPUT OUTPUT APPLICATION_ID
 * STATE_DIRECTORY.
 */
public final class Pairing {
  /** The fields of goflow2's FlowMessage that pairing needs; null addresses are absent. */
  record Flow(
      byte[] src, byte[] dst, int srcPort, int dstPort, int protocol,
      long bytes, long packets, long start, long end) {
    /** The responder is taken to be the side with the lower port. */
    boolean fromInitiator() {
      return srcPort > dstPort;
    }

    /** The 5-tuple from the initiator's view: the same for both directions. */
    byte[] key() {
      byte[] a = fromInitiator() ? src : dst, b = fromInitiator() ? dst : src;
      return ByteBuffer.allocate(a.length + b.length + 5)
          .put(a).put(b)
          .putShort((short) Math.max(srcPort, dstPort)).putShort((short) Math.min(srcPort, dstPort))
          .put((byte) protocol)
          .array();
    }

    byte[] toBytes() {
      return ByteBuffer.allocate(42 + src.length + dst.length)
          .put((byte) src.length).put(src).put((byte) dst.length).put(dst)
          .putInt(srcPort).putShort((short) dstPort).putShort((short) protocol)
          .putLong(bytes).putLong(packets).putLong(start).putLong(end)
          .array();
    }

    static Flow ofBytes(byte[] data) {
      ByteBuffer b = ByteBuffer.wrap(data);
      byte[] src = new byte[b.get()];
      b.get(src);
      byte[] dst = new byte[b.get()];
      b.get(dst);
      return new Flow(src, dst, b.getInt(), b.getShort() & 0xffff, b.getShort() & 0xffff,
          b.getLong(), b.getLong(), b.getLong(), b.getLong());
    }

    /** Reads goflow2's message behind its length; the numbers are those of its flow.proto. */
    static Flow ofMessage(byte[] data) {
      byte[] src = {}, dst = {};
      int srcPort = 0, dstPort = 0, protocol = 0;
      long bytes = 0, packets = 0, start = 0, end = 0;
      try {
        CodedInputStream in = CodedInputStream.newInstance(data);
        in.readRawVarint32();
        for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
          switch (tag >>> 3) {
            case 6 -> src = in.readByteArray();
            case 7 -> dst = in.readByteArray();
            case 9 -> bytes = in.readUInt64();
            case 10 -> packets = in.readUInt64();
            case 20 -> protocol = in.readUInt32();
            case 21 -> srcPort = in.readUInt32();
            case 22 -> dstPort = in.readUInt32();
            case 111 -> start = in.readUInt64();
            case 112 -> end = in.readUInt64();
            default -> in.skipField(tag);
          }
        }
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      return new Flow(src, dst, srcPort, dstPort, protocol, bytes, packets, start, end);
    }
  }

  private static final Serde<Flow> MESSAGES =
      Serdes.serdeFrom((topic, f) -> f == null ? null : f.toBytes(), (topic, b) -> b == null ? null : Flow.ofMessage(b));
  private static final Serde<Flow> FLOWS =
      Serdes.serdeFrom((topic, f) -> f == null ? null : f.toBytes(), (topic, b) -> b == null ? null : Flow.ofBytes(b));

  /** A connection: octets and packets of both directions, first start and last end. */
  static byte[] connection(Flow there, Flow back) {
    ByteBuffer b = ByteBuffer.allocate(48);
    b.putLong(there.bytes).putLong(there.packets);
    if (back == null) {
      return b.putLong(0).putLong(0).putLong(there.start).putLong(there.end).array();
    }
    return b.putLong(back.bytes).putLong(back.packets)
        .putLong(Math.min(there.start, back.start)).putLong(Math.max(there.end, back.end))
        .array();
  }

  public static void main(String[] args) throws InterruptedException {
    Properties p = new Properties();
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, args[3]);
    p.put(StreamsConfig.STATE_DIR_CONFIG, args[4]);
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 3);
    p.put(StreamsConfig.producerPrefix("compression.type"), "snappy");

    StreamsBuilder builder = new StreamsBuilder();
    KStream<byte[], Flow> flows =
        builder.stream(args[1], Consumed.with(Serdes.ByteArray(), MESSAGES));
    KStream<byte[], Flow> there = flows.filter((k, f) -> f.fromInitiator()).selectKey((k, f) -> f.key());
    KStream<byte[], Flow> back = flows.filter((k, f) -> !f.fromInitiator()).selectKey((k, f) -> f.key());
    there
        .leftJoin(back, Pairing::connection,
            JoinWindows.ofTimeDifferenceAndGrace(Duration.ofSeconds(75), Duration.ofSeconds(60)),
            StreamJoined.with(Serdes.ByteArray(), FLOWS, FLOWS))
        .to(args[2], Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));

    KafkaStreams streams = new KafkaStreams(builder.build(), p);
    CountDownLatch ended = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(e -> {
      e.printStackTrace();
      return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
    });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      streams.close(Duration.ofSeconds(20));
      ended.countDown();
    }));
    streams.start();
    ended.await();
  }
}
