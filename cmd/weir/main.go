// Command weir is Weir for people: the whole pipeline in one process, a demo on
// real captures, and decoding and pairing by hand.
package main

import (
	"os"

	"weir/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
