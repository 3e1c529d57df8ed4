// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/resource"
)

// managers are the control side's own statistics: cluster_manager, listener_manager, subscriptions.
type managers struct {
	reg  *stats.Registry
	cm   *stats.Block // cluster_manager
	lm   *stats.Block // listener_manager
	subs map[resource.Type]*stats.Scope
	relo map[string]*stats.Scope
	by   map[string]*stats.Scope
	conf map[string]*stats.Scope
	edsS map[string]*stats.Scope
}

func (m *managers) init(reg *stats.Registry) {
	m.reg = reg
	m.cm = reg.Scope("cluster_manager.", stats.ClusterManagerDef).Control()
	m.lm = reg.Scope("listener_manager.", stats.ListenerManagerDef).Control()
	m.subs = map[resource.Type]*stats.Scope{}
	m.relo, m.by, m.conf, m.edsS = map[string]*stats.Scope{}, map[string]*stats.Scope{}, map[string]*stats.Scope{}, map[string]*stats.Scope{}
}

// sub is the subscription of CDS or LDS.
func (m *managers) sub(t resource.Type) *stats.Block {
	s := m.subs[t]
	if s == nil {
		prefix := "cluster_manager.cds."
		if t == resource.Listener {
			prefix = "listener_manager.lds."
		}
		s = m.reg.Scope(prefix, stats.SubscriptionDef)
		if t == resource.Cluster {
			m.reload(prefix)
		}
		m.subs[t] = s
	}
	return s.Control()
}

func (m *managers) scope(set map[string]*stats.Scope, prefix string, def *stats.Def) *stats.Block {
	s := set[prefix]
	if s == nil {
		s = m.reg.Scope(prefix, def)
		set[prefix] = s
	}
	return s.Control()
}

func (m *managers) reload(prefix string) *stats.Block {
	return m.scope(m.relo, prefix, stats.ReloadDef)
}

// subscription is the stats of an RDS subscription.
func (m *managers) subscription(prefix string) *stats.Block {
	return m.scope(m.by, prefix, stats.SubscriptionDef)
}

func (m *managers) clusterConfig(name string) *stats.Block {
	return m.scope(m.conf, "cluster."+clean(name)+".", stats.ClusterConfigDef)
}

func (m *managers) eds(name string) *stats.Block {
	return m.scope(m.edsS, "cluster."+clean(name)+".", stats.ClusterEDSDef)
}

// dropCluster gives back the scopes of a removed cluster.
func (m *managers) dropCluster(cfg *snapshot.ClusterConfig) {
	prefix := "cluster." + clean(cfg.StatName) + "."
	for _, set := range []map[string]*stats.Scope{m.conf, m.edsS} {
		if s := set[prefix]; s != nil {
			s.Release()
			delete(set, prefix)
		}
	}
}

func (m *managers) sent(t resource.Type) {
	if t == resource.Cluster || t == resource.Listener {
		m.subBlock(t).Inc(stats.SubscriptionUpdateAttempt)
	}
}

// subBlock may be called from transport goroutines: it only reads what init time made.
func (m *managers) subBlock(t resource.Type) *stats.Block {
	prefix := "cluster_manager.cds."
	if t == resource.Listener {
		prefix = "listener_manager.lds."
	}
	return m.reg.Scope(prefix, stats.SubscriptionDef).Control()
}

func (m *managers) failed() {
	for _, t := range []resource.Type{resource.Cluster, resource.Listener} {
		m.subBlock(t).Inc(stats.SubscriptionUpdateFailure)
	}
}

// response counts one answered CDS or LDS response.
func (m *managers) response(t resource.Type, bad bool, version string) {
	if t != resource.Cluster && t != resource.Listener {
		return
	}
	b := m.sub(t)
	if bad {
		b.Inc(stats.SubscriptionUpdateRejected)
		return
	}
	b.Inc(stats.SubscriptionUpdateSuccess)
	b.Set(stats.SubscriptionUpdateTime, time.Now().UnixMilli())
	b.Set(stats.SubscriptionVersion, int64(versionHash(version)))
	m.subs[t].SetText(stats.SubscriptionVersionText, version)
}
