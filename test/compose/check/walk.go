package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const operations = "docs/operations.md"

// commands are the lines of the shell blocks in a section of a document.
func commands(text, section string) (lines []string, err error) {
	_, text, ok := strings.Cut(text, "\n## "+section+"\n")
	if !ok {
		return nil, fmt.Errorf("no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	text = "\n" + text + "\n"
	for {
		_, rest, ok := strings.Cut(text, "\n```sh\n")
		if !ok {
			break
		}
		block, after, ok := strings.Cut(rest, "\n```\n")
		if !ok {
			return nil, fmt.Errorf("section %q: a shell block does not end", section)
		}
		lines = append(lines, strings.Split(block, "\n")...)
		text = "\n" + after
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("section %q has no commands", section)
	}
	return lines, nil
}

// imageless are profiles for which there is no stand-in.
var imageless = regexp.MustCompile(`--profile (grafana|clickhouse)`)

var (
	scales   = regexp.MustCompile(`--scale ingest=(\d+)`)
	runs     = regexp.MustCompile(`compose run\b`)
	shows    = regexp.MustCompile(`compose (ps|run)\b`)
	replaces = regexp.MustCompile(`up .*\bingest\b`) // ingest's containers
)

// walk runs the commands of a section of docs/operations.md in a directory, each as it is
// written, and waits after each until all containers are healthy.
func (s *stack) walk(ctx context.Context, dir, section string) error {
	text, err := os.ReadFile(operations)
	if err != nil {
		return err
	}
	lines, err := commands(string(text), section)
	if err != nil {
		return fmt.Errorf("%s: %w", operations, err)
	}
	for _, line := range lines {
		line, _, _ = strings.Cut(line, "  #")
		line = strings.TrimSpace(line)
		if imageless.MatchString(line) {
			s.say("$ %s: SKIPPED, no image here", line)
			continue
		}
		began := time.Now()
		command := func(ctx context.Context) *exec.Cmd {
			cmd := exec.CommandContext(ctx, "sh", "-ec", line)
			cmd.Dir = dir
			return cmd
		}
		var out string
		if runs.MatchString(line) {
			out, err = s.again(ctx, command)
		} else {
			out, err = output(command(ctx))
		}
		if err != nil {
			return err
		}
		ids, err := containers(ctx, "")
		if err != nil {
			return err
		}
		if err := healthy(ctx, ids...); err != nil {
			return err
		}
		s.say("$ %s: %.1f s, %d containers are well", line, time.Since(began).Seconds(), len(ids))
		if shows.MatchString(line) {
			for l := range strings.Lines(out) {
				s.say("    %s", strings.TrimRight(l, "\n"))
			}
		}
		if replaces.MatchString(line) {
			s.lose(began, time.Now().Add(stale)) // a new one has its name before its socket
		}
		if m := scales.FindStringSubmatch(line); m != nil {
			if err := s.scaled(ctx, m[1]); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
	}
	return nil
}

// scaled holds that there are so many replicas, and that all of them take part.
func (s *stack) scaled(ctx context.Context, want string) error {
	n, err := strconv.Atoi(want)
	if err != nil {
		return err
	}
	ids, err := containers(ctx, "ingest")
	if err != nil {
		return err
	}
	if len(ids) != n {
		return fmt.Errorf("%d containers of ingest, want %d", len(ids), n)
	}
	return s.until(ctx, fmt.Sprintf("each of %d replicas decodes", n), func() error {
		got, err := s.query(ctx, `count(rate(weir_ingest_flows_total[15s]) > 0)`)
		if err == nil && (len(got) != 1 || got[0] != float64(n)) {
			err = fmt.Errorf("got %v", got)
		}
		return err
	})
}

// upgraded holds that all containers of a service are of the new image.
func upgraded(ctx context.Context, service string) error {
	ids, err := containers(ctx, service)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return fmt.Errorf("no container of %s runs", service)
	}
	for _, id := range ids {
		image, err := docker(ctx, "inspect", "-f", "{{.Config.Image}}", id)
		if err != nil || image != "weir-"+service+":new" {
			return fmt.Errorf("%s runs %s after its upgrade: %w", service, image, err)
		}
	}
	return nil
}

// open starts the stack of a directory, with an exporter of its own traffic, whose
// connections have the names of containers.
func (s *stack) open(ctx context.Context, dir string) error {
	if err := s.walk(ctx, dir, "A stack on one host"); err != nil {
		return err
	}
	for service, want := range map[string]int{"kafka": 1, "balancer": 1, "ingest": 3, "enrich": 2, "unbound": 1, "prometheus": 1, "demo-exporter": 1} {
		ids, err := containers(ctx, service)
		if err != nil {
			return err
		}
		if len(ids) != want {
			return fmt.Errorf("%d containers of %s, want %d", len(ids), service, want)
		}
		if service != "ingest" && service != "enrich" {
			continue
		}
		for _, id := range ids {
			how, err := docker(ctx, "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}", id)
			if err != nil {
				return err
			}
			if how != "65532:65532 true [ALL]" {
				return fmt.Errorf("%s does not run as an unprivileged user with a read-only root and no capabilities: %s", service, how)
			}
		}
	}
	err := s.until(ctx, "connections of the demo exporter", func() error {
		out, err := s.tool(ctx, "connections", "--once", "--json")
		if err != nil {
			return err
		}
		named := 0
		for line := range strings.Lines(out) {
			if strings.Contains(line, "prometheus") {
				named++
			}
		}
		if named == 0 {
			return errors.New("none has prometheus' name")
		}
		s.say("the demo exporter's traffic: %d connections, %d with the name of the container that answered", strings.Count(out, "\n")+1, named)
		return nil
	})
	if err != nil {
		return err
	}
	_, err = docker(ctx, "compose", "--profile", "demo", "rm", "-sf", "demo-exporter")
	return err
}
