// Command weir is the tool for users and operators: it runs the whole pipeline in one process, shows a demo on
// real captures, decodes and pairs captures, and reads the topics.
package main

import (
	"os"

	"weir/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
