package ingest

import (
	"testing"

	"weir/internal/weirtest/variables"
)

func FuzzSettings(f *testing.F) { variables.Fuzz[Config](f) }
