package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// faults kills each service in turn and starts it again; then services are scaled and
// upgraded, as the document says.
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
	if err := s.walk(ctx, ".", "Scale, kill, upgrade"); err != nil {
		return err
	}
	for _, service := range []string{"enrich", "ingest"} {
		if err := upgraded(ctx, service); err != nil {
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

// A reported holds the fields of a line of weir exporters --json that this program reads.
type reported struct {
	Domain int    `json:"domain"`
	Lost   *int   `json:"lost"`
	Unit   string `json:"lost_unit"`
}

// lost returns an error if weir exporters reports, by sequence numbers, fewer lost flows than are missing on the topic.
func (s *stack) lost(ctx context.Context) error {
	if err := pause(ctx, 12*time.Second); err != nil { // the replicas publish every 10 s
		return err
	}
	out, err := s.tool(ctx, "exporters", "--json", "--since", "0")
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
