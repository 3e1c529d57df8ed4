// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
	"sidecar/xds/transport"
)

// feed is one session with its transport: the aggregated stream, or a stream or watched file of one type.
type feed struct {
	c        *Controller
	key      string
	session  *ads.Session
	run      transport.Runner
	delta    bool
	started  bool
	flushing bool
	warming  int         // clusters of this feed that warm
	withheld bool        // CDS answers wait until none does
	only     string      // what a stream of its own is for: the name of a secret, of the route configuration of virtual hosts, or onDemand; "" = shared
	closed   bool        // retired: what still comes is for nobody
	ttl      *time.Timer // to the next expiry
	version  map[resource.Type]string
	plane    *stats.Scope // control_plane.*; nil = not shown
}

// feedFor returns the feed of a config source for one type, making it on first use. Secrets that do not come over ADS have a stream each, as in Envoy:
// Istio's agent ends the stream when it cannot make one of them. So have the virtual hosts of each route configuration, because the first answer to one
// is all there is. only is the name of that secret or route configuration, "" for other types.
func (c *Controller) feedFor(t resource.Type, src *bootstrap.Source, only string) (*feed, error) {
	key := "ads"
	if src.Kind != bootstrap.SourceGRPC {
		only = ""
	}
	switch src.Kind {
	case bootstrap.SourceGRPC:
		key = fmt.Sprintf("%s|grpc|%v|%v|%s|%s", t, src.API.Delta, src.API.REST, servicesKey(src.API.Services), only)
	case bootstrap.SourcePath:
		key = fmt.Sprintf("%s|path|%s", t, src.Path)
	}
	if f := c.feeds[key]; f != nil {
		return f, nil
	}
	f := &feed{c: c, key: key, only: only, version: map[resource.Type]string{}}
	if err := f.open(t, src); err != nil {
		return nil, err
	}
	c.feeds[key] = f
	return f, nil
}

func servicesKey(in []bootstrap.GRPCService) string {
	var b strings.Builder
	for _, s := range in {
		b.WriteString(s.Name + "," + s.Target + ";")
	}
	return b.String()
}

func (f *feed) open(t resource.Type, src *bootstrap.Source) error {
	c := f.c
	sink := func(ev ads.Event) { c.Post(func() { f.step(ev) }) }
	st := &planeStats{feed: f, t: t}
	switch {
	case src.API != nil && src.API.REST: // polling has no connection to show
	case src.Kind == bootstrap.SourceADS:
		st.scope = c.cfg.Stats.Scope("control_plane.", stats.ControlPlaneDef)
	case src.Kind == bootstrap.SourceGRPC && f.only == onDemand:
		st.scope = c.cfg.Stats.Scope("cluster_manager.odcds.control_plane.", stats.ControlPlaneDef)
	case src.Kind == bootstrap.SourceGRPC && t == resource.VirtualHost && c.routes[f.only] != nil:
		st.scope = c.cfg.Stats.Scope(c.routes[f.only].prefix+"vhds."+f.only+".control_plane.", stats.ControlPlaneDef)
	case src.Kind == bootstrap.SourceGRPC && t == resource.Cluster:
		st.scope = c.cfg.Stats.Scope("cluster_manager.cds.control_plane.", stats.ControlPlaneDef)
	case src.Kind == bootstrap.SourceGRPC && t == resource.Runtime:
		st.scope = c.cfg.Stats.Scope("runtime.control_plane.", stats.ControlPlaneDef)
	case src.Kind == bootstrap.SourceGRPC && t == resource.Listener:
		st.scope = c.cfg.Stats.Scope("listener_manager.lds.control_plane.", stats.ControlPlaneDef)
	}
	f.plane = st.scope
	cfg := ads.Config{Seed: c.cfg.Seed, ExplicitWildcard: c.cfg.ExplicitWildcard}
	if src.Kind == bootstrap.SourcePath {
		r, err := transport.NewFile(transport.FileConfig{Path: src.Path, TypeURL: t.URL(), Sink: sink, Clock: c.now, Stats: st})
		if err != nil {
			return err
		}
		f.session, f.run = ads.New(cfg), r
		return nil
	}
	api := src.API
	rt := t
	if src.Kind == bootstrap.SourceADS {
		api, rt = c.cfg.Bootstrap.ADS, resource.Unknown
	}
	if api == nil {
		return errors.New("dynamic_resources.ads_config is not set")
	}
	if api.Delta {
		cfg.Variant = ads.Delta
	}
	f.delta = api.Delta
	cfg.NodeInEvery = api.NodeInEvery
	var targets []*transport.Target
	for _, s := range api.Services {
		tg, err := transport.TargetOf(s)
		if err != nil {
			return err
		}
		targets = append(targets, tg)
	}
	if api.REST {
		r, err := transport.NewRest(transport.RestConfig{Target: targets[0], Type: t, Node: c.cfg.Bootstrap.Node, RefreshDelay: api.RefreshDelay,
			RequestTimeout: api.RequestTimeout, Sink: sink, Clock: c.now, Stats: st})
		if err != nil {
			return err
		}
		f.session, f.run = ads.New(cfg), r
		return nil
	}
	r, err := transport.NewStream(transport.StreamConfig{Targets: targets, Variant: cfg.Variant, Type: rt, Node: c.cfg.Bootstrap.Node, Sink: sink,
		Clock: c.now, Stats: st})
	if err != nil {
		return err
	}
	f.session, f.run = ads.New(cfg), r
	return nil
}

