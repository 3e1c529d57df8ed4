// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/filter"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// extensionKey tells extension configurations apart: two config sources may have some of one name.
type extensionKey struct {
	feed *feed
	name string
}

// extensionState is one extension configuration of ECDS. It lives while filters use it.
type extensionState struct {
	received
	key     extensionKey
	uses    map[string]*filterUse // by key
	factory filter.Factory        // nil: there is none
	message string                // full name of what factory was made of
	settled bool                  // answered, or waited for in vain
	refused bool                  // what came first was of no use; it is settled for listeners that serve nothing yet
	counts  *subscription
	scope   *stats.Scope // stats.ECDSDef
	timer   *time.Timer  // initial_fetch_timeout
}

// filterUse is a discovered filter, which the listeners and versions that configure it alike share.
type filterUse struct {
	listenercompile.DiscoveredFilter
	st    *extensionState
	users int // listener versions
}

// waiting tells whether a listener with the filter has to wait. One that has an older version to serve waits for a good configuration; else a bad one
// ends the wait, as in Envoy.
func (u *filterUse) waiting(serves bool) bool {
	return !u.Unwarmed && !u.st.settled && (serves || !u.st.refused)
}

// discoveredFilter is what compilers use to share one filter.
func (c *Controller) discoveredFilter(key string) *filter.Dynamic {
	if u := c.filters[key]; u != nil {
		return u.Filter
	}
	return nil
}

// useFilter makes a listener version a user of a filter, whose configuration is asked for if it is not already.
func (c *Controller) useFilter(w *listenercompile.DiscoveredFilter) (*filterUse, error) {
	if u := c.filters[w.Key]; u != nil {
		u.users++
		return u, nil
	}
	src, err := c.source(w.Source, "http_filters.config_discovery.config_source")
	if err != nil {
		return nil, err
	}
	f, err := c.feedFor(resource.ExtensionConfig, src, "")
	if err != nil {
		return nil, err
	}
	k := extensionKey{f, w.Name}
	st := c.extensions[k]
	if st == nil {
		prefix := "extension_config_discovery.http_filter." + w.Name + "."
		st = &extensionState{key: k, uses: map[string]*filterUse{}, counts: c.mgr.subscription(prefix, nil), scope: c.mgr.reg.Scope(prefix, stats.ECDSDef)}
		st.counts.attempt()
		c.extensions[k] = st
		f.subscribe(resource.ExtensionConfig, false, w.Name)
		if w.FetchTimeout > 0 {
			st.timer = c.after(w.FetchTimeout, func() {
				if c.extensions[k] == st && !st.settled {
					st.counts.timedOut()
					c.settleExtension(st)
				}
			})
		}
	}
	u := &filterUse{DiscoveredFilter: *w, st: st, users: 1}
	c.filters[w.Key], st.uses[w.Key] = u, u
	u.apply()
	return u, nil
}

// apply puts the configuration in force, or the default while there is none that fits.
func (u *filterUse) apply() {
	st := u.st
	switch {
	case st.factory == nil:
		u.Filter.Set(u.Default)
	case u.Fits(st.message) != nil: // it came before the filter, which wants another type
		st.scope.Control().Inc(stats.ECDSConfigConflict)
		u.Filter.Set(u.Default)
	default:
		u.Filter.Set(st.factory)
	}
}

// leaveFilters ends the use of filters by a listener version; the last user of a configuration unsubscribes it.
func (c *Controller) leaveFilters(list []*filterUse) {
	for _, u := range list {
		if u.users--; u.users > 0 {
			continue
		}
		st := u.st
		delete(c.filters, u.Key)
		delete(st.uses, u.Key)
		if len(st.uses) > 0 {
			continue
		}
		delete(c.extensions, st.key)
		if st.timer != nil {
			st.timer.Stop()
		}
		c.forget(resource.ExtensionConfig, st.key.name)
		st.key.feed.unsubscribe(resource.ExtensionConfig, st.key.name)
		st.counts.release()
		st.scope.Release()
	}
}

// settleExtension ends the wait for a configuration and lets listeners go on.
func (c *Controller) settleExtension(st *extensionState) {
	st.settled = true
	if st.timer != nil {
		st.timer.Stop()
		st.timer = nil
	}
	c.extensionArrived(st)
}

func (c *Controller) extensionArrived(st *extensionState) {
	for _, l := range c.order {
		if l.warming == nil {
			continue
		}
		for _, u := range l.warming.filters {
			if u.st == st {
				c.tryActivate(l)
				break
			}
		}
	}
}

