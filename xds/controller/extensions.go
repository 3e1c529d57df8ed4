// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"slices"
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

// extensionKey tells extension configurations apart: two config sources may have some of one name, and so may filters of two kinds.
type extensionKey struct {
	feed *feed
	kind listenercompile.DiscoveredKind
	name string
}

// extensionKinds is all of them.
var extensionKinds = [...]listenercompile.DiscoveredKind{listenercompile.DiscoveredHTTP, listenercompile.DiscoveredNetwork, listenercompile.DiscoveredListener}

// extensionState is one extension configuration of ECDS. It lives while filters use it.
type extensionState struct {
	received
	key     extensionKey
	uses    map[string]*filterUse        // of HTTP filters, by key
	places  []*placeUse                  // of network and listener filters
	config  *corev3.TypedExtensionConfig // nil: there is none
	factory filter.Factory               // of an HTTP filter
	message string                       // full name of what config holds
	settled bool                         // answered, or waited for in vain
	refused bool                         // what came first was of no use; it is settled for listeners that serve nothing yet
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
	st, err := c.extension(&w.Discovery)
	if err != nil {
		return nil, err
	}
	u := &filterUse{DiscoveredFilter: *w, st: st, users: 1}
	c.filters[w.Key], st.uses[w.Key] = u, u
	u.apply()
	return u, nil
}

// extension returns the configuration that a filter takes, which is asked for if it is not already.
func (c *Controller) extension(w *listenercompile.Discovery) (*extensionState, error) {
	src, err := c.source(w.Source, "config_discovery.config_source")
	if err != nil {
		return nil, err
	}
	f, err := c.feedFor(resource.ExtensionConfig, src, "")
	if err != nil {
		return nil, err
	}
	k := extensionKey{f, w.Kind, w.Name}
	if st := c.extensions[k]; st != nil {
		return st, nil
	}
	prefix := fmt.Sprintf("extension_config_discovery.%s.%s.", w.Kind, w.Name)
	st := &extensionState{key: k, uses: map[string]*filterUse{}, counts: c.mgr.subscription(prefix, nil), scope: c.mgr.reg.Scope(prefix, stats.ECDSDef)}
	st.counts.attempt()
	c.extensions[k] = st
	f.subscribe(resource.ExtensionConfig, false, w.Name)
	if w.FetchTimeout > 0 {
		st.timer = c.after(w.FetchTimeout, func() {
			if c.extensions[k] == st && !st.settled {
				st.counts.timedOut()
				st.scope.Control().Inc(stats.ECDSConfigFail)
				c.settleExtension(st)
			}
		})
	}
	return st, nil
}

// leaveExtension forgets a configuration that nothing uses any more.
func (c *Controller) leaveExtension(st *extensionState) {
	if len(st.uses)+len(st.places) > 0 {
		return
	}
	delete(c.extensions, st.key)
	if st.timer != nil {
		st.timer.Stop()
	}
	st.counts.release()
	st.scope.Release()
	for _, kind := range extensionKinds {
		if c.extensions[extensionKey{st.key.feed, kind, st.key.name}] != nil {
			return // filters of another kind use the name
		}
	}
	c.forget(resource.ExtensionConfig, st.key.name)
	st.key.feed.unsubscribe(resource.ExtensionConfig, st.key.name)
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
		delete(c.filters, u.Key)
		delete(u.st.uses, u.Key)
		c.leaveExtension(u.st)
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
	uses := func(list []*filterUse) bool {
		return slices.ContainsFunc(list, func(u *filterUse) bool { return u.st == st })
	}
	for _, key := range sortedKeys(c.places) {
		if p := c.places[key]; p != nil && uses(p.filters) {
			c.tryPlace(p)
		}
	}
	for _, l := range c.order {
		if l.warming != nil && (uses(l.warming.filters) || slices.ContainsFunc(l.warming.places, func(u *placeUse) bool { return u.st == st })) {
			c.tryActivate(l)
		}
	}
}

// applyExtensions handles one ECDS batch. Absence never removes; delta's removed_resources do.
func (c *Controller) applyExtensions(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for i := range d.Changed {
		raw := &d.Changed[i]
		version := first(raw.Version, d.Version)
		dec, err := c.decode(resource.ExtensionConfig, raw)
		if err == nil {
			err = c.offerExtension(f, dec, raw, version)
		} else {
			c.extensionsRefused(f, raw.Name, false)
		}
		if err == nil {
			continue
		}
		for _, l := range c.reject(resource.ExtensionConfig, raw.Name, version, raw, err) {
			rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
		}
	}
	for _, n := range d.Removed {
		c.clearExtension(f, n, d.Version)
	}
	return rej
}