// source digests a config source found in a resource.
func (c *Controller) source(s *corev3.ConfigSource, at registry.Path) (*bootstrap.Source, error) {
	if s.GetSelf() != nil {
		return &bootstrap.Source{Kind: bootstrap.SourceADS, InitialFetchTimeout: fetchTimeout(s)}, nil
	}
	return c.cfg.Bootstrap.Source(s, at)
}

func fetchTimeout(s *corev3.ConfigSource) time.Duration {
	if d := s.GetInitialFetchTimeout(); d != nil {
		return d.AsDuration()
	}
	return 15 * time.Second
}

// subscribe asks for names; the request goes out when the running event is done.
func (f *feed) subscribe(t resource.Type, wildcard bool, names ...string) {
	f.step(ads.Subscribe{TypeURL: t.URL(), Names: names, Wildcard: wildcard})
	f.later()
}

func (f *feed) unsubscribe(t resource.Type, names ...string) {
	f.step(ads.Unsubscribe{TypeURL: t.URL(), Names: names})
	f.later()
}

// later flushes gathered subscription changes once, after everything that is queued now.
func (f *feed) later() {
	if f.started {
		if !f.flushing {
			f.flushing = true
			f.c.soon(func() {
				f.flushing = false
				f.step(ads.Flush{})
			})
		}
		return
	}
	f.started = true
	f.run.Start()
}

// step feeds the session and carries out its actions. Deliver is handled at once; its verdict is a further step.
func (f *feed) step(ev ads.Event) {
	if f.closed {
		return
	}
	if _, closed := ev.(ads.Closed); closed {
		f.failed()
	}
	acts := f.session.Step(ev, nil)
	for _, a := range acts {
		switch a := a.(type) {
		case ads.Deliver:
			f.deliver(a)
		case ads.Expired:
			f.c.expired(f, a)
		case ads.Send, ads.Read, ads.Reconnect:
			f.run.Do(a)
		}
	}
	f.watchTTL(ev)
}

// watchTTL arms the timer for the next resource that expires: expiry is exact, not at the next tick.
func (f *feed) watchTTL(ev ads.Event) {
	switch ev.(type) {
	case ads.Verdict, ads.Tick:
	default:
		return
	}
	at, ok := f.session.Deadline()
	if f.ttl != nil {
		f.ttl.Stop()
		f.ttl = nil
	}
	if ok {
		f.ttl = f.c.after(max(at-f.c.now(), 0), func() { f.step(ads.Tick{Now: f.c.now()}) })
	}
}

// failed counts a stream that ended, or could not be opened, for every subscription on it.
func (f *feed) failed() {
	c := f.c
	c.secretsFailed(f)
	c.virtualHostsFailed(f)
	if f.only == onDemand {
		c.mgr.odcds().failed()
	}
	if f.only != "" {
		return
	}
	if f == c.cds {
		c.mgr.of(resource.Cluster).failed()
	}
	if f == c.lds {
		c.mgr.of(resource.Listener).failed()
	}
	for k, sv := range c.services {
		if k.feed == f {
			for v := range sv.users {
				v.scopes.failed()
			}
		}
	}
	for _, r := range c.routes {
		if r.feed == f {
			r.counts.failed()
		}
	}
	c.scopesFailed(f)
	c.extensionsFailed(f)
	for _, l := range c.layers {
		if l.feed == f {
			l.counts.failed()
		}
	}
}

