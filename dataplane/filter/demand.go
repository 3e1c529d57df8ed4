// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
)

// Demand is what a request lacks and the control side may find: a virtual host that a route configuration gets over VHDS, or a cluster (ODCDS). It is a
// value: requests of one worker that lack the same wait for one answer.
type Demand struct {
	Routes   *route.TableRef // of a virtual host: its route configuration
	Clusters *ClusterSource  // of a cluster: where it may come from
	Name     string          // the host as requested, in lower case, with its port; or the cluster
}

// ClusterSource is where clusters come from on demand. Immutable.
type ClusterSource struct {
	Wait   sys.Nanos // how long a request waits; 0 = not at all
	Config any       // the control side's
}
