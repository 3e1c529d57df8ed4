// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// vhostSource is the virtual hosts of one feed. They are asked for by wildcard, and their names, ROUTES/HOST, say to which route configuration they
// belong. A source on the aggregated stream keeps also those that no route configuration has use for yet.
type vhostSource struct {
	feed *feed
	have map[string]*vhost    // by resource name
	uses map[string]*vhostUse // by route configuration
	in   bool                 // answered at least once

	demands demands
}

// vhost is one accepted virtual host.
type vhost struct {
	received
	name   string // of the resource
	config *routev3.VirtualHost
}

// vhostUse is a route configuration's use of a source: of its served version, of the pending one, or of both.
type vhostUse struct {
	r      *routeState
	src    *vhostSource
	counts *subscription
	scope  *stats.Scope  // stats.VHDSDef
	ready  bool          // its virtual hosts are in, or were waited for in vain
	timer  *time.Timer   // initial_fetch_timeout
	wait   time.Duration // the same: how long requests wait for a virtual host
	// answered are demands whose answer takes effect with the newest version of the route configuration.
	answered []filter.Demand
}

// vhostRounds bounds the attempts to leave bad virtual hosts out of a route configuration; then all new ones are refused.
const vhostRounds = 3

// Envoy's words for sources that cannot serve virtual hosts.
var (
	errVHDSSource = errors.New("vhds: only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source.")
	errVHDSADS    = errors.New("vhds: ADS must use DELTA_GRPC api_type when used as VHDS config source.")
)

// routesOf is the route configuration that the name of a virtual host belongs to.
func routesOf(vhost string) string { return vhost[:max(strings.LastIndexByte(vhost, '/'), 0)] }

// virtualHostsFor returns the use that a version of a route configuration makes of virtual hosts over xDS, nil if it has none. A version with the
// same source shares the use of the one before.
func (c *Controller) virtualHostsFor(r *routeState, rc *routev3.RouteConfiguration) (*vhostUse, error) {
	if rc.GetVhds() == nil {
		return nil, nil
	}
	fail := func(err error) (*vhostUse, error) {
		return nil, &registry.FieldError{Path: "vhds.config_source", Err: err}
	}
	src, err := c.source(rc.GetVhds().GetConfigSource(), "vhds.config_source")
	if err != nil {
		return nil, err
	}
	switch {
	case src.Kind == bootstrap.SourceADS && c.cfg.Bootstrap.ADS != nil && !c.cfg.Bootstrap.ADS.Delta:
		return fail(errVHDSADS)
	case src.Kind != bootstrap.SourceADS && (src.Kind != bootstrap.SourceGRPC || !src.API.Delta):
		return fail(errVHDSSource)
	}
	f, err := c.feedFor(resource.VirtualHost, src, r.name)
	if err != nil {
		return fail(err)
	}
	s := c.vhostSources[f]
	if s == nil {
		s = &vhostSource{feed: f, have: map[string]*vhost{}, uses: map[string]*vhostUse{}}
		c.vhostSources[f] = s
		f.subscribe(resource.VirtualHost, true)
	}
	if u := s.uses[r.name]; u != nil {
		return u, nil
	}
	prefix := r.prefix + "vhds." + r.name + "."
	u := &vhostUse{r: r, src: s, counts: c.mgr.subscription(prefix, nil), scope: c.mgr.reg.Scope(prefix, stats.VHDSDef),
		wait: src.InitialFetchTimeout}
	u.counts.attempt()
	s.uses[r.name] = u
	for n := range s.have {
		u.ready = u.ready || routesOf(n) == r.name
	}
	if d := src.InitialFetchTimeout; d > 0 && !u.ready {
		u.timer = c.after(d, func() {
			if s.uses[r.name] == u && !u.ready {
				u.counts.timedOut()
				c.virtualHostsIn(u)
				if r.next != nil && r.next.vhds == u {
					c.tryTable(r.next)
				}
			}
		})
	}
	return u, nil
}

// virtualHostsIn ends the wait for virtual hosts.
func (c *Controller) virtualHostsIn(u *vhostUse) {
	u.ready = true
	if u.timer != nil {
		u.timer.Stop()
		u.timer = nil
	}
}

// leaveVirtualHosts ends a use that neither the served nor the pending version of the route configuration makes any more. A stream of its own ends
// with it.
func (c *Controller) leaveVirtualHosts(r *routeState, u *vhostUse) {
	if u == nil || r.vhds == u || r.next != nil && r.next.vhds == u {
		return
	}
	c.leaveDemands(u)
	delete(u.src.uses, r.name)
	if u.timer != nil {
		u.timer.Stop()
	}
	u.counts.release()
	u.scope.Release()
	if f := u.src.feed; f.only != "" {
		delete(c.vhostSources, f)
		f.retire()
	}
}

