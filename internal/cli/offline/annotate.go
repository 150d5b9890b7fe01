package offline

import (
	"cmp"
	"context"
	"io"
	"time"

	"github.com/caarlos0/env/v11"

	"weir/internal/annotate"
	"weir/internal/cli/console"
	"weir/internal/decode"
	"weir/internal/settings"
	"weir/pkg/flowpb"
)

// namingAtMost bounds the wait for DNS answers.
const namingAtMost = 10 * time.Second

// AnnotateConfig returns the settings of the annotation of connections from environ (NAME=value), as enrich reads
// them. With noNames no DNS query is sent.
func AnnotateConfig(environ []string, noNames bool) (annotate.Config, error) {
	all := env.ToMap(environ)
	if noNames {
		all["DNS_ENABLED"] = "false"
	}
	return settings.Parse[annotate.Config](all)
}

// Annotate annotates the connections in list as enrich does. It waits at most 10 s for DNS answers and shows their
// number on stderr.
func Annotate(a *annotate.Annotator, list []*flowpb.Connection, stderr io.Writer) {
	ctx, cancel := context.WithTimeout(context.Background(), namingAtMost)
	defer cancel()
	show := console.NewProgress(stderr)
	asked, unanswered := a.All(ctx, list, func(answered, asked int) {
		show.Count("asking for names: %d of %d addresses", answered, asked)
	})
	show.Clear()
	if unanswered > 0 {
		console.Linef(stderr, "weir connections: %d of %d names were not answered within %v: left out (-n asks for none)",
			unanswered, asked, namingAtMost)
	}
}

// LearnedName returns the name that options data in the input assigned to an object of an exporter. IPFIX has
// precedence over NetFlow v9.
func (o *Reader) LearnedName(k annotate.NameKey) string {
	name := func(version uint8) string {
		facts := o.Store.Facts(&decode.TemplateKey{Exporter: k.Exporter, Domain: k.Domain, Version: version})
		return facts.Name(0, k.What, k.ID)
	}
	return cmp.Or(name(10), name(9))
}
