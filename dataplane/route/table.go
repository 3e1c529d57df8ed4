// SPDX-License-Identifier: Apache-2.0

package route

// Table is one compiled RouteConfiguration. Immutable.
type Table struct {
	Name      string
	Hash      uint64 // content hash of the resource
	Mutations Mutations
	MostSpecificWins bool // most_specific_header_mutations_wins
	IgnorePort bool // ignore_port_in_host_matching
	ValidateClusters bool
	MaxDirectBody uint32 // max_direct_response_body_size_bytes, default 4096
	Clusters  []*ClusterRef // every cluster the table can name literally, for warming and validation
	InternalOnly []string // internal_only_headers
	PerFilter []PerFilter
	Metadata  map[string]any
	VHosts    []*VirtualHost
}

type index struct{}

// Mutations is request/response header add and remove of one level.
type Mutations struct{}
