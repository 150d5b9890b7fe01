// Package flowpb holds the generated messages of Weir's topics: FlowMessage
// (netflow.flows), ExporterState (netflow.templates), RawSet
// (netflow.undecoded) and Connection (netflow.connections). The sources, with a
// unit and a source for every field, are in proto/weir/v1.
package flowpb