// applyExtensions handles one ECDS batch. Absence never removes; delta's removed_resources do.
func (c *Controller) applyExtensions(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for i := range d.Changed {
		raw := &d.Changed[i]
		version := first(raw.Version, d.Version)
		st := c.extensions[extensionKey{f, raw.Name}]
		dec, err := c.decode(resource.ExtensionConfig, raw)
		malformed := err != nil
		switch {
		case st == nil && err == nil:
			continue // nobody uses it any more
		case err == nil && st.factory != nil && st.hash == dec.Hash:
			c.forgetRejection(resource.ExtensionConfig, raw.Name)
			st.counts.accepted(version, 0)
			continue
		case err == nil:
			err = c.addExtension(st, dec, raw, version)
		}
		if err == nil {
			continue
		}
		for _, l := range c.reject(resource.ExtensionConfig, raw.Name, version, raw, err) {
			rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
		}
		if st != nil {
			st.counts.rejected(f.delta && !malformed) // Envoy's second attempt is for what it has decoded
			st.scope.Control().Inc(stats.ECDSConfigFail)
			st.refused = true
			c.extensionArrived(st)
		}
	}
	for _, n := range d.Removed {
		c.clearExtension(f, n, d.Version)
	}
	return rej
}

func (c *Controller) addExtension(st *extensionState, d *resource.Decoded, raw *ads.Raw, version string) error {
	began := time.Now()
	rep := &registry.Report{}
	ctx := &registry.Ctx{Schema: c.schema, Unknown: c.unknown(false), Report: rep, Env: c.cfg.Compile.listenerEnv(c)}
	var f filter.Factory
	var message string
	err := c.guard(resource.ExtensionConfig, st.key.name, func() (err error) {
		f, message, err = listenercompile.Extension(ctx, d.Message.(*corev3.TypedExtensionConfig))
		return err
	})
	for _, key := range sortedKeys(st.uses) {
		if message == "" {
			break
		}
		if why := st.uses[key].Fits(message); why != nil { // says more than that the type is unknown
			return &registry.FieldError{Path: "typed_config", Err: why}
		}
	}
	if err != nil {
		return err
	}
	c.accept(resource.ExtensionConfig, st.key.name, rep)
	st.received, st.factory, st.message = receivedOf(d, raw, version), f, message
	st.counts.accepted(version, time.Since(began))
	c.reloadExtension(st)
	return nil
}

// clearExtension drops a configuration that was removed, or whose TTL ran out.
func (c *Controller) clearExtension(f *feed, name, version string) {
	st := c.extensions[extensionKey{f, name}]
	if st == nil {
		return
	}
	c.forgetRejection(resource.ExtensionConfig, name)
	st.received, st.factory, st.message = received{}, nil, ""
	st.counts.accepted(version, 0)
	c.reloadExtension(st)
}

// reloadExtension gives the filters what is in force now. Workers see it with their next request.
func (c *Controller) reloadExtension(st *extensionState) {
	st.scope.Control().Inc(stats.ECDSConfigReload)
	for _, key := range sortedKeys(st.uses) {
		st.uses[key].apply()
	}
	c.settleExtension(st)
}

// extensionsFailed counts a stream that ended.
func (c *Controller) extensionsFailed(f *feed) {
	for k, st := range c.extensions {
		if k.feed == f {
			st.counts.failed()
		}
	}
}

func (c *Controller) dumpExtensions(q *Query) *adminv3.EcdsConfigDump {
	d := &adminv3.EcdsConfigDump{}
	byName := map[string]*extensionState{}
	for k, st := range c.extensions {
		byName[k.name+"\x00"+k.feed.key] = st
	}
	for _, n := range sortedKeys(byName) {
		if st := byName[n]; st.any != nil && q.takes(st.key.name) {
			d.EcdsFilters = append(d.EcdsFilters, &adminv3.EcdsConfigDump_EcdsFilterConfig{VersionInfo: st.version, EcdsFilter: st.any,
				LastUpdated: stamp(st.updated), ErrorState: c.failure(resource.ExtensionConfig, st.key.name)})
		}
	}
	for _, r := range c.orphans(resource.ExtensionConfig, q, func(n string) bool {
		for k, st := range c.extensions {
			if k.name == n && st.any != nil {
				return true
			}
		}
		return false
	}) {
		d.EcdsFilters = append(d.EcdsFilters, &adminv3.EcdsConfigDump_EcdsFilterConfig{ErrorState: r.failure()})
	}
	return d
}
