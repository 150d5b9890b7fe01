package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Severity grades a finding.
type Severity string

// Severities. A Warning means wrong figures or lost flows. A Notice must be known to
// interpret the figures correctly.
const (
	Warning Severity = "warning"
	Notice  Severity = "notice"
)

// A Rule names a kind of fault. Names are stable: they are label values of metrics.
type Rule string

// Names of the rules.
const (
	SamplingUnknown  Rule = "sampling_unknown"
	NoInterfaces     Rule = "no_interfaces"
	ClockOff         Rule = "clock_off"
	TemplateRare     Rule = "template_rare"
	TemplateMissing  Rule = "template_missing"
	ExportTimeOnly   Rule = "export_time_only"
	TimesImplausible Rule = "times_implausible"
	FlowsLong        Rule = "flows_long"
	ElementsUnnamed  Rule = "elements_unnamed"
	CountersZero     Rule = "counters_zero"
	FirewallTotals   Rule = "firewall_totals"
	MeteredTwice     Rule = "metered_twice"
	MeteredBothWays  Rule = "metered_both_ways"
	OneDirection     Rule = "one_direction"
	SequenceGaps     Rule = "sequence_gaps"
	Malformed        Rule = "malformed"
)

// A Finding is a fault of a stream.
type Finding struct {
	Stream
	Rule     Rule
	Severity Severity
	What     string // the observation, with figures
	Advice   string // the change to make, and its place
}

// A rule judges a stream: judge returns the observation, "" if there is no fault.
type rule struct {
	name     Rule
	severity Severity
	whole    bool // it needs all messages of the stream
	judge    func(s Stream, h *chart) (what string)
	advice   string
}

// Thresholds of the rules.
const (
	nearlyAll       = 0.95             // share of the flows
	clockTolerance  = 5 * time.Second  // error of the exporter's clock; header times are whole seconds
	templateRefresh = 10 * time.Minute // greatest time between two receipts of a template
	fewConversation = 20               // number of conversations from which one_direction is judged
)