// of lists the virtual hosts of a route configuration by name.
func (s *vhostSource) of(routes string) []*vhost {
	var out []*vhost
	for _, n := range sortedKeys(s.have) {
		if routesOf(n) == routes {
			out = append(out, s.have[n])
		}
	}
	return out
}

// compileWithVirtualHosts compiles a new version of a route configuration with the virtual hosts of its source. Those that came before there was
// anything to check them with are left out if they are bad; those that serve make the version a bad one.
func (c *Controller) compileWithVirtualHosts(p *pendingTable, rep *registry.Report) error {
	list := p.vhds.src.of(p.r.name)
	for range vhostRounds {
		t, bad, err := c.merge(p, list, rep)
		if err == nil {
			p.table = t
			return nil
		}
		if len(bad) == 0 || p.r.vhds == p.vhds {
			return err
		}
		list = slices.DeleteFunc(list, func(v *vhost) bool {
			if err := bad[v.name]; err != nil {
				c.refuseVirtualHost(v, err)
				delete(p.vhds.src.have, v.name)
			}
			return bad[v.name] != nil
		})
	}
	t, _, err := c.merge(p, nil, rep)
	p.table = t
	return err
}

func (c *Controller) refuseVirtualHost(v *vhost, err error) []string {
	return c.reject(resource.VirtualHost, v.name, v.version, &ads.Raw{TypeURL: v.any.GetTypeUrl(), Body: v.any.GetValue()}, err)
}

// merge compiles a route configuration with the virtual hosts of list behind its own. Faults of those in list are in bad too, by name and with their
// paths inside the virtual host.
func (c *Controller) merge(p *pendingTable, list []*vhost, rep *registry.Report) (t *route.Table, bad map[string]error, err error) {
	own := p.config.VirtualHosts
	all := slices.Clip(own)
	for _, v := range list {
		all = append(all, v.config)
	}
	p.config.VirtualHosts = all
	defer func() { p.config.VirtualHosts = own }()
	if t, err = c.compileRoutes(p, rep); err == nil {
		return t, nil, nil
	}
	bad = map[string]error{}
	for _, leaf := range registry.Flatten(err) {
		var fe *registry.FieldError
		if !errors.As(leaf, &fe) {
			continue
		}
		i, rest, ok := vhostPath(fe.Path)
		if i -= len(own); ok && i >= 0 && i < len(list) {
			name := list[i].name
			bad[name] = errors.Join(bad[name], &registry.FieldError{Path: rest, Err: fe.Err})
		}
	}
	return nil, bad, err
}

// vhostPath splits "virtual_hosts[3].domains[0]" into 3 and "domains[0]".
func vhostPath(p registry.Path) (i int, rest registry.Path, ok bool) {
	text, ok := strings.CutPrefix(string(p), "virtual_hosts[")
	if !ok {
		return 0, "", false
	}
	number, inside, ok := strings.Cut(text, "]")
	i, err := strconv.Atoi(number)
	return i, registry.Path(strings.TrimPrefix(inside, ".")), ok && err == nil
}

// vhostBatch is one VHDS response while it is applied.
type vhostBatch struct {
	src     *vhostSource
	version string
	changed map[string]*vhost
	removed map[string]bool
	touched map[string]bool // route configurations
	rej     []ads.Rejection
}

// applyVirtualHosts handles one VHDS response. A bad virtual host is refused by name; its last good version and its siblings serve.
func (c *Controller) applyVirtualHosts(f *feed, d ads.Deliver) []ads.Rejection {
	s := c.vhostSources[f]
	if s == nil {
		return nil
	}
	b := &vhostBatch{src: s, version: d.Version, changed: map[string]*vhost{}, removed: map[string]bool{}, touched: map[string]bool{}}
	for i := range d.Changed {
		raw := &d.Changed[i]
		version := first(raw.Version, d.Version)
		b.touched[routesOf(raw.Name)] = true
		if old := s.have[raw.Name]; old != nil && old.is(raw) {
			c.forgetRejection(resource.VirtualHost, raw.Name)
			continue
		}
		dec, err := c.decode(resource.VirtualHost, raw)
		if err == nil && routesOf(raw.Name) == "" {
			err = errors.New("the name must be that of a route configuration, a slash and the host")
		}
		if err != nil {
			b.refuse(raw.Name, c.reject(resource.VirtualHost, raw.Name, version, raw, err))
			continue
		}
		b.changed[raw.Name] = &vhost{received: receivedOf(dec, raw, version), name: raw.Name, config: dec.Message.(*routev3.VirtualHost)}
	}
	for _, n := range d.Removed {
		b.removed[n], b.touched[routesOf(n)] = true, true
	}
	began := time.Now()
	for _, routes := range sortedKeys(s.uses) {
		u := s.uses[routes]
		if s.in && !b.touched[routes] {
			continue
		}
		before := len(b.rej)
		c.rebuildRoutes(u, b)
		switch {
		case len(b.rej) > before:
			u.counts.rejected(f.delta)
		case b.rejects(routes):
			u.counts.rejected(false) // Envoy's second attempt is for what it has decoded
		default:
			u.counts.accepted(d.Version, time.Since(began))
		}
	}
	s.in = true
	for n := range b.removed {
		delete(s.have, n)
		c.forget(resource.VirtualHost, n)
	}
	for n, v := range b.changed {
		s.have[n] = v
		c.accept(resource.VirtualHost, n, nil)
	}
	c.answerHosts(s, d)
	return b.rej
}

