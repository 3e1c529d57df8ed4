// SPDX-License-Identifier: Apache-2.0

// Package upstream is one worker's view of the clusters: a load balancer instance, pools, and counters per cluster, made on first use and looked
// up by the interned cluster number. A changed set of hosts updates the balancer in place; a changed configuration replaces the cluster and drains
// the old one, whose requests go on.
//
// Where requests name their upstream (auto_sni, auto_san_validation) each name has pools of its own: see names.go.
//
// Bounds: clusters and hosts as configured; pools with a name as in names.go; on-demand hosts of ORIGINAL_DST clusters live for at most two cleanup
// intervals without use.
package upstream