// offerExtension gives a configuration to the filters of each kind that take it under its name.
func (c *Controller) offerExtension(f *feed, dec *resource.Decoded, raw *ads.Raw, version string) error {
	var errs []error
	for _, kind := range extensionKinds {
		st := c.extensions[extensionKey{f, kind, raw.Name}]
		switch {
		case st == nil: // nobody uses it, or not any more
		case st.config != nil && st.hash == dec.Hash:
			c.forgetRejection(resource.ExtensionConfig, raw.Name)
			st.counts.accepted(version, 0)
		default:
			if err := c.addExtension(st, dec, raw, version); err != nil {
				c.extensionRefused(st, f.delta) // Envoy's second attempt is for what it has decoded
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// extensionsRefused counts a configuration that is malformed for all that wait for it.
func (c *Controller) extensionsRefused(f *feed, name string, twice bool) {
	for _, kind := range extensionKinds {
		if st := c.extensions[extensionKey{f, kind, name}]; st != nil {
			c.extensionRefused(st, twice)
		}
	}
}

func (c *Controller) extensionRefused(st *extensionState, twice bool) {
	st.counts.rejected(twice)
	st.scope.Control().Inc(stats.ECDSConfigFail)
	st.refused = true
	c.extensionArrived(st)
}

// addExtension takes a configuration if it is good for every filter that it is for: all of them follow, or none.
func (c *Controller) addExtension(st *extensionState, d *resource.Decoded, raw *ads.Raw, version string) error {
	began := time.Now()
	rep := &registry.Report{}
	x := d.Message.(*corev3.TypedExtensionConfig)
	message := ""
	if url, _, err := registry.Unwrap(x.GetTypedConfig()); err == nil {
		message = listenercompile.MessageOf(url)
		if err := st.fits(message); err != nil { // says more than that the type is unknown
			return &registry.FieldError{Path: "typed_config", Err: err}
		}
	}
	var f filter.Factory
	var err error
	var placed []*listenercompile.Placed
	if st.key.kind == listenercompile.DiscoveredHTTP {
		err = c.guard(resource.ExtensionConfig, st.key.name, func() (err error) {
			f, _, err = listenercompile.Extension(c.extensionCtx(rep), x)
			return err
		})
	} else {
		placed, err = c.placeAll(st, x, rep)
	}
	if err != nil {
		return err
	}
	c.accept(resource.ExtensionConfig, st.key.name, rep)
	st.received, st.config, st.factory, st.message = receivedOf(d, raw, version), x, f, message
	st.counts.accepted(version, time.Since(began))
	c.reloadExtension(st, placed)
	return nil
}

// fits tells why a configuration of a type is of no use for one of the filters.
func (st *extensionState) fits(message string) error {
	for _, key := range sortedKeys(st.uses) {
		if err := st.uses[key].Fits(message); err != nil {
			return err
		}
	}
	for _, u := range st.places {
		if err := u.w.Fits(message); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) extensionCtx(rep *registry.Report) *registry.Ctx {
	return &registry.Ctx{Schema: c.schema, Unknown: c.unknown(false), Report: rep, Env: c.cfg.Compile.listenerEnv(c)}
}

// clearExtension drops a configuration that was removed, or whose TTL ran out.
func (c *Controller) clearExtension(f *feed, name, version string) {
	for _, kind := range extensionKinds {
		st := c.extensions[extensionKey{f, kind, name}]
		if st == nil {
			continue
		}
		c.forgetRejection(resource.ExtensionConfig, name)
		st.received, st.config, st.factory, st.message = received{}, nil, nil, ""
		st.counts.accepted(version, 0)
		c.reloadExtension(st, c.defaults(st))
	}
}

// reloadExtension gives the filters what is in force now; placed is what was compiled for st.places. Workers see it with their next request or connection.
func (c *Controller) reloadExtension(st *extensionState, placed []*listenercompile.Placed) {
	st.scope.Control().Inc(stats.ECDSConfigReload)
	for _, key := range sortedKeys(st.uses) {
		st.uses[key].apply()
	}
	for i, u := range slices.Clone(st.places) {
		c.offerPlace(u, placed[i])
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
		byName[fmt.Sprint(k.name, "\x00", k.feed.key, "\x00", k.kind)] = st
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
