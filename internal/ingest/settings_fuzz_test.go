package ingest

import (
	"testing"

	"weir/test/variables"
)

func FuzzSettings(f *testing.F) { variables.Fuzz[Config](f) }
