package main

import (
	"context"
	"time"

	"weir/test/accuracy/export"
	"weir/test/accuracy/programs"
	"weir/test/accuracy/reference"
	"weir/test/accuracy/truth"
)

// A setting is one way to export a capture.
type setting struct {
	name     string // in the floors, and for -only
	exporter string // in the table
	form     string
	timeouts string // active/inactive, s
	rate     int    // 1 packet in rate is seen
	ipv6     bool   // the form can say IPv6 addresses
	needs    []string
	export   func(context.Context, *capture) ([]export.Datagram, error)
}

// exportable returns the conversations that the form can say.
func (s *setting) exportable(conversations []*truth.Conversation) (out []*truth.Conversation) {
	for _, c := range conversations {
		if s.ipv6 || c.A.Addr().Is4() {
			out = append(out, c)
		}
	}
	return out
}

// A capture is an input with the conversations of its packets.
type capture struct {
	name, file    string
	conversations []*truth.Conversation
}

// Timeouts of the reference exporter where nothing else is said.
const (
	shortActive   = 60 * time.Second
	shortInactive = 15 * time.Second
)

// referenceSetting is the reference exporter.
func referenceSetting(name, form, timeouts string, f reference.Form, m reference.Meter) setting {
	return setting{
		name: name, exporter: "reference", form: form, timeouts: timeouts, rate: m.Rate, ipv6: f.IPv6(),
		export: func(_ context.Context, c *capture) ([]export.Datagram, error) {
			return reference.Export(c.conversations, m, f), nil
		},
	}
}

// programSetting is a program that meters the capture file.
func programSetting(name, exporter, form, timeouts string, rate int, run programs.Run, needs ...string) setting {
	return setting{
		name: name, exporter: exporter, form: form, timeouts: timeouts, rate: rate, ipv6: form != "v5", needs: needs,
		export: func(ctx context.Context, c *capture) ([]export.Datagram, error) {
			return programs.Export(ctx, c.file, run)
		},
	}
}

// settings are all rows of the table, in its order.
func settings() []setting {
	meter := func(rate int) reference.Meter {
		return reference.Meter{Active: shortActive, Inactive: shortInactive, EndOnFIN: true, Rate: rate}
	}
	noFIN := meter(1)
	noFIN.EndOnFIN = false
	long := reference.Meter{Active: 30 * time.Minute, Inactive: shortInactive, EndOnFIN: true, Rate: 1}
	medium := reference.Meter{Active: 5 * time.Minute, Inactive: time.Minute, EndOnFIN: true, Rate: 1}
	softflowd := func(name, form string, rate int, timeouts string, args ...string) setting {
		return programSetting(name, "softflowd", form, timeouts, rate, programs.Softflowd(args...), "softflowd")
	}
	nfdump := func(name, version, timeouts, shown string) setting {
		run := programs.Nfdump(version, timeouts)
		return programSetting(name, "nfpcapd, nfreplay", "v"+version, shown, 1, run, "nfpcapd", "nfreplay")
	}
	const none = "none" // softflowd and pmacctd end no flow before the end of a file
	return []setting{
		referenceSetting("ref5", "v5", "60/15", reference.V5, meter(1)),
		referenceSetting("ref9", "v9", "60/15", reference.V9, meter(1)),
		referenceSetting("ref9-nofin", "v9, no end at FIN", "60/15", reference.V9, noFIN),
		referenceSetting("ref10", "IPFIX, ms", "60/15", reference.IPFIX, meter(1)),
		referenceSetting("ref10-seconds", "IPFIX, s", "60/15", reference.IPFIXSeconds, meter(1)),
		referenceSetting("ref10-nano", "IPFIX, NTP", "60/15", reference.IPFIXNano, meter(1)),
		referenceSetting("ref10-medium", "IPFIX, ms", "300/60", reference.IPFIX, medium),
		referenceSetting("ref9-long", "v9", "1800/15", reference.V9, long),
		softflowd("softflowd5", "v5", 1, none, "-v", "5"),
		softflowd("softflowd9", "v9", 1, none, "-v", "9"),
		softflowd("softflowd10", "IPFIX", 1, none, "-v", "10"),
		softflowd("softflowd10-biflow", "IPFIX, biflow", 1, none, "-v", "10", "-b"),
		programSetting("pmacctd5", "pmacctd nfprobe", "v5", none, 1, programs.Pmacctd(5), "pmacctd"),
		programSetting("pmacctd9", "pmacctd nfprobe", "v9", none, 1, programs.Pmacctd(9), "pmacctd"),
		programSetting("pmacctd10", "pmacctd nfprobe", "IPFIX", none, 1, programs.Pmacctd(10), "pmacctd"),
		nfdump("nfdump5", "5", "300,60", "300/60"),
		nfdump("nfdump9", "9", "300,60", "300/60"),
		nfdump("nfdump9-short", "9", "60,15", "60/15"),

		referenceSetting("ref5-1in10", "v5", "60/15", reference.V5, meter(10)),
		referenceSetting("ref9-1in10", "v9", "60/15", reference.V9, meter(10)),
		referenceSetting("ref10-1in10", "IPFIX, ms", "60/15", reference.IPFIX, meter(10)),
		softflowd("softflowd9-1in10", "v9", 10, none, "-v", "9", "-s", "10"),
		softflowd("softflowd10-1in10", "IPFIX, biflow", 10, none, "-v", "10", "-b", "-s", "10"),
		referenceSetting("ref9-1in100", "v9", "60/15", reference.V9, meter(100)),
		referenceSetting("ref10-1in100", "IPFIX, ms", "60/15", reference.IPFIX, meter(100)),
	}
}