func (f *feed) deliver(d ads.Deliver) {
	c := f.c
	began := time.Now()
	t, _ := resource.TypeOf(d.TypeURL)
	v := ads.Verdict{Batch: d.Batch}
	c.cdsChanged = false
	for _, r := range d.Rejected {
		c.record(t, r.Name, d.Version, nil, []string{r.Text})
	}
	switch t {
	case resource.Cluster:
		v.Rejected = c.applyClusters(f, d)
		v.Hold = c.phase >= phaseListeners && f.warming > 0
		f.withheld = v.Hold
		c.cdsIn = c.cdsIn || f == c.cds
	case resource.Endpoints:
		v.Rejected = c.applyEndpoints(f, d)
	case resource.Listener:
		v.Rejected = c.applyListeners(f, d)
		c.ldsIn = c.ldsIn || f == c.lds
	case resource.RouteConfiguration:
		v.Rejected = c.applyRoutes(f, d)
	case resource.VirtualHost:
		v.Rejected = c.applyVirtualHosts(f, d)
	case resource.ExtensionConfig:
		v.Rejected = c.applyExtensions(f, d)
	case resource.Secret:
		v.Rejected = c.applySecrets(f, d)
	case resource.ScopedRoute:
		v.Rejected = c.applyScopes(f, d)
	case resource.Runtime:
		v.Rejected = c.applyRuntime(f, d)
	default:
		for _, r := range d.Changed {
			v.Rejected = append(v.Rejected, ads.Rejection{Name: r.Name, Text: fmt.Sprintf("%s %q is not supported", d.TypeURL, r.Name)})
		}
	}
	bad := len(v.Rejected)+len(d.Rejected) > 0
	if !bad {
		f.version[t] = d.Version
	}
	sub := c.mgr.of(t)
	if f.only == onDemand {
		sub = c.mgr.odcds()
	}
	if sub != nil {
		if bad {
			sub.rejected(f.delta)
		} else {
			sub.accepted(d.Version, time.Since(began))
		}
		if c.cdsChanged {
			sub.reloaded()
		}
	}
	f.step(v)
}

// retire ends a stream of its own that nobody needs any more; other feeds stay for the next user.
func (f *feed) retire() {
	if f.only == "" {
		return
	}
	f.closed = true
	delete(f.c.feeds, f.key)
	if f.plane != nil {
		f.plane.Release()
	}
	go f.run.Close() // waits for the stream's goroutines, which may be waiting for this one
}

func (c *Controller) closeFeeds() {
	for _, f := range c.feeds {
		f.run.Close()
	}
}

// planeStats counts control_plane.*, and the failures of watched files and of polling, which have no stream that could close.
type planeStats struct {
	feed  *feed
	t     resource.Type
	scope *stats.Scope // nil = not shown: per-type streams of EDS and RDS are shared, Envoy has one for each subscription
	// Runner
	failure string // the last one, which is logged once
}

func (p *planeStats) Connected(up bool) {
	if p.scope == nil {
		return
	}
	v := int64(0)
	if up {
		v = 1
	}
	p.scope.Control().Set(stats.ControlPlaneConnectedState, v)
}

func (p *planeStats) Sent(string, bool)    {}
func (p *planeStats) Received(string, int) { p.failure = "" }
func (p *planeStats) Failed(err error) {
	c := p.feed.c
	if text := err.Error(); text != p.failure {
		c.cfg.Log("warning", "config", "control plane: %v", err)
		p.failure = text
	}
	if _, stream := p.feed.run.(*transport.Stream); !stream {
		select {
		case c.events <- p.feed.failed:
		default: // the queue is full: this failure is not counted
		}
	}
}

// expired handles a resource whose TTL ran out: only that one goes.
func (c *Controller) expired(f *feed, e ads.Expired) {
	t, _ := resource.TypeOf(e.TypeURL)
	switch t {
	case resource.Cluster:
		c.dropOrDoom(e.Name)
	case resource.Listener:
		if s := c.listeners[e.Name]; s != nil && !s.static {
			c.removeListener(s)
		}
	case resource.Endpoints:
		c.clearEndpoints(f, e.Name)
	case resource.RouteConfiguration:
		c.clearRoute(f, e.Name)
	case resource.VirtualHost:
		c.applyVirtualHosts(f, ads.Deliver{Version: f.version[t], Removed: []string{e.Name}})
	case resource.ExtensionConfig:
		c.clearExtension(f, e.Name, f.version[t])
	case resource.ScopedRoute:
		c.clearScope(f, e.Name)
	case resource.Runtime:
		c.clearLayer(f, e.Name)
	}
}
