// Command check starts the stack of docker-compose.yml with the commands of
// docs/operations.md, sends datagrams to its balancer, kills, scales and upgrades its
// services meanwhile, again with that document's commands, and holds that what was sent
// came out as connections: test/compose/run calls it. Arguments are services: only these
// are killed, and nothing is scaled.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/pkg/flowpb"
	"weir/test/pairs"
)

const (
	balancer = "127.0.0.1:2055"
	kafka    = "127.0.0.1:19092"
	domain   = 41
	pace     = 10 * time.Millisecond // a datagram
	settle   = 90 * time.Second      // for what was sent to come out
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("compose: ")
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	from := flag.String("from", ".", "directory of the version that is started, and upgraded to this one")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	s := &stack{began: time.Now(), only: flag.Args()}
	if err := s.open(ctx, *from); err != nil {
		return err
	}
	if err := s.watch(ctx); err != nil {
		return err
	}
	to, err := net.Dial("udp", balancer)
	if err != nil {
		return err
	}
	defer to.Close()
	stop := make(chan struct{})
	sent := make(chan error, 1)
	go func() { sent <- s.send(to, stop) }()

	err = s.faults(ctx)
	close(stop)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if err := s.wait(ctx); err != nil {
		return err
	}
	return errors.Join(s.lost(ctx), s.prometheus(ctx))
}

// A stack is what is known of the services while they run.
type stack struct {
	began  time.Time
	only   []string // services to kill; empty: all
	ledger pairs.Ledger

	mu    sync.Mutex
	lossy []window // when datagrams may have been lost
}

// A window is a time, by the sender's clock.
type window struct{ from, to time.Time }

func (s *stack) say(format string, args ...any) {
	fmt.Printf("      %4.0f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// watch reads both topics into the ledger until ctx ends.
func (s *stack) watch(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka), kgo.ConsumeTopics("netflow.flows", "netflow.connections"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(250*time.Millisecond))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, cl.Close)
	go func() {
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				if err := s.ledger.Take(r.Topic, r.Value, func(m *flowpb.FlowMessage) bool { return m.ObservationDomainId == domain }); err != nil {
					log.Fatal(err)
				}
			})
		}
	}()
	return nil
}

func (s *stack) send(to net.Conn, stop chan struct{}) error {
	source := pairs.NewSource(to, domain, &s.ledger)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return source.Finish(time.Now())
		case now := <-tick.C:
			_ = source.Send(now) // the balancer's port is closed while it is away: that datagram is lost
		}
	}
}

// docker runs a command of the engine, or of compose, and returns its output.
func docker(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "docker", args...))
}

func output(cmd *exec.Cmd) (string, error) {
	var errs strings.Builder
	cmd.Stderr = &errs
	cmd.WaitDelay = 5 * time.Second // a plug-in outlives the command and has its output
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// once is how long a command may take that starts a container for itself. The engine of
// Debian at times never tells of the end of such a one, and answers nothing about it.
const once = 40 * time.Second

// again runs such a command, and once more if it took too long.
func (s *stack) again(ctx context.Context, command func(context.Context) *exec.Cmd) (string, error) {
	for try := 1; ; try++ {
		bounded, cancel := context.WithTimeout(ctx, once)
		cmd := command(bounded)
		out, err := output(cmd)
		late := bounded.Err() != nil
		cancel()
		if err == nil || !late || try == 3 {
			return out, err
		}
		s.say("%s: no end after %v; again", strings.Join(cmd.Args, " "), once)
	}
}

// tool runs weir.
func (s *stack) tool(ctx context.Context, args ...string) (string, error) {
	return s.again(ctx, func(ctx context.Context) *exec.Cmd {
		return exec.CommandContext(ctx, "docker", append([]string{"compose", "run", "--rm", "weir"}, args...)...)
	})
}

// containers are those of a service that run; of all, if it is empty.
func containers(ctx context.Context, service string) ([]string, error) {
	label := "label=com.docker.compose.service"
	if service != "" {
		label += "=" + service
	}
	out, err := docker(ctx, "ps", "-q", "--filter", label, "--filter", "label=com.docker.compose.oneoff=False") // the engine has this stack alone
	return strings.Fields(out), err
}

// healthy waits for containers; those without a health check only have to run.
func healthy(ctx context.Context, ids ...string) error {
	for _, id := range ids {
		for state := ""; state != "healthy" && state != "running"; {
			out, err := docker(ctx, "inspect", "-f", "{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}", id)
			if err != nil {
				return err
			}
			if state = out; state != "healthy" && state != "running" {
				if err := pause(ctx, 200*time.Millisecond); err != nil {
					return fmt.Errorf("%s is %s: %w", id, state, err)
				}
			}
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// wait waits until all that was sent came out, but for what a lossy window took.
func (s *stack) wait(ctx context.Context) error {
	deadline := time.Now().Add(settle)
	for {
		v := s.ledger.Judge(time.Now())
		unexplained := 0
		for _, at := range v.Missing {
			if !s.explained(at) {
				unexplained++
			}
		}
		switch {
		case len(v.Problems) > 0:
			return fmt.Errorf("what must not be:\n  %s", strings.Join(v.Problems, "\n  "))
		case unexplained == 0 && v.Unreported == 0:
			s.say("%d flows sent, %d on the topic, each once; %d lost with a killed or stopped process; %d conversations reported, each as it was", v.Sent, v.Flows, len(v.Missing), v.Connections)
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d flows sent, %d on the topic, %d missing that no fault explains, %d conversations without the connection they should have", v.Sent, v.Flows, unexplained, v.Unreported)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (s *stack) explained(at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.lossy {
		if at.After(w.from) && at.Before(w.to) {
			return true
		}
	}
	return false
}
