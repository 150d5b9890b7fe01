// Package build pins the build tools of Weir in a module of their own, so that
// the product's go.mod lists the product's dependencies only. The tools are the
// tool directives of go.mod; run one with `go tool -modfile=tools/build/go.mod NAME`.
package build