// rules lists all rules, in the order of findings. docs/doctor.md is generated from it.
var rules = []rule{
	{
		SamplingUnknown, Warning, false, func(_ Stream, h *chart) string {
			return share(h.withoutRate, h.flows, nearlyAll, "flows without a sampling rate")
		},
		"It is unknown whether packets are sampled, so the true traffic may exceed the counters. " +
			"Let the device send its sampler options " +
			"(Cisco: option sampler-table; Juniper: they come with IPFIX templates), " +
			"or state the rate in EXPORTERS_FILE (sampling_default: 1 if it samples nothing).",
	},
	{
		NoInterfaces, Notice, false, func(_ Stream, h *chart) string {
			return share(h.withoutInterface, h.flows, nearlyAll, "flows without an interface")
		},
		"Traffic cannot be attributed to interfaces. Add the input and output interface to the flow record " +
			"(Cisco: match interface input, collect interface output). " +
			"Software probes have no interfaces to report.",
	},
	{
		ClockOff, Warning, false, func(_ Stream, h *chart) string {
			switch {
			case h.timed && h.least > int64(clockTolerance):
				return fmt.Sprintf("the clock is %v slow, or messages are delayed by that time",
					durationText(time.Duration(h.least)))
			case h.timed && h.most < -int64(clockTolerance):
				return fmt.Sprintf("the clock is %v fast", durationText(time.Duration(-h.most)))
			}
			return ""
		},
		"Synchronise the device's clock (NTP). " +
			"Beyond PAIR_MAX_CLOCK_SKEW Weir moves flow times to the receiver's clock.",
	},
	{
		TemplateRare, Warning, true, rareTemplates,
		"After a start of the collector or the loss of a template, data stays undecoded for that time. " +
			"Shorten the template refresh to 1 min " +
			"(Cisco: template data timeout 60; Juniper: template-refresh-rate seconds 60).",
	},
	{
		TemplateMissing, Warning, true, func(_ Stream, h *chart) string {
			n := 0
			for _, sets := range h.undecoded.All() {
				n += sets
			}
			if n == 0 {
				return ""
			}
			ids := slices.Sorted(maps.Keys(maps.Collect(h.undecoded.All())))
			return fmt.Sprintf("%d data sets without their template: %s", n, numbers(ids))
		},
		"No datagram of the observed time contains the template. " +
			"Shorten the template refresh to 1 min, or state the template in TEMPLATES_FILE.",
	},
	{
		ExportTimeOnly, Warning, false, func(_ Stream, h *chart) string {
			return share(h.ofExport, h.flows, nearlyAll, "flows without a start or end time")
		},
		"Only the export time is known, so connections cannot be ordered. Add start and end to the flow record " +
			"(Cisco: collect timestamp absolute first and last; IPFIX elements 152 and 153), " +
			"or send the exporter's start (element 160) in options data.",
	},
	{
		TimesImplausible, Warning, false, func(_ Stream, h *chart) string {
			return share(h.old, h.flows, 0, "flows that ended more than a day before their export")
		},
		"The uptimes in flow records contradict the header, usually after a restart or a change of the clock. " +
			"Update the device's software; prefer absolute times (elements 152 and 153) to uptimes (21 and 22).",
	},
	{
		FlowsLong, Notice, false, func(_ Stream, h *chart) string {
			if h.long == 0 {
				return ""
			}
			return fmt.Sprintf("%s, the longest %v",
				share(h.long, h.flows, 0, "flows longer than 2 min"), durationText(h.longest))
		},
		"Traffic is reported late by that time, spread evenly over the flow. Set the active timeout to 60 s " +
			"(Cisco: cache timeout active 60; Juniper: flow-active-timeout 60), " +
			"or raise PAIR_ACTIVE_TIMEOUT, PAIR_IDLE and PAIR_LATE_GRACE.",
	},
	{
		ElementsUnnamed, Notice, false, unnamedElements,
		"Their values are kept as octets. Name them in ELEMENTS_FILE, " +
			"or report the device to the developers of Weir.",
	},
	{
		CountersZero, Warning, false, func(_ Stream, h *chart) string {
			return share(h.zero, h.flows, 0, "flows with neither octets nor packets")
		},
		"Add octets and packets to the flow record (Cisco: collect counter bytes long, collect counter packets long). " +
			"Some devices send such flows for traffic that their hardware does not count.",
	},
	{
		FirewallTotals, Notice, false, func(_ Stream, h *chart) string {
			n := 0
			for _, bits := range h.flowIDs {
				if bits == 3 {
					n++
				}
			}
			return share(n, len(h.flowIDs), 0, "firewall flows with counters in updates and in the teardown")
		},
		"An update carries the traffic since the last update, a teardown the total of the flow. " +
			"A sum over netflow.flows must include only updates or only teardowns, as connections do.",
	},
	{
		MeteredTwice, Warning, false, func(_ Stream, h *chart) string {
			return share(h.twice, h.flows, 0.01,
				"flows that another interface had metered already, without a flow direction")
		},
		"Traffic is counted twice. Meter at ingress only, on all interfaces, or add the flow direction to the record " +
			"(Cisco: collect flow direction); else set PAIR_DEDUP_CONTENT=true for enrich.",
	},
	{
		MeteredBothWays, Notice, false, func(_ Stream, h *chart) string {
			return share(h.twiceDirected, h.flows, 0.01, "flows metered at both ingress and egress")
		},
		"Connections count them once. A sum over netflow.flows must take a single flow_direction, " +
			"or the device must meter at ingress only.",
	},
	{
		OneDirection, Warning, true, func(_ Stream, h *chart) string {
			one := 0
			for _, bits := range h.conversations {
				if bits != 3 {
					one++
				}
			}
			if len(h.conversations) < fewConversation {
				return ""
			}
			return share(one, len(h.conversations), 0.9, "TCP conversations with one direction only")
		},
		"The other direction takes another path, or no interface meters it. " +
			"Meter at ingress on every interface, and export from both paths.",
	},
	{
		SequenceGaps, Warning, true, func(_ Stream, h *chart) string {
			if h.lost == 0 {
				return ""
			}
			return fmt.Sprintf("%d of %d %s are missing by sequence numbers", h.lost, h.of, h.unit)
		},
		"Datagrams are lost in the network or at the receiver: " +
			"look at UdpRcvbufErrors of the host and at weir_ingest_socket_drops_total, " +
			"raise net.core.rmem_max and RCVBUF, or let the exporter send less (sampling, longer timeouts).",
	},
	{
		Malformed, Warning, true, func(_ Stream, h *chart) string {
			return share(h.malformed, h.messages, 0, "datagrams with octets that cannot be decoded")
		},
		"Their flows may be missing. weir decode names each place. Update the device's software; " +
			"a capture that truncates packets (tcpdump -s) has such datagrams, too.",
	},
}

