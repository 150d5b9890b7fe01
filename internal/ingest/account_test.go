package ingest

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"weir/internal/loss"
	"weir/pkg/flowpb"
)

// takeSummary lets a cluster read a report of flows of an exporter.
func takeSummary(t *testing.T, c *loss.Cluster, a netip.Addr, version uint32, flows uint64) {
	t.Helper()
	value, err := proto.Marshal(&flowpb.ExporterReport{
		Schema: 1, Replica: "r", Exporter: a.AsSlice(), Version: version,
		Report: &flowpb.ExporterReport_Summary{Summary: &flowpb.ExporterSummary{
			FirstReceivedNs: 1e18, LastReceivedNs: 1e18, Received: &flowpb.ExportUnits{Flows: flows},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Take(fmt.Append(nil, a, version), value); err != nil {
		t.Fatal(err)
	}
}

// scraped returns the exporters of weir_exporters_last_received_timestamp_seconds.
func scraped(t *testing.T, c *loss.Cluster) map[string]bool {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(newClusterMetrics(c))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	out := map[string]bool{}
	for _, f := range families {
		if f.GetName() == "weir_exporters_last_received_timestamp_seconds" {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "exporter" {
						out[l.GetValue()] = true
					}
				}
			}
		}
	}
	return out
}

// 1 200 forged addresses that sort before the honest exporter's.
func TestForgedAddressesHideNoExporterFromAScrape(t *testing.T) {
	c := loss.NewCluster()
	for i := range 1200 {
		takeSummary(t, c, forged(i), 5, 1)
	}
	takeSummary(t, c, honestAddr, 5, 3)
	if got := scraped(t, c); !got[honestAddr.String()] || len(got) > maxFresh {
		t.Errorf("want the honest exporter among %d, got %d", maxFresh, len(got))
	}
}

// A scrape fails as a whole when a series is there twice.
func TestReportsOfUnknownVersionsFailNoScrape(t *testing.T) {
	c := loss.NewCluster()
	for version := range uint32(20) {
		takeSummary(t, c, honestAddr, version, 1)
	}
	if got := scraped(t, c); len(got) != 1 {
		t.Errorf("want one exporter, got %v", got)
	}
}
