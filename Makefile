# Verbs. `make` alone: generated code, linters, all tests that need Go alone.
SHELL := /bin/bash -o pipefail
# Executions, not seconds: at the end of a number of seconds Go's fuzzer sometimes fails
# with nothing found (go.dev/issue/75804, mended in Go 1.27).
FUZZTIME ?= 100000x
TOOL := go tool -modfile=tools/build/go.mod
LINTER := .cache/golangci-lint

.PHONY: conformance simulation-search simulation-replay simulation-shrink simulation-mutants all gen lint test test-page race fuzz bench bench-against bench-enrich bench-hold bench-ingest bench-path scaling simulation simulation-long integration alerts compose-test soak search-cost search-cost-proof bench-hostile nightly accuracy accuracy-quick up

all: gen lint test

gen:
	$(TOOL) buf generate
	go generate ./...
	go test ./test/docs -update >/dev/null || go test ./test/docs

$(LINTER): tools/lint/go.mod
	cd tools/lint && go build -o ../../$(LINTER) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	touch $(LINTER)

lint: $(LINTER)
	$(TOOL) buf lint
	./tools/breaking
	test -z "$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$') | tee /dev/stderr)"
	go vet ./...
	go vet -tags synctests ./test/simulation/...
	cd bench && go vet ./...
	go run ./tools/prose
	$(LINTER) run ./...
	$(LINTER) run --build-tags synctests ./test/simulation/...

test:
	go test ./...
	cd test/compat && go test ./...
	cd test/kubernetes && go test -count=1 ./...

# The page of weir up in a headless Chromium (Debian: chromium).
test-page:
	cd test/page && go vet ./... && go test -count=1 -v ./...

# The floods of the template store's tests are smaller here: a detector finds no more in large ones.
race:
	go test -race -timeout 20m $$(go list ./internal/... ./pkg/... ./test/... | grep -v '^weir/internal/templates$$')
	go test -race -short -timeout 20m ./internal/templates

