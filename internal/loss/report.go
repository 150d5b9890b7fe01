package loss

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// Bounds of a report's values. Message headers have 32 bits for export time in seconds
// and 32 bits for uptime in milliseconds, so the values of a Book are within them.
const (
	// maxTime bounds the start of a slot and receive times, in seconds since the epoch:
	// the year 2106.
	maxTime = 1 << 32
	// maxCount bounds each count of a report. The sum over maxLives processes fits an
	// int64, and a float64 represents each count exactly.
	maxCount = 1 << 53
)

// parseReport decodes a value of the topic and validates it. The values of a valid
// report can be summed without overflow. An error names the wrong field.
func parseReport(value []byte) (*flowpb.ExporterReport, Stream, error) {
	var m flowpb.ExporterReport
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, Stream{}, err
	}
	if m.Schema != schema {
		return nil, Stream{}, fmt.Errorf("schema %d: this reader knows %d", m.Schema, schema)
	}
	if m.Version > math.MaxUint16 {
		return nil, Stream{}, fmt.Errorf("version %d: want at most %d", m.Version, math.MaxUint16)
	}
	s := Stream{Version: uint16(m.Version), Domain: m.Domain}
	if len(m.Exporter) > 0 {
		a, ok := netip.AddrFromSlice(m.Exporter)
		if !ok {
			return nil, Stream{}, fmt.Errorf("exporter address of %d octets: want 4 or 16", len(m.Exporter))
		}
		s.Exporter = a
	}
	switch r := m.Report.(type) {
	case *flowpb.ExporterReport_Summary:
		return &m, s, validateSummary(r.Summary)
	case *flowpb.ExporterReport_Slot:
		return &m, s, validateSlot(r.Slot)
	}
	return nil, Stream{}, errors.New("it holds neither a slot nor a summary")
}

func validateSummary(m *flowpb.ExporterSummary) error {
	for _, at := range []int64{m.GetFirstReceivedNs(), m.GetLastReceivedNs()} {
		if at < 0 || at/1e9 > maxTime {
			return fmt.Errorf("receive time %d ns: want 0 to %d s", at, int64(maxTime))
		}
	}
	return validateCounts(m.GetReceived(), m.GetOctets(), m.GetErrors(), m.GetUndecodedSets())
}

func validateSlot(m *flowpb.ExporterSlot) error {
	if begin := m.GetBegin(); begin < 0 || begin > maxTime || begin%slotSeconds != 0 {
		return fmt.Errorf("slot begins at %d: want a multiple of %d, 0 to %d", begin, slotSeconds, int64(maxTime))
	}
	if n := len(m.GetRuns()); n > maxRuns {
		return fmt.Errorf("slot of %d runs: want at most %d", n, maxRuns)
	}
	for _, r := range m.GetRuns() {
		if boot := r.GetBoot(); boot < -maxTime || boot > maxTime {
			return fmt.Errorf("exporter started at %d: want %d to %d", boot, -int64(maxTime), int64(maxTime))
		}
		if err := errors.Join(validateCounts(r.GetLast()), validateCounts(r.GetReceived())); err != nil {
			return err
		}
	}
	return errors.Join(validateCounts(m.GetReceived(), m.GetOctets()), validateCounts(m.GetRecovered()))
}

func validateCounts(u *flowpb.ExportUnits, more ...uint64) error {
	for _, n := range append(more, u.GetDatagrams(), u.GetFlows(), u.GetRecords(), u.GetAll()) {
		if n > maxCount {
			return fmt.Errorf("count of %d: want at most %d", n, uint64(maxCount))
		}
	}
	return nil
}
