// Package flowpb holds the generated messages of Weir's topics: FlowMessage (netflow.flows), ExporterState
// (netflow.templates), ExporterReport (netflow.exporters), RawSet (netflow.undecoded) and Connection
// (netflow.connections). The schemas, with a unit and a source for every field, are in proto/weir/v1.
package flowpb