# Every fuzz target, FUZZTIME executions of each.
fuzz:
	@for pkg in $$(go list ./internal/... ./pkg/...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg || exit 1; \
	  done; \
	done

bench:
	go test -run '^$$' -bench . -count 6 ./internal/decode ./internal/pair ./internal/templates ./internal/kafka
	cd bench && go test -run '^$$' -bench Ingest -count 6 .
	mkdir -p .cache && cd bench && go test -run '^$$' -bench Decode -cpu 1 -count 6 . | tee ../.cache/decode.txt
	$(TOOL) benchstat .cache/decode.txt
	cd bench && go run ./table ../.cache/decode.txt ../docs/performance.md

# The hot paths' CPU per item against an older commit: make bench-against BASE=v1. Fails when a benchmark is
# certainly more than LIMIT percent slower; an undecided one needs a quieter machine.
LIMIT ?= 3
bench-against:
	@test -n "$(BASE)" || { echo "make bench-against: want BASE=COMMIT" >&2; exit 2; }
	go run ./test/benchagainst -base $(BASE) -limit $(LIMIT) $(BENCHFLAGS)

# enrich against a bare transactional copy, on the embedded broker and on real Kafka.
bench-enrich:
	cd bench && go test -count 1 -timeout 60m -run TestEnrichTable -v . -enrich ../docs/performance.md

# enrich with 10 million held connections on real Kafka: memory, restore, expiry of a million at once. Needs 16 GiB.
# make bench-hold BASE=v1 measures the enrich of an older commit too; HOLDFLAGS="-held 1000000 -real=false" is smaller.
bench-hold:
	cd bench && go test -count 1 -timeout 60m -run TestHoldTable -v . -hold ../docs/performance.md -base "$(BASE)" $(HOLDFLAGS)

# ingest beside goflow2 and nfcapd (Debian: nfdump), without Kafka and on real Kafka.
bench-ingest:
	cd bench && go test -count 1 -timeout 60m -run TestReceiveTable -v . -receive ../docs/performance.md

# The whole path, from UDP to committed connections, beside an older commit and beside goflow2 with Kafka Streams
# (Java and Maven). Takes about 40 minutes.
bench-path:
	cd bench && go test -count 1 -timeout 120m -run TestPathTable -v . -path ../docs/performance.md

# What captures say, value by value, against nfdump too (Debian: nfdump): docs/conformance.md.
conformance:
	go test -count 1 -timeout 10m -run TestEachDifference ./test/conformance -nfcapd nfcapd

# How the shared state scales: docs/scaling.md.
scaling:
	go run ./test/sim docs/scaling.md

# Violations of exactly-once, searched for in plans of faults drawn from SEEDS seeds, from FIRST on: docs/testing.md.
SEEDS ?= 2000
FIRST ?= 1
simulation:
	go test -tags synctests -count 1 -timeout 120m -run '^TestSimulation$$' ./test/simulation -seeds $(SEEDS) -first $(FIRST) $(SIMULATIONFLAGS)

# Seeds that were never run before.
simulation-long:
	$(MAKE) simulation SEEDS=20000 FIRST=$$(date +%s)

# Real Kafka: three nodes from Maven Central (Java 17 and Maven). Each test has a process and a bound on its time of its
# own: docs/testing.md.
INTEGRATIONFLAGS ?=
integration: # and, for the balancer tests, nginx-light and libnginx-mod-stream of Debian
	go run ./tools/integration $(INTEGRATIONFLAGS)

# Alert rules and their unit tests (Debian: prometheus).
alerts:
	promtool check config deploy/prometheus/prometheus.yml
	promtool check rules deploy/prometheus/rules.yml
	promtool test rules deploy/prometheus/rules_test.yml

# docker-compose.yml started for real, with an engine of its own: needs root and apt-get.
compose-test:
	test/compose/run

# Half an hour on real Kafka, a fault every minute: docs/performance.md.
soak:
	go test -tags integration -count 1 -timeout 45m -v -run '^TestSoak$$' ./test/integration -soak 30m -soakdoc ../../docs/performance.md

# The most expensive input of ingest, by counted statements and octets: docs/testing.md. A bound that is broken ends it
# with status 1 and the input in .cache/cost.
SEARCHFLAGS ?= -for 10m
COUNTED := -cover -covermode=atomic -coverpkg=weir/test/cost,weir/internal/...,weir/pkg/flowpb,slices,maps
search-cost:
	go build $(COUNTED) -o .cache/search-cost ./test/cost
	coverage=$$(mktemp -d) && trap "rm -r $$coverage" EXIT && GOCOVERDIR=$$coverage .cache/search-cost $(SEARCHFLAGS)

# The search must find the faults of a commit that has five: docs/limits.md.
search-cost-proof:
	test/cost/proof $(COUNTED)

# Seeds of test/simulation are run twice with a runtime that is a function of the seed, and must be equal, log line by log
# line: docs/testing.md. SEED=7,8 PROFILE=quiet.
SEED ?= 1,2
REPLAYFLAGS = $(if $(PROFILE),-profile $(PROFILE))
simulation-replay:
	go run ./test/simulation/replay check $(REPLAYFLAGS) -seeds $(SEED)

# The search of make simulation in that runtime, a process a seed: the same commit gives the same answer.
simulation-search:
	go run ./test/simulation/replay search $(REPLAYFLAGS) -seeds $(SEEDS) -first $(FIRST)

# Removes steps from the plan of a failing seed: SEED=7. The case and its log go to .cache/simulation.
simulation-shrink:
	go run ./test/simulation/replay shrink $(REPLAYFLAGS) -seed $(SEED)

# The search must find each mend that is undone: docs/testing.md.
simulation-mutants:
	go run ./test/simulation/replay mutants -doc docs/testing.md

# Weir's connections against what the packets said (Debian: tshark, softflowd, pmacct, nfdump): docs/connections.md.
# TRAFFIC=DIR measures the captures of that folder, too; ACCURACYFLAGS="-v -only ref9" names each error of one exporter.
ACCURACYFLAGS ?= -doc docs/connections.md
accuracy:
	go run ./test/accuracy $(ACCURACYFLAGS) testdata/traffic $(wildcard ../shared/traffic) $(TRAFFIC)

# The reference exporter alone: fails when a figure is below its floor.
accuracy-quick:
	go run ./test/accuracy -floors test/accuracy/floors.tsv testdata/traffic

# What each kind of hostile input costs, against honest datagrams: docs/limits.md.
bench-hostile:
	go run ./test/cost -limits docs/limits.md

# What is too long for every change; docs/testing.md says when each part last ran. It goes on after a failure,
# and fails at the end.
nightly:
	./tools/nightly

up:
	go run ./cmd/weir up
