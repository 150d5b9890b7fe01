// Integration runs the tests with build tag integration, each in a process of its own with a bound on its time. It goes
// on after a failure, names each test that failed or hung, and exits with status 1 if there is any.
//
//	go run ./tools/integration [-run REGEXP] [-bound DURATION] [PACKAGES]
//
// Without PACKAGES it runs the packages below the current directory that have tests with the tag.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: integration [-run REGEXP] [-bound DURATION] [PACKAGES]\n\n"+
			"Runs each test with build tag integration in a process of its own.\n\n")
		flag.PrintDefaults()
	}
	r := runner{out: os.Stdout, dir: "."}
	flag.StringVar(&r.pattern, "run", ".", "run only the tests whose names match `REGEXP`")
	flag.DurationVar(&r.bound, "bound", 15*time.Minute, "a test that runs longer hangs: it and its processes are killed")
	flag.Parse()
	os.Exit(status(&r, flag.Args()))
}

// status runs the tests and returns the exit status.
func status(r *runner, packages []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := r.run(ctx, packages)
	if err != nil {
		fmt.Fprintf(os.Stderr, "integration: %v\n", err)
	}
	if failed || err != nil {
		return 1
	}
	return 0
}
