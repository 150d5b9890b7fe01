// Command ingest receives NetFlow and IPFIX over UDP and publishes flows to Kafka.
package main

import (
	"weir/internal/ingest"
	"weir/internal/settings"
)

func main() {
	settings.Main("ingest",
		"Receives NetFlow v1/v5/v7/v9 and IPFIX over UDP and publishes flows and templates to Kafka.", ingest.Run)
}
