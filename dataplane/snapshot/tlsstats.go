// SPDX-License-Identifier: Apache-2.0

package snapshot

import "sidecar/internal/telemetry/stats"

// TLSScopes are the statistics of the TLS contexts of a listener or a cluster; nil without contexts. Immutable.
type TLSScopes struct {
	SSL     *stats.Scope // stats.SSLDef, "listener.ADDR.ssl." or "cluster.NAME.ssl."
	Factory *stats.Scope // stats.SSLSocketFactoryDef, "listener.ADDR.server_ssl_socket_factory." or "cluster.NAME.client_ssl_socket_factory."
}

// NewTLSScopes makes the scopes of a listener or cluster whose statistics begin with prefix.
func NewTLSScopes(r *stats.Registry, prefix, factory string) TLSScopes {
	return TLSScopes{SSL: r.Scope(prefix+"ssl.", stats.SSLDef), Factory: r.Scope(prefix+factory+".", stats.SSLSocketFactoryDef)}
}

// Release gives the scopes back.
func (x *TLSScopes) Release() {
	if x.SSL != nil {
		x.SSL.Release()
		x.Factory.Release()
	}
}

// Block is the share of SSL of a shard; nil without contexts.
func (x *TLSScopes) Block(shard int) *stats.Block {
	if x.SSL == nil {
		return nil
	}
	return x.SSL.Block(shard)
}

// NotReady counts a connection that met a context without its secrets, under id of stats.SSLSocketFactoryDef.
func (x *TLSScopes) NotReady(shard, id int) {
	if x.Factory != nil {
		x.Factory.Block(shard).Inc(id)
	}
}
