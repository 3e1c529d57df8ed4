// SPDX-License-Identifier: Apache-2.0

// Package cluster compiles envoy.config.cluster.v3.Cluster to the data plane's ClusterConfig, and says what discovery the controller must run.
package cluster
