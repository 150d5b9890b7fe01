//go:build synctests

package simulation

import (
	"math/rand/v2"
	"time"
)

// wholeProfile runs the whole product: exporters, a balancer, ingest replicas, enrich members, and a sink of
// each topic. The connections must be those of the model, which gets the flows that the replicas put on the
// topic.
//
// A replica without Kafka holds flows back for minutes, and sets wait for their template. Meanwhile stream
// time of their partition advances with the wall clock. In this profile no reported connection is forgotten,
// so that the model does not need the time of arrival of each flow.
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
