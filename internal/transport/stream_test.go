package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamConfigReportsEveryMistake(t *testing.T) {
	two := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:4739"), netip.MustParseAddrPort("127.0.0.1:4739")}
	err := StreamConfig{TCP: two, Max: -1, Idle: time.Millisecond, CertFile: "x.pem"}.Validate()
	for _, want := range []string{
		"LISTEN_TCP: 127.0.0.1:4739 is listed twice", "TCP_MAX_CONNECTIONS=-1", "TCP_IDLE_TIMEOUT=1ms",
		"TLS_CERT_FILE=x.pem has no effect without LISTEN_TLS",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	err = StreamConfig{TLS: two[:1], CertFile: "missing.pem", KeyFile: "missing.key"}.Validate()
	if err == nil || !strings.Contains(err.Error(), "missing.pem") {
		t.Error(err)
	}
}

// FuzzMessages checks that the octets of a connection, in segments of any size, are split into
// messages and then end with an error, and that each message has the length of its header.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{0, 10, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 10}, uint8(3))
	f.Fuzz(func(t *testing.T, octets []byte, piece uint8) {
		a, b := net.Pipe()
		go func() {
			for rest := octets; len(rest) > 0; {
				n := min(int(piece)+1, len(rest))
				if _, err := a.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
			_ = a.Close()
		}()
		m := &messages{conn: b, raw: b, idle: time.Minute, ending: t.Context(), drain: time.Second}
		var got []byte
		for {
			msg, err := m.next()
			if err != nil {
				break
			}
			if len(msg) != int(binary.BigEndian.Uint16(msg[2:])) {
				t.Fatalf("a message of %d octets states %d", len(msg), binary.BigEndian.Uint16(msg[2:]))
			}
			got = append(got, msg...)
		}
		_ = b.Close()
		if string(octets[:len(got)]) != string(got) {
			t.Fatalf("%x out of %x", got, octets)
		}
	})
}

// ipfixMessage returns an IPFIX message with sets, of observation domain 1, exported now.
func ipfixMessage(sets ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 10)
	b = binary.BigEndian.AppendUint16(b, uint16(16+len(bytes.Join(sets, nil))))
	b = binary.BigEndian.AppendUint32(b, uint32(time.Now().Unix()))
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 1)
	return append(b, bytes.Join(sets, nil)...)
}

// TestAConnectionThatWaitedForKafkaEndsWithTheOthers checks that DRAIN includes the time in which a
// connection waited for Kafka, even if its exporter keeps sending.
func TestAConnectionThatWaitedForKafkaEndsWithTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		defer func() { _ = client.Close() }()
		const drain = 5 * time.Second
		shutdown, stop := context.WithCancel(t.Context())
		var endedAt atomic.Int64
		in := &messages{conn: server, raw: server, idle: time.Hour, ending: shutdown, endedAt: &endedAt, drain: drain}
		began := time.Now()
		stop()
		endedAt.Store(began.UnixNano())
		time.Sleep(drain) // as Session.Wait does
		var exporter sync.WaitGroup
		exporter.Go(func() {
			for {
				if _, err := client.Write(ipfixMessage()); err != nil {
					return
				}
				time.Sleep(quiet / 10)
			}
		})
		for {
			if _, err := in.next(); err != nil {
				break
			}
		}
		if got := time.Since(began); got != drain+quiet {
			t.Errorf("want the end after %v, got %v", drain+quiet, got)
		}
		_ = server.Close()
		exporter.Wait()
	})
}

// TestAConnectionHasToSpeak checks that the first message must begin within beginWithin, while later
// messages may be TCP_IDLE_TIMEOUT apart.
func TestAConnectionHasToSpeak(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sends [][]byte // written 5 s apart
		want  time.Duration
	}{
		{"nothing", nil, beginWithin},
		{"an octet", [][]byte{{0}}, 5*time.Second + messageWithin},
		{"a message", [][]byte{ipfixMessage()}, 5*time.Second + 30*time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				defer func() { _ = client.Close() }()
				in := &messages{conn: server, raw: server, idle: 30 * time.Minute, ending: t.Context(), drain: time.Second}
				go func() {
					for _, b := range tt.sends {
						time.Sleep(5 * time.Second)
						_, _ = client.Write(b)
					}
				}()
				began := time.Now()
				for {
					if _, err := in.next(); err != nil {
						break
					}
				}
				if got := time.Since(began); got != tt.want {
					t.Errorf("want the end after %v, got %v", tt.want, got)
				}
			})
		})
	}
}

func TestConnectionsOfOneNetworkOfIPv6AreCountedTogether(t *testing.T) {
	s := NewStreams(StreamConfig{PerAddress: 2}, 0, nil, nil, nil)
	reserve := func(a string) bool { return s.reserveSource(netip.MustParseAddr(a)) }
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"2001:db8::1", true}, {"2001:db8::2", true}, {"2001:db8::3", false}, {"2001:db8:0:0:ffff::1", false},
		{"2001:db8:0:1::1", true}, {"192.0.2.1", true}, {"192.0.2.2", true}, {"192.0.2.1", true}, {"192.0.2.1", false},
	} {
		if got := reserve(tt.addr); got != tt.want {
			t.Errorf("%s: want %v, got %v", tt.addr, tt.want, got)
		}
	}
	s.releaseSource(netip.MustParseAddr("2001:db8::9"))
	if !reserve("2001:db8::a") || reserve("2001:db8::b") {
		t.Error("a connection that ended still counts, or counts twice")
	}
}
