// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/xds/compile/cluster"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

// Compilers is how resources become model; internal/app fills it, so that this package names no compiler but the listener's result.
type Compilers struct {
	Schema *registry.Schema
	// Routes compiles one route configuration; static: inline in a listener.
	Routes func(c *Controller, ctx *registry.Ctx, rc *routev3.RouteConfiguration, hash uint64, static bool) (*route.Table, error)
	// Listener is the environment of the listener compiler; Cluster, Table and Routes are filled in here.
	Listener listenercompile.Env
	// Secrets compiles what TLS contexts and secrets hold.
	Secrets *secret.Compiler
	// Runtime builds one generation of runtime values from the layers of the bootstrap and what changed since.
	Runtime func(RuntimeValues) *match.Runtime
	// Secret turns a secret into what contexts take as its content. It is given what files held, inline; only a static secret may still name files.
	Secret func(ctx *registry.Ctx, s *tlsv3.Secret) (any, error)
	// ListenerTLS and ClusterTLS list the TLS contexts of a compiled listener or cluster; nil functions know of none.
	ListenerTLS func(*listenercompile.Result) []TLSContext
	ClusterTLS  func(*cluster.Result) []TLSContext
	// DrainTime is how long connections of a replaced listener may live: until then its route configurations stay subscribed.
	DrainTime time.Duration
}

func (k *Compilers) listenerEnv(c *Controller) *listenercompile.Env {
	e := k.Listener
	e.Workers = c.cfg.Workers
	e.Stats = c.cfg.Stats
	e.Runtime = c.runtime
	e.Cluster = c.internCluster
	e.Secrets = k.Secrets
	e.Table = c.internTable
	e.Scopes = c.scopesRef
	e.Discovered = c.discoveredFilter
	e.Clusters = c.ClusterSource
	e.Routes = func(ctx *registry.Ctx, rc *routev3.RouteConfiguration) (*route.Table, error) {
		return k.Routes(c, ctx, rc, 0, true)
	}
	return &e
}

func (k *Compilers) listenerTLS(r *listenercompile.Result) []TLSContext {
	if k.ListenerTLS == nil {
		return nil
	}
	return k.ListenerTLS(r)
}

func (k *Compilers) clusterTLS(r *cluster.Result) []TLSContext {
	if k.ClusterTLS == nil {
		return nil
	}
	return k.ClusterTLS(r)
}

// ClusterKnown tells whether a cluster exists, warms or was left out (see Static), for validate_clusters; control goroutine only.
func (c *Controller) ClusterKnown(name string) bool {
	return c.clusters[name] != nil || c.skipped[name]
}

// InternCluster is what route compilers use to name clusters; control goroutine only.
func (c *Controller) InternCluster(name string) *route.ClusterRef { return c.internCluster(name) }