// answerHosts notes what a response says of hosts that requests may wait for: by their names, by their aliases, or that they are not there. One that
// was refused is still awaited.
func (c *Controller) answerHosts(s *vhostSource, d ads.Deliver) {
	for i := range d.Changed {
		raw := &d.Changed[i]
		if s.have[raw.Name] == nil {
			continue
		}
		c.hostAnswered(s, raw.Name, true)
		for _, n := range raw.Aliases {
			c.hostAnswered(s, n, true)
		}
	}
	for _, n := range d.Removed {
		c.hostAnswered(s, n, false)
	}
	for _, u := range s.uses {
		c.flushAnswers(u.r)
	}
}

func (b *vhostBatch) refuse(name string, lines []string) {
	for _, l := range lines {
		b.rej = append(b.rej, ads.Rejection{Name: name, Text: l})
	}
}

// rejects tells whether a virtual host of the route configuration was refused.
func (b *vhostBatch) rejects(routes string) bool {
	return slices.ContainsFunc(b.rej, func(r ads.Rejection) bool { return routesOf(r.Name) == routes })
}

// moves tells whether anything is left to change in a route configuration.
func (b *vhostBatch) moves(routes string) bool {
	for n := range b.changed {
		if routesOf(n) == routes {
			return true
		}
	}
	for n := range b.removed {
		if routesOf(n) == routes && b.src.have[n] != nil {
			return true
		}
	}
	return false
}

// candidates are the virtual hosts of a route configuration as they are to be: those that stay, then the new ones, so that of two which cannot be
// together the new one is at fault.
func (b *vhostBatch) candidates(routes string) []*vhost {
	stay := slices.DeleteFunc(b.src.of(routes), func(v *vhost) bool { return b.removed[v.name] || b.changed[v.name] != nil })
	for _, n := range sortedKeys(b.changed) {
		if routesOf(n) == routes {
			stay = append(stay, b.changed[n])
		}
	}
	return stay
}

// rebuildRoutes compiles the newest version of a route configuration with the virtual hosts of a batch and takes those out of the batch that are bad.
func (c *Controller) rebuildRoutes(u *vhostUse, b *vhostBatch) {
	r := u.r
	p := &pendingTable{r: r, vhds: u}
	switch {
	case r.next != nil && r.next.vhds == u:
		p.received, p.config = r.next.received, r.next.config
	case r.next == nil && r.vhds == u:
		p.received, p.config = r.received, r.config
	default:
		return // a newer version without them is on its way
	}
	rep := &registry.Report{}
	for range vhostRounds {
		t, bad, err := c.merge(p, b.candidates(r.name), rep)
		if err == nil {
			p.table = t
			break
		}
		for n, why := range bad {
			v := b.changed[n]
			if v == nil {
				continue
			}
			delete(b.changed, n)
			b.refuse(n, c.refuseVirtualHost(v, why))
		}
	}
	if p.table == nil { // whatever it is, what serves goes on
		for _, v := range b.candidates(r.name) {
			if b.changed[v.name] != nil {
				delete(b.changed, v.name)
				b.refuse(v.name, c.refuseVirtualHost(v, errors.New("cannot be together with the other virtual hosts of its route configuration")))
			}
		}
		for n := range b.removed {
			if routesOf(n) == r.name {
				delete(b.removed, n)
			}
		}
		return
	}
	if u.ready && !b.moves(r.name) {
		p.table.Release() // what was new is refused, or was there before
		return
	}
	c.virtualHostsIn(u)
	u.scope.Control().Inc(stats.VHDSConfigReload)
	c.offerTable(p)
}

// virtualHostsFailed counts a stream that ended.
func (c *Controller) virtualHostsFailed(f *feed) {
	if s := c.vhostSources[f]; s != nil {
		for _, u := range s.uses {
			u.counts.failed()
		}
	}
}

// shown is the newest version as dumps show it: as received, with the virtual hosts that came by themselves.
func (r *routeState) shown() *anypb.Any {
	n, u := r.newest(), r.vhds
	if r.next != nil {
		u = r.next.vhds
	}
	if u == nil {
		return n.any
	}
	rc := &routev3.RouteConfiguration{}
	if proto.Unmarshal(n.any.GetValue(), rc) != nil {
		return n.any
	}
	for _, v := range u.src.of(r.name) {
		rc.VirtualHosts = append(rc.VirtualHosts, v.config)
	}
	out, err := anypb.New(rc)
	if err != nil {
		return n.any
	}
	return out
}
