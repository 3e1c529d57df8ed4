// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"time"

	"sidecar/dataplane/match"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/resource"
)

// managers are the control side's own statistics: cluster_manager, listener_manager and their subscriptions.
type managers struct {
	reg      *stats.Registry
	cm       *stats.Block // cluster_manager
	lm       *stats.Block // listener_manager
	cds      *subscription
	lds      *subscription
	demanded *subscription // clusters on demand
}

func (m *managers) init(reg *stats.Registry) {
	m.reg = reg
	reg.Scope("http.async-client.", stats.AsyncClientDef) // listed even when nothing is mirrored
	m.cm = reg.Scope("cluster_manager.", stats.ClusterManagerDef).Control()
	m.lm = reg.Scope("listener_manager.", stats.ListenerManagerDef).Control()
}

// of is the subscription of CDS or LDS, made when it starts; nil for the other types.
func (m *managers) of(t resource.Type) *subscription {
	switch t {
	case resource.Cluster:
		if m.cds == nil {
			m.cds = m.subscription("cluster_manager.cds.", stats.ReloadDef)
		}
		return m.cds
	case resource.Listener:
		if m.lds == nil {
			m.lds = m.subscription("listener_manager.lds.", nil)
		}
		return m.lds
	}
	return nil
}

// odcds is the subscription of clusters on demand, made when the first one is asked for.
func (m *managers) odcds() *subscription {
	if m.demanded == nil {
		m.demanded = m.subscription("cluster_manager.odcds.", nil)
	}
	return m.demanded
}

// subscription counts what one xDS subscription does, as Envoy's: every outcome is an attempt too, and so is the start.
type subscription struct {
	sub    *stats.Scope // stats.SubscriptionDef
	reload *stats.Scope // stats.ReloadDef, nil = none
	rds    *stats.Scope // stats.RDSDef, nil = none
}

// subscription makes the scopes; reload is stats.ReloadDef or nil.
func (m *managers) subscription(prefix string, reload *stats.Def) *subscription {
	s := &subscription{sub: m.reg.Scope(prefix, stats.SubscriptionDef)}
	if reload != nil {
		s.reload = m.reg.Scope(prefix, reload)
	}
	return s
}

func (s *subscription) inc(id int) { s.sub.Control().Inc(id) }

func (s *subscription) attempt() { s.inc(stats.SubscriptionUpdateAttempt) }

func (s *subscription) failed() {
	s.inc(stats.SubscriptionUpdateFailure)
	s.attempt()
}

// rejected counts a refused response; in delta Envoy counts two attempts for it.
func (s *subscription) rejected(delta bool) {
	s.inc(stats.SubscriptionUpdateRejected)
	s.attempt()
	if delta {
		s.attempt()
	}
}

func (s *subscription) timedOut() {
	s.inc(stats.SubscriptionInitFetchTimeout)
	s.attempt()
}

// accepted counts a good response; took is how long applying it took.
func (s *subscription) accepted(version string, took time.Duration) {
	b := s.sub.Control()
	b.Inc(stats.SubscriptionUpdateSuccess)
	b.Inc(stats.SubscriptionUpdateAttempt)
	b.Set(stats.SubscriptionUpdateTime, time.Now().UnixMilli())
	b.Set(stats.SubscriptionVersion, int64(versionHash(version)))
	b.Record(stats.SubscriptionUpdateDuration, uint64(took.Milliseconds()))
	s.sub.SetText(stats.SubscriptionVersionText, version)
}

func (s *subscription) reloaded() {
	if s.reload != nil {
		s.reload.Control().Inc(stats.ReloadConfigReload)
		s.reload.Control().Set(stats.ReloadConfigReloadTimeMs, time.Now().UnixMilli())
	}
}

func (s *subscription) release() {
	for _, x := range []*stats.Scope{s.sub, s.reload, s.rds} {
		if x != nil {
			x.Release()
		}
	}
}

// clusterScopes are the control side's statistics of one version of a cluster. Two versions share the numbers: each holds a reference.
type clusterScopes struct {
	conf *stats.Scope // stats.ClusterConfigDef
	eds  *stats.Scope // stats.ClusterEDSDef; nil for other types
	left *stats.Scope // stats.ClusterRemainingDef; nil without track_remaining
}

func (m *managers) cluster(cfg *snapshot.ClusterConfig, eds bool) clusterScopes {
	prefix := "cluster." + cfg.StatName + "."
	s := clusterScopes{conf: m.reg.Scope(prefix, stats.ClusterConfigDef)}
	if eds {
		s.eds = m.reg.Scope(prefix, stats.ClusterEDSDef)
	}
	if cfg.TrackRemaining {
		s.left = m.reg.Scope(prefix, stats.ClusterRemainingDef)
	}
	return s
}

// serve makes the circuit breakers of cfg the ones that are shown.
func (s *clusterScopes) serve(cfg *snapshot.ClusterConfig) {
	if cfg.Traffic != nil {
		cfg.Traffic.SetSource(cfg.BreakerOpen)
	}
	if s.left != nil {
		s.left.SetSource(cfg.BreakerRemaining)
	}
}

func (s *clusterScopes) inc(id int) { s.conf.Control().Inc(id) }

func (s *clusterScopes) failed() {
	s.inc(stats.ClusterConfigUpdateFailure)
	s.inc(stats.ClusterConfigUpdateAttempt)
}

func (s *clusterScopes) rejected(delta bool) {
	if s.eds == nil {
		return
	}
	s.eds.Control().Inc(stats.ClusterEDSUpdateRejected)
	s.inc(stats.ClusterConfigUpdateAttempt)
	if delta {
		s.inc(stats.ClusterConfigUpdateAttempt)
	}
}

func (s *clusterScopes) timedOut() {
	if s.eds != nil {
		s.eds.Control().Inc(stats.ClusterEDSInitFetchTimeout)
		s.inc(stats.ClusterConfigUpdateAttempt)
	}
}

// accepted counts a load assignment that was taken.
func (s *clusterScopes) accepted(version string) {
	s.inc(stats.ClusterConfigUpdateSuccess)
	s.inc(stats.ClusterConfigUpdateAttempt)
	s.conf.Control().Set(stats.ClusterConfigVersion, int64(versionHash(version)))
	if s.eds != nil {
		s.eds.Control().Set(stats.ClusterEDSUpdateTime, time.Now().UnixMilli())
		s.eds.SetText(stats.ClusterEDSVersionText, version)
	}
}

func (s *clusterScopes) release() {
	s.conf.Release()
	if s.eds != nil {
		s.eds.Release()
	}
	if s.left != nil {
		s.left.Release()
	}
}

func clean(s string) string { return strings.ReplaceAll(s, ":", "_") }

// versionHash is the number that Envoy shows as *.version: xxHash64 of the text.
func versionHash(s string) uint64 { return match.XXHash64([]byte(s), 0) }
