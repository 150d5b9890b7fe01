// Package simulation searches for violations of exactly-once: it runs enrich members, three brokers and
// their network in one process under a simulated clock (testing/synctest), applies a plan of faults that
// is drawn from a seed, and compares the connections on the topic with those of package pairmodel.
//
// The package consists of tests with the build tag synctests, which franz-go needs to run in a bubble:
//
//	go test -tags synctests ./test/simulation -seeds 100
//
// A plan is a list of steps. Each step has its own parameters and its own random numbers, so that any
// step can be removed without changing the others. docs/testing.md says how to read a failing seed.
package simulation
