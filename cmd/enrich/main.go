// Command enrich pairs flows into named connections, exactly once.
package main

import (
	"weir/internal/enrich"
	"weir/internal/settings"
)

func main() {
	settings.Main("enrich",
		"Pairs flows into connections, names their ends and publishes them to Kafka, exactly once.", enrich.Run)
}
