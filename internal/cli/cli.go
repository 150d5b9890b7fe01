// Package cli implements the command weir. Each verb has its own file, which holds its flags and its help text.
package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"weir/internal/cli/console"
	"weir/internal/elements"
	"weir/internal/spelling"
)

// A verb is a subcommand of weir.
type verb struct {
	name  string
	about string // one line
	run   func(args []string, stdin io.Reader, stdout, stderr io.Writer) int
}

// verbs are the subcommands, in the order of the help text.
var verbs = []verb{
	{"up", "run everything in one process, with an embedded broker", runUp},
	{"demo", "show the whole pipeline at work on captures of real exporters", runDemo},
	{"replay", "send the datagrams of captures again", runReplay},
	{"collect", "receive flows into a file, without Kafka", runCollect},
	{"decode", "print the content of the datagrams of a capture or of hex text", runDecode},
	{"doctor", "find configuration errors of exporters in their datagrams", runDoctor},
	{"sink", "store flows or connections in an SQLite database", runSink},
	{"templates", "show and change the templates that the replicas share", runTemplates},
	{"exporters", "list exporters and their losses", runExporters},
	{"flows", "print flows from the topic, or from captures and files of flows", runFlows},
	{"top", "sum flows or connections by any fields, the largest first", runTop},
	{"connections", "print connections from the topic, or from captures and files of flows", runConnections},
}

// Main runs a verb and returns the exit code of the process: 0 done, 1 failed, 2 wrong usage.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		help(stdout)
		return console.ExitDone
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		if len(args) == 0 {
			help(stdout)
			return console.ExitDone
		}
		name, args = args[0], []string{"--help"}
	}
	for _, v := range verbs {
		if v.name == name {
			if err := elements.Load(os.Getenv("ELEMENTS_FILE")); err != nil {
				console.Linef(stderr, "weir %s: ELEMENTS_FILE: %v", name, err)
				return console.ExitUsage
			}
			return v.run(args, stdin, stdout, stderr)
		}
	}
	console.Linef(stderr, "weir: no verb %q%s; see weir help", name, suggestion(name))
	return console.ExitUsage
}

func help(w io.Writer) {
	console.Linef(w, "Weir collects NetFlow and IPFIX and turns flows into named connections.\n\n"+
		"usage: weir VERB [flag]... [argument]...\n\nverbs:")
	for _, v := range verbs {
		console.Linef(w, "  %-12s  %s", v.name, v.about)
	}
	console.Linef(w, "\nweir VERB --help explains a verb. "+
		"The environment variable ELEMENTS_FILE names a file of your own Information Elements.")
}

// suggestion returns a hint with the verb nearest to a mistyped name, "" when no verb is near.
func suggestion(name string) string {
	best, least := "", 1+len(name)/2
	for _, v := range verbs {
		n := spelling.Distance(name, v.name)
		if strings.HasPrefix(v.name, name) {
			n = 0 // an abbreviation is as near as possible
		}
		if n < least {
			best, least = v.name, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}
