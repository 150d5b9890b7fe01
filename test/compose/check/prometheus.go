package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/goccy/go-yaml"
)

const prometheusURL = "http://127.0.0.1:9090"

func get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, prometheusURL+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return json.Unmarshal(body, into)
}

// query is the values of an expression now.
func (s *stack) query(ctx context.Context, expr string) (values []float64, err error) {
	var r struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := get(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &r); err != nil {
		return nil, err
	}
	for _, v := range r.Data.Result {
		text, _ := v.Value[1].(string)
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, err
		}
		values = append(values, f)
	}
	return values, nil
}

// prometheus holds that it scrapes every target, has the rules, and that every
// expression of the dashboards and alerts is one; those that have to show something here
// do.
func (s *stack) prometheus(ctx context.Context) error {
	if err := s.until(ctx, "Prometheus scrapes every target", func() error { return s.targets(ctx) }); err != nil {
		return err
	}
	exprs, err := dashboards("deploy/grafana/dashboards")
	if err != nil {
		return err
	}
	alerts, err := rules("deploy/prometheus/rules.yml")
	if err != nil {
		return err
	}
	shown := 0
	for _, e := range append(exprs, alerts...) {
		got, err := s.query(ctx, e)
		if err != nil {
			return fmt.Errorf("%s: %w", e, err)
		}
		if len(got) > 0 {
			shown++
		}
	}
	for _, m := range filled {
		if got, err := s.query(ctx, m); err != nil || len(got) == 0 {
			return fmt.Errorf("%s has no values: %w", m, err)
		}
	}
	s.say("Prometheus: %d expressions of dashboards, %d of alerts, all understood; %d show something here", len(exprs), len(alerts), shown)
	return nil
}

// filled are metrics that have values after what was done here.
var filled = []string{
	"weir_ingest_ready", "weir_ingest_datagrams_total", "weir_ingest_flows_total", "weir_ingest_templates", "weir_ingest_buffer_used_ratio", "weir_exporters_last_received_timestamp_seconds",
	"weir_exporters_lost", "weir_kafka_produce_duration_seconds_count", "weir_kafka_produce_compressed_bytes_total", "weir_enrich_ready", "weir_enrich_lag", "weir_enrich_connections_total",
	"weir_enrich_connections_open", "weir_enrich_dns_answers_total", "weir_traffic_octets_total", "weir_service_connections_total", "process_resident_memory_bytes", "go_goroutines",
}

func (s *stack) targets(ctx context.Context) error {
	var r struct {
		Data struct {
			ActiveTargets []struct {
				Labels            map[string]string
				Health, LastError string
			}
		}
	}
	if err := get(ctx, "/api/v1/targets?state=active", &r); err != nil {
		return err
	}
	up := map[string]int{}
	for _, t := range r.Data.ActiveTargets {
		if t.Health != "up" {
			return fmt.Errorf("%s is %s: %s", t.Labels["job"], t.Health, t.LastError)
		}
		up[t.Labels["job"]]++
	}
	for _, job := range []string{"ingest", "enrich", "prometheus"} {
		ids, err := containers(ctx, job)
		if err != nil {
			return err
		}
		n := len(ids)
		if up[job] != n {
			return fmt.Errorf("targets of %s: %d, want %d", job, up[job], n)
		}
	}
	s.say("Prometheus scrapes %v", up)
	return nil
}

var variable = regexp.MustCompile(`\$(__rate_interval|__range|exporter)`)

// dashboards are the expressions of all dashboards, their variables put in.
func dashboards(dir string) (exprs []string, err error) {
	files, err := filepath.Glob(dir + "/*.json")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no dashboards in %s: %w", dir, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var d struct {
			Panels []struct {
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(b, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		for _, p := range d.Panels {
			for _, t := range p.Targets {
				exprs = append(exprs, variable.ReplaceAllStringFunc(t.Expr, func(v string) string {
					return map[string]string{"$__rate_interval": "1m", "$__range": "5m", "$exporter": ".*"}[v]
				}))
			}
		}
	}
	return exprs, nil
}

// rules are the expressions of the alerts.
func rules(file string) (exprs []string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r struct {
		Groups []struct {
			Rules []struct{ Expr string }
		}
	}
	if err := yaml.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, g := range r.Groups {
		for _, x := range g.Rules {
			exprs = append(exprs, x.Expr)
		}
	}
	return exprs, nil
}
