// Package integration runs the services on a real Apache Kafka of three nodes,
// from Maven Central. Its tests have the build tag integration: make integration.
package integration
