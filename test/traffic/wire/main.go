//go:build linux

// Command wire joins TAP devices of network namespaces into one Ethernet segment, delays and loses frames as set by
// its flags, and records what passes its middle as a pcap file. It stands in for `tc netem` and tcpdump where the
// kernel has no netem.
//
//	wire -out web.pcap -hosts client:2ms,server:5ms -lose synack:8081:1
//
// Each host is a namespace below /run/netns with a persistent TAP device `wire0`; the duration is the one-way delay of
// its leg. A frame is recorded between the sender's leg and the receiver's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

const (
	device  = "wire0"
	snaplen = 128  // octets kept of a frame: all headers, little payload
	backlog = 4096 // frames under way on one leg
	frame   = 65536
)

func main() {
	out := flag.String("out", "", "pcap file to write")
	hosts := flag.String("hosts", "", "NAMESPACE:DELAY,... one leg each")
	wait := flag.Duration("record-after", 0, "do not record before this time has passed")
	var losses lossList
	flag.Var(&losses, "lose", "KIND:PORT:COUNT[:unseen], may be repeated: lose the first COUNT frames of that kind\n"+
		"from or to PORT after they were recorded, or unseen before; kinds: syn, synack, fin, rst, data, udp")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err := run(ctx, *out, *hosts, *wait, losses)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "wire:", err)
		os.Exit(1)
	}
}

// run carries frames until ctx is done.
func run(ctx context.Context, out, hosts string, wait time.Duration, losses lossList) error {
	legs, err := openLegs(hosts)
	if err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	rec, err := newRecorder(file, time.Now().Add(wait))
	if err != nil {
		return errors.Join(err, file.Close())
	}
	s := segment{legs: legs, recorder: rec, losses: losses}
	for _, l := range legs {
		go s.read(l)
		go s.middle(l)
		go l.write()
	}
	fmt.Println("ready")
	<-ctx.Done()
	return errors.Join(rec.close(), file.Close())
}

// A leg is the half of the wire between one host and the middle.
type leg struct {
	name     string
	delay    time.Duration
	tap      *os.File
	toMiddle queue
	toHost   queue
}

// A delayed frame leaves its half of the wire at due.
type delayed struct {
	due  time.Time
	data []byte
}

// A queue holds the frames under way, the earliest first.
type queue chan delayed

// offer adds a frame, or loses it where the queue is full.
func (q queue) offer(f delayed) {
	select {
	case q <- f:
	default:
		fmt.Fprintln(os.Stderr, "wire: a frame was lost on a full queue")
	}
}

func openLegs(hosts string) (legs []*leg, err error) {
	for entry := range strings.SplitSeq(hosts, ",") {
		name, text, _ := strings.Cut(entry, ":")
		delay, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("-hosts %s: want NAMESPACE:DELAY: %w", entry, err)
		}
		tap, err := openTAP(name)
		if err != nil {
			return nil, fmt.Errorf("TAP device %s of namespace %s: %w", device, name, err)
		}
		legs = append(legs, &leg{name, delay, tap, make(queue, backlog), make(queue, backlog)})
	}
	return legs, nil
}

// openTAP attaches to the TAP device of the namespace name. The descriptor works from every namespace.
func openTAP(name string) (tap *os.File, err error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		fd, err := attachTAP(name)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return os.NewFile(uintptr(r.fd), device), nil
}

func attachTAP(name string) (fd int, err error) {
	ns, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(ns) }() // read only
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return 0, err
	}
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(device)
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, unix.SetNonblock(fd, true)
}

// A segment is what joins the legs: it sends a frame to the host of its destination address, or to all others.
type segment struct {
	legs     []*leg
	recorder *recorder

	mu     sync.Mutex // guards what follows
	losses lossList
	learnt map[[6]byte]*leg
}

// read takes frames from a host until its device closes.
func (s *segment) read(l *leg) {
	buf := make([]byte, frame)
	for {
		n, err := l.tap.Read(buf)
		if err != nil {
			fmt.Fprintf(os.Stderr, "wire: read of %s: %v\n", l.name, err)
			return
		}
		l.toMiddle.offer(delayed{time.Now().Add(l.delay), append([]byte(nil), buf[:n]...)})
	}
}

// middle records frames from one host and passes them on.
func (s *segment) middle(l *leg) {
	for f := range l.toMiddle {
		time.Sleep(time.Until(f.due))
		if len(f.data) < 14 {
			continue
		}
		verdict, to := s.decide(l, f.data)
		if verdict != unseen {
			s.recorder.record(f.data)
		}
		if verdict != carried {
			continue
		}
		for _, other := range to {
			other.toHost.offer(delayed{time.Now().Add(other.delay), f.data})
		}
	}
}

// decide says whether a frame is lost, and which legs it goes to.
func (s *segment) decide(from *leg, data []byte) (v verdict, to []*leg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.learnt == nil {
		s.learnt = map[[6]byte]*leg{}
	}
	s.learnt[[6]byte(data[6:12])] = from
	if host := s.learnt[[6]byte(data[:6])]; host != nil {
		to = []*leg{host}
	} else {
		for _, l := range s.legs {
			if l != from {
				to = append(to, l)
			}
		}
	}
	return s.losses.decide(data), to
}

// write hands frames to a host.
func (l *leg) write() {
	for f := range l.toHost {
		time.Sleep(time.Until(f.due))
		if _, err := l.tap.Write(f.data); err != nil {
			fmt.Fprintf(os.Stderr, "wire: write to %s: %v\n", l.name, err)
		}
	}
}

// A recorder writes frames in the order of their time.
type recorder struct {
	mu    sync.Mutex
	w     *pcapgo.Writer
	after time.Time
	done  bool
	err   error
}

func newRecorder(file *os.File, after time.Time) (r *recorder, err error) {
	r = &recorder{w: pcapgo.NewWriter(file), after: after}
	return r, r.w.WriteFileHeader(snaplen, layers.LinkTypeEthernet)
}

func (r *recorder) record(data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.done || r.err != nil || now.Before(r.after) {
		return
	}
	kept := data[:min(len(data), snaplen)]
	r.err = r.w.WritePacket(gopacket.CaptureInfo{Timestamp: now, CaptureLength: len(kept), Length: len(data)}, kept)
}

func (r *recorder) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	return r.err
}
