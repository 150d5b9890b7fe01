//go:build synctests

package simulation

import (
	"math/rand/v2"
	"time"
)

// wholeProfile has the whole product: exporters, a balancer, ingest replicas, enrich members, and a sink of each
// topic. Connections are those of the model, fed with the flows that replicas put on the topic.
//
// A replica that Kafka is away from holds flows back, and sets wait for their template, for minutes: meanwhile
// the clock of their partition goes on with the wall clock. So that the model need not know when each flow
// arrived, nothing that is reported is forgotten.
var wholeProfile = profile{
	name: "whole", class: exact, share: 2,
	setup: func(rng *rand.Rand) setup {
		return setup{Partitions: 2 + rng.Int32N(2), Members: 1 + rng.IntN(2), Replicas: 1 + rng.IntN(2), MaxOpen: 1_000_000, LateGrace: time.Hour, Sinks: true, Names: true}
	},
	weight: []weighted{
		{40, drawExport}, {4, drawRestartExporter}, {2, drawStartReplica}, {2, drawStopReplica}, {3, drawKillReplica}, {2, drawZombieReplica}, {4, drawReplicaNetwork},
		{3, drawStart}, {3, drawStop}, {3, drawKill}, {2, drawZombie}, {3, drawCut}, {2, drawBlackhole}, {1, drawSlow}, {2, drawLostReplies},
		{4, drawRestartSink}, {2, drawZombieSink}, {3, drawSinkNetwork},
		{3, drawNameFault}, {6, drawFault}, {6, drawIngestFault}, {2, drawLeaders}, {2, drawCoordinators}, {2, drawSilence},
	},
}
