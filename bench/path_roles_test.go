package bench

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/net/ipv4"
)

// v9At returns the offset of an element in a record of layouts["v9"], octets; id 0: the size of a record.
func v9At(id int) (at int) {
	for _, f := range layouts["v9"].sets[0].fields {
		if f.id == id {
			return at
		}
		at += f.octets
	}
	return at
}

// Elements of the record (RFC 3954 section 8) that conversations writes.
var (
	v9Record             = v9At(0)
	v9Octets, v9Packets  = v9At(1), v9At(2)
	v9Protocol, v9Flags  = v9At(4), v9At(6)
	v9SrcAddr, v9SrcPort = v9At(8), v9At(7)
	v9DstAddr, v9DstPort = v9At(12), v9At(11)
	v9First, v9Last      = v9At(22), v9At(21)
)

// stamp returns the low 32 bits of the time in microseconds. The sender writes it into the octet
// counter of each flow, so that a reader of any topic can compute the age of a flow.
func stamp(t time.Time) uint32 { return uint32(t.UnixMicro()) }

// age returns the time since a stamp, which wraps after 71 minutes.
func age(now time.Time, stamped uint32) time.Duration {
	return time.Duration(stamp(now)-stamped) * time.Microsecond
}

// conversations writes a datagram of twelve new conversations, with both directions of each. n
// numbers the datagrams. Fields that pairing does not use keep their values.
func conversations(pkt []byte, n uint32, at time.Time) {
	be := binary.BigEndian
	be.PutUint32(pkt[8:], uint32(at.Unix()))
	be.PutUint32(pkt[12:], n)
	uptime := be.Uint32(pkt[4:])
	for i := range v9Flows {
		rec := pkt[24+i*v9Record:][:v9Record]
		number := n*(v9Flows/2) + uint32(i/2)
		client, server := 10<<24|number&0xffffff, uint32(192<<24|2<<8)|number>>4&0xff
		port := uint16(32768 + number>>24)
		be.PutUint32(rec[v9Octets:], stamp(at))
		be.PutUint32(rec[v9Packets:], 9)
		rec[v9Protocol], rec[v9Flags] = 6, 0x1b // SYN, FIN, PSH, ACK
		be.PutUint32(rec[v9First:], uptime-900)
		be.PutUint32(rec[v9Last:], uptime-100)
		if i%2 == 0 {
			be.PutUint32(rec[v9SrcAddr:], client)
			be.PutUint32(rec[v9DstAddr:], server)
			be.PutUint16(rec[v9SrcPort:], port)
			be.PutUint16(rec[v9DstPort:], 443)
		} else {
			be.PutUint32(rec[v9SrcAddr:], server)
			be.PutUint32(rec[v9DstAddr:], client)
			be.PutUint16(rec[v9SrcPort:], 443)
			be.PutUint16(rec[v9DstPort:], port)
		}
	}
}

// talker sends datagrams of new conversations. Arguments: ADDRESS, datagrams per second,
// milliseconds. It sends the template once a second and prints the number of datagrams with flows.
func talker(args []string) {
	c := dialUDP(args[0])
	rate, lasts := float64(number(args[1])), time.Duration(number(args[2]))*time.Millisecond
	const batch = 32
	template := packet(roleT{}, "v9_template.hex")
	ms := make([]ipv4.Message, batch)
	for i, p := range vary(roleT{}, "v9", batch) {
		ms[i].Buffers = [][]byte{p}
	}
	pc := ipv4.NewPacketConn(c)
	sent, templates := uint32(0), 0
	for began := time.Now(); ; {
		now := time.Now()
		after := now.Sub(began)
		if after >= lasts {
			break
		}
		if int(after/time.Second) >= templates {
			binary.BigEndian.PutUint32(template[8:], uint32(now.Unix()))
			_, _ = c.Write(template) // refused while the receiver starts: sent again after a second
			templates++
		}
		n := min(int(rate*after.Seconds())-int(sent), batch)
		if n <= 0 {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		for i := range n {
			conversations(ms[i].Buffers[0], sent+uint32(i), now)
		}
		k, err := pc.WriteBatch(ms[:n], 0)
		if err != nil && k <= 0 {
			continue // the receiver is not there, or a queue is full: not sent
		}
		sent += uint32(k)
	}
	fmt.Println(sent)
}

// buildStreams fetches Kafka Streams, compiles bench/streams and returns the class path.
func buildStreams(dir string) (classPath string, err error) {
	lib, classes := filepath.Join(dir, "lib"), filepath.Join(dir, "classes")
	if err := os.MkdirAll(classes, 0o755); err != nil {
		return "", err
	}
	out, err := exec.Command("mvn", "-q", "-B", "-f", "streams/pom.xml", "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+lib).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mvn: %w\n%s", err, out)
	}
	out, err = exec.Command("javac", "-Xlint:all", "-Werror", "--release", "17", "-d", classes, "-cp", lib+"/*",
		"streams/Pairing.java").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("javac: %w\n%s", err, out)
	}
	return lib + "/*:" + classes, nil
}