// durationText formats d rounded to seconds; from 48 hours on, in whole days.
func durationText(d time.Duration) string {
	if days := d / (24 * time.Hour); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	return d.Round(time.Second).String()
}

// share returns the text "N of TOTAL NOUN", or "" if n is 0 or n/total is below least.
func share(n, total int, least float64, noun string) string {
	if n == 0 || total == 0 || float64(n) < least*float64(total) {
		return ""
	}
	return fmt.Sprintf("%d of %d %s", n, total, noun)
}

// rareTemplates finds templates whose refresh takes longer than templateRefresh. Over UDP
// a collector depends on it (RFC 7011 section 8.4; NetFlow v9: RFC 3954 section 9).
func rareTemplates(s Stream, h *chart) string {
	if s.Version < 9 {
		return ""
	}
	var longest time.Duration
	var rare []uint16
	for id, r := range h.templates.All() {
		gap := time.Duration(max(r.gap, h.last-r.last))
		if gap > templateRefresh {
			rare, longest = append(rare, id), max(longest, gap)
		}
	}
	if rare == nil {
		return ""
	}
	slices.Sort(rare)
	return fmt.Sprintf("templates not received for up to %v: %s", durationText(longest), numbers(rare))
}

// unnamedElements lists the elements without a name, the most frequent first.
func unnamedElements(_ Stream, h *chart) string {
	if h.unnamed.Len() == 0 {
		return ""
	}
	keys := slices.SortedFunc(maps.Keys(maps.Collect(h.unnamed.All())), func(a, b element) int {
		return cmp.Or(cmp.Compare(h.unnamed.Get(b), h.unnamed.Get(a)), cmp.Compare(a.pen, b.pen), cmp.Compare(a.id, b.id))
	})
	var list []string
	for _, k := range keys[:min(len(keys), listed)] {
		list = append(list, fmt.Sprintf("%d/%d (%d)", k.pen, k.id, h.unnamed.Get(k)))
	}
	if more := len(keys) - listed; more > 0 || h.unnamedMore > 0 {
		list = append(list, "and more")
	}
	return "elements without a name, as enterprise/id (records): " + strings.Join(list, ", ")
}

// listed bounds the items that a finding names.
const listed = 8

// numbers returns the first template ids as text, at most listed of them.
func numbers(ids []uint16) string {
	var list []string
	for _, id := range ids[:min(len(ids), listed)] {
		list = append(list, strconv.Itoa(int(id)))
	}
	if len(ids) > listed {
		list = append(list, fmt.Sprintf("and %d more", len(ids)-listed))
	}
	return strings.Join(list, ", ")
}

// Findings returns the faults of all streams in order of stream and rule.
func (c *Checkup) Findings() (out []Finding) {
	for _, sum := range c.Streams() {
		h := c.streams.Get(sum.Stream)
		for _, r := range rules {
			if r.whole && c.sampled {
				continue
			}
			if what := r.judge(sum.Stream, h); what != "" {
				out = append(out, Finding{
					Stream: sum.Stream, Rule: r.name, Severity: r.severity, What: what, Advice: r.advice,
				})
			}
		}
	}
	return out
}

// A Description describes a rule for the documentation.
type Description struct {
	Rule     Rule
	Severity Severity
	Advice   string
	Whole    bool // it needs all messages; ingest examines a sample and does not apply it
}

// Rules describes all rules, in the order of Findings.
func Rules() (out []Description) {
	for _, r := range rules {
		out = append(out, Description{r.name, r.severity, r.advice, r.whole})
	}
	return out
}
