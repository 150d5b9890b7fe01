package cli

import (
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"weir/internal/annotate"
	"weir/internal/cli/offline"
)

// A pairingOfFiles reads files and pairs their flows. The Reader must run before the connections are taken.
type pairingOfFiles struct {
	*offline.Reader
	pairing   *offline.Pairing
	annotator *annotate.Annotator
}

// newPairingOfFiles returns a pairingOfFiles for a verb, with the settings PAIR_*, DNS_* and others of the environment.
// With noNames no DNS queries are sent. The error is of usage and has a single line.
func newPairingOfFiles(
	verb string, port uint16, age time.Duration, noNames bool, stdin io.Reader, stderr io.Writer,
) (p *pairingOfFiles, err error) {
	defer func() {
		if err != nil {
			err = errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}()
	config, err := offline.PairConfig(os.Environ())
	if err != nil {
		return nil, err
	}
	annotation, err := offline.AnnotateConfig(os.Environ(), noNames)
	if err != nil {
		return nil, err
	}
	p = &pairingOfFiles{pairing: &offline.Pairing{Config: config}}
	p.Reader = offline.New(verb, stdin, stderr, p.pairing)
	p.Port, p.Decoder.MaxUptimeAge = port, age
	p.pairing.Learned = annotate.NewLearned(p.LearnedName)
	p.annotator, err = annotate.New(annotation, p.pairing.Learned)
	return p, err
}

// forFilesOnly returns the problem with flags of files that were given for a topic; "": none. noun names a message of
// the topic: "a flow".
func forFilesOnly(port uint16, age time.Duration, noun string) string {
	switch {
	case port != 0:
		return "--udp-port is for files; --port is " + noun + "'s"
	case age != 0:
		return "--uptime-max-age is for files; ingest has UPTIME_MAX_AGE"
	}
	return ""
}
