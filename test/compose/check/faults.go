package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// memory is how long before its end what a process received may still be in it, and
// stale how long the balancer deals to an address that is not there any more.
const (
	memory = time.Second
	stale  = 3 * time.Second
)

// faults kills each service in turn and starts it again, then scales ingest.
func (s *stack) faults(ctx context.Context) error {
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	for _, f := range []struct {
		service string
		away    time.Duration
		lossy   bool
	}{
		{"ingest", 2 * time.Second, true}, {"enrich", 2 * time.Second, false}, {"balancer", time.Second, true},
		{"kafka", 5 * time.Second, false}, {"unbound", time.Second, false}, {"prometheus", time.Second, false},
	} {
		if len(s.only) > 0 && !slices.Contains(s.only, f.service) {
			continue
		}
		ids, err := containers(ctx, f.service)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return fmt.Errorf("no container of %s runs", f.service)
		}
		if err := s.kill(ctx, f.service, ids[0], f.away, f.lossy); err != nil { // one of its containers
			return err
		}
	}
	if len(s.only) > 0 {
		return pause(ctx, 5*time.Second)
	}
	if err := s.upgrade(ctx); err != nil {
		return err
	}
	for _, n := range []int{5, 2} {
		if err := s.scale(ctx, n); err != nil {
			return err
		}
	}
	return pause(ctx, 5*time.Second)
}

func (s *stack) kill(ctx context.Context, service, id string, away time.Duration, lossy bool) error {
	began := time.Now()
	if _, err := docker(ctx, "kill", "-s", "KILL", id); err != nil {
		return err
	}
	if err := pause(ctx, away); err != nil {
		return err
	}
	if _, err := docker(ctx, "start", id); err != nil {
		return err
	}
	if err := healthy(ctx, id); err != nil {
		return fmt.Errorf("%s after it was killed: %w", service, err)
	}
	s.say("%s killed, away %v, healthy again after %.1f s", service, away, (time.Since(began) - away).Seconds())
	if lossy {
		s.lose(began.Add(-memory), time.Now().Add(stale))
	}
	return pause(ctx, time.Second)
}

func (s *stack) lose(from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lossy = append(s.lossy, window{from, to})
}

// upgrade replaces the containers of both services by those of another image, as
// docs/operations.md has it.
func (s *stack) upgrade(ctx context.Context) error {
	if err := os.Setenv("WEIR_VERSION", "latest"); err != nil {
		return err
	}
	for _, service := range []string{"enrich", "ingest"} {
		began := time.Now()
		if _, err := compose(ctx, "up", "-d", "--no-deps", "--no-build", service); err != nil {
			return err
		}
		ids, err := containers(ctx, service)
		if err != nil {
			return err
		}
		if err := healthy(ctx, ids...); err != nil {
			return err
		}
		for _, id := range ids {
			image, err := docker(ctx, "inspect", "-f", "{{.Config.Image}}", id)
			if err != nil || image != "weir-"+service+":latest" {
				return fmt.Errorf("%s runs %s after its upgrade: %w", service, image, err)
			}
		}
		if service == "ingest" {
			s.lose(began, time.Now().Add(stale))
		}
		s.say("%d containers of %s upgraded in %.1f s", len(ids), service, time.Since(began).Seconds())
	}
	return nil
}

// scale starts replicas or stops them. A stopped one drains; what the balancer deals to
// its address after that is lost.
func (s *stack) scale(ctx context.Context, n int) error {
	began := time.Now()
	before, err := containers(ctx, "ingest")
	if err != nil {
		return err
	}
	if _, err := compose(ctx, "up", "-d", "--no-recreate", "--no-build", "--scale", fmt.Sprintf("ingest=%d", n)); err != nil {
		return err
	}
	ids, err := containers(ctx, "ingest")
	if err != nil {
		return err
	}
	if len(ids) != n {
		return fmt.Errorf("%d containers of ingest, want %d", len(ids), n)
	}
	if err := healthy(ctx, ids...); err != nil {
		return err
	}
	s.lose(began, time.Now().Add(stale)) // a new one has its name before its socket
	s.say("ingest scaled from %d to %d in %.1f s", len(before), n, time.Since(began).Seconds())
	// All of them take part.
	return s.until(ctx, fmt.Sprintf("each of %d replicas decodes", n), func() error {
		got, err := s.query(ctx, `count(rate(weir_ingest_flows_total[15s]) > 0)`)
		if err == nil && (len(got) != 1 || got[0] != float64(n)) {
			err = fmt.Errorf("got %v", got)
		}
		return err
	})
}

// until tries for a minute.
func (s *stack) until(ctx context.Context, what string, try func() error) error {
	for deadline := time.Now().Add(time.Minute); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// reported is the line of weir exporters --json that is asked for here.
type reported struct {
	Domain int    `json:"domain"`
	Lost   *int   `json:"lost"`
	Unit   string `json:"lost_unit"`
}

// lost holds what is missing against what the replicas tell by sequence numbers, with
// the tool that an operator has.
func (s *stack) lost(ctx context.Context) error {
	if err := pause(ctx, 12*time.Second); err != nil { // the replicas publish every 10 s
		return err
	}
	out, err := compose(ctx, "run", "--rm", "weir", "exporters", "--json", "--since", "0")
	if err != nil {
		return err
	}
	missing := len(s.ledger.Judge(time.Now()).Missing)
	for line := range strings.Lines(out) {
		var r reported
		if json.Unmarshal([]byte(line), &r) != nil || r.Domain != domain {
			continue
		}
		if r.Lost == nil {
			return fmt.Errorf("weir exporters does not tell what was lost: %s", line)
		}
		s.say("weir exporters: %d %s lost; missing on the topic: %d", *r.Lost, r.Unit, missing)
		// A killed replica had up to 10 s not reported, a fifth to a half of the flows.
		if *r.Lost < missing {
			return fmt.Errorf("%d flows are missing, sequence numbers tell of %d", missing, *r.Lost)
		}
		return nil
	}
	return errors.New("weir exporters does not know the exporter:\n" + out)
}
