package main

import (
	"fmt"
	"strings"
	"time"

	"weir/test/accuracy/score"
	"weir/test/accuracy/truth"
)

// percent formats a share, "–" of nothing.
func percent(part, whole int) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", 100*float64(part)/float64(whole))
}

// tables returns the results as two Markdown tables: unsampled, and sampled.
func tables(results []result) string {
	var unsampled, sampled []result
	for _, r := range results {
		if r.setting.rate > 1 {
			sampled = append(sampled, r)
		} else {
			unsampled = append(unsampled, r)
		}
	}
	var b strings.Builder
	if len(unsampled) > 0 {
		unsampledTable(&b, unsampled)
	}
	if len(sampled) > 0 {
		sampledTable(&b, sampled)
	}
	return b.String()
}

func unsampledTable(b *strings.Builder, results []result) {
	b.WriteString("| exporter | form | timeouts, s | TCP | right | at best | split | merged | missing | conn_state | " +
		"UDP | right | at best | split | merged | missing |\n")
	b.WriteString(strings.Repeat("|---", 16) + "|\n")
	row := func(exporter, form, timeouts string, t score.Tallies) {
		share := func(t *score.Tally, o score.Outcome) string { return percent(t.Outcomes[o], t.Conversations) }
		best := func(t *score.Tally) string { return percent(t.Right+t.Knowable, t.Conversations) }
		fmt.Fprintf(b, "| %s | %s | %s | %d | %s | %s | %s | %s | %s | %s | %d | %s | %s | %s | %s | %s |\n",
			exporter, form, timeouts,
			t.TCP.Conversations, percent(t.TCP.Right, t.TCP.Conversations), best(&t.TCP),
			share(&t.TCP, score.Split), share(&t.TCP, score.Merged), share(&t.TCP, score.Missing),
			percent(t.TCP.StateHit, t.TCP.StateKnown),
			t.UDP.Conversations, percent(t.UDP.Right, t.UDP.Conversations), best(&t.UDP),
			share(&t.UDP, score.Split), share(&t.UDP, score.Merged), share(&t.UDP, score.Missing))
	}
	for _, r := range results {
		row(r.setting.exporter, r.setting.form, r.setting.timeouts, r.tallies)
	}
	short := func(s setting) bool { return s.exporter == "reference" && s.timeouts == "60/15" }
	if sum, many := total(results, short); many {
		row("**reference, all**", "", "60/15", sum)
	}
	if sum, many := total(results, func(setting) bool { return true }); many {
		row("**all**", "", "", sum)
	}
}

func sampledTable(b *strings.Builder, results []result) {
	b.WriteString("\n| exporter | form | sampling | TCP seen | one connection | initiator right | at best | " +
		"UDP seen | one connection | initiator right | at best |\n")
	b.WriteString(strings.Repeat("|---", 11) + "|\n")
	row := func(exporter, form, sampling string, t score.Tallies) {
		seen := func(t score.Tally) int { return t.Conversations - t.Outcomes[score.Missing] }
		one := func(t score.Tally) string { return percent(t.Outcomes[score.One], seen(t)) }
		best := func(t score.Tally) string { return percent(t.InitiatorHit+t.InitiatorKnowable, t.InitiatorKnown) }
		fmt.Fprintf(b, "| %s | %s | %s | %d | %s | %s | %s | %d | %s | %s | %s |\n", exporter, form, sampling,
			seen(t.TCP), one(t.TCP), percent(t.TCP.InitiatorHit, t.TCP.InitiatorKnown), best(t.TCP),
			seen(t.UDP), one(t.UDP), percent(t.UDP.InitiatorHit, t.UDP.InitiatorKnown), best(t.UDP))
	}
	for _, r := range results {
		row(r.setting.exporter, r.setting.form, fmt.Sprintf("1:%d", r.setting.rate), r.tallies)
	}
	for _, rate := range []int{10, 100} {
		if sum, many := total(results, func(s setting) bool { return s.rate == rate }); many {
			row("**all**", "", fmt.Sprintf("1:%d", rate), sum)
		}
	}
}

// total sums the results whose setting satisfies is. many reports whether there are several.
func total(results []result, is func(setting) bool) (sum score.Tallies, many bool) {
	n := 0
	for _, r := range results {
		if is(r.setting) {
			sum.Sum(r.tallies)
			n++
		}
	}
	return sum, n > 1
}

// report names what came out wrong of a capture, a line for each conversation.
func report(s setting, c *capture, matches []score.Match, knowable func(*score.Match) bool) string {
	var b strings.Builder
	for i := range matches {
		m := &matches[i]
		if m.Outcome == score.Missing && s.rate > 1 {
			continue // none of its packets was seen
		}
		if why := whatIsWrong(m, s.rate > 1); why != "" {
			if !m.Right() && !knowable(m) {
				why += " (cannot be known from the records)"
			}
			fmt.Fprintf(&b, "%s %s: %s: %s\n", s.name, c.name, conversationText(m.Conversation), why)
		}
	}
	return b.String()
}

// whatIsWrong says what is wrong about m, "" when nothing is. A conn_state that
// is made of sampled packets is not judged.
func whatIsWrong(m *score.Match, sampled bool) string {
	if m.Outcome != score.One {
		var parts []string
		start := m.Conversation.Start()
		for _, w := range m.Connections {
			parts = append(parts, fmt.Sprintf("%+.1f…%+.1f s %d packets %s %s",
				seconds(w.Start-start), seconds(w.End-start), w.Packets, w.Method, w.State))
		}
		return fmt.Sprintf("%v: %s", m.Outcome, strings.Join(parts, "; "))
	}
	switch j, w := m.Judge(), m.Connections[0]; {
	case !j.Initiator:
		return "wrong initiator by " + w.Method
	case j.StateKnown && !j.State && !sampled:
		return fmt.Sprintf("conn_state %s, want %s", w.State, j.ZeekState)
	}
	return ""
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

// conversationText names a conversation, who opened it first.
func conversationText(c *truth.Conversation) string {
	from, to := c.A, c.B
	fromA, by := c.Opener()
	if !fromA {
		from, to = to, from
	}
	proto := "udp"
	if c.Proto == truth.TCP {
		proto = "tcp"
	}
	evidence := ""
	switch by {
	case truth.Midstream:
		evidence = ", midstream"
	case truth.SYNACK:
		evidence = ", by SYN-ACK"
	case truth.FirstPacket, truth.SYN:
	}
	return fmt.Sprintf("%s %v → %v, %d packets%s", proto, from, to, len(c.Packets), evidence)
}
