// SPDX-License-Identifier: Apache-2.0

// Package controller is the single writer of control state. Every input is an event on one queue: xDS events, DNS results, timers, admin calls.
// Its output is snapshots published to the data plane and answers to the control plane. It decodes and compiles resources, keeps the last good
// version of each, warms clusters and listeners, and builds the next snapshot at a cost that depends on what changed.
package controller

import (
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// queueMax bounds the events that wait; producers block beyond it (that is the flow control of xDS streams).
const queueMax = 1024

// coalesce is how long a change may wait for others before it is published.
const coalesce = time.Millisecond

// tickEvery is how often listeners that drain are looked at.
const tickEvery = time.Second

// rejectedMax bounds the refused resources that are remembered for dumps; of more, the oldest are forgotten.
const rejectedMax = 1024

// Plane is the data plane as the controller sees it; implemented by dataplane/fleet.
type Plane interface {
	// Prepare binds a listener's sockets now, or says why not.
	Prepare(l *snapshot.Listener) error
	// Discard gives back what Prepare bound for a listener that is not published.
	Discard(l *snapshot.Listener)
	Publish(s *snapshot.Snapshot)
	// Answer says that demands were answered: what was found is in the last snapshot.
	Answer(list []filter.Demand)
	// Adopted is the lowest epoch over all workers; Reap closes what no worker uses any more.
	Adopted() uint64
	Reap()
	// Start runs the workers: initialisation is over.
	Start()
}

// Logger takes operator messages; level is Envoy's name.
type Logger func(level, component, format string, args ...any)

// Config makes a Controller.
type Config struct {
	Bootstrap *bootstrap.Config
	Plane     Plane
	Stats     *stats.Registry
	Compile   Compilers
	Resolver  Resolver
	Workers   int
	Seed      uint64
	Log       Logger
	// Unknown says what unknown fields in dynamic resources mean.
	Unknown registry.UnknownFields
	// UnknownStatic is the same for static ones, where the bootstrap loader cannot see them: inside a TypedStruct.
	UnknownStatic registry.UnknownFields
	// ExplicitWildcard subscribes with "*".
	ExplicitWildcard bool
	// OnState is told when the init state changes.
	OnState func(State)
}

// State is the server's init state as /server_info and server.state show it.
type State uint8

// The states, in the order of their life; the numbers are Envoy's ServerInfo.State.
const (
	Live State = iota
	Draining
	PreInitializing
	Initializing
)

// Controller owns all control state. Run it on one goroutine; everything else talks to it by events.
type Controller struct {
	// Immutable
	cfg    Config
	schema *registry.Schema
	events chan func()
	stop   chan struct{}
	done   chan struct{}
	start  time.Time

	// Control
	in        *snapshot.Interner
	snap      *snapshot.Snapshot
	feeds     map[string]*feed
	clusters  map[string]*clusterState
	services  map[serviceKey]*serviceState // EDS
	listeners map[string]*listenerState
	order     []*listenerState // in order of first acceptance
	addresses map[addressKey]*addressOwner
	draining  []*drainingListener
	skipped   map[string]bool        // static clusters that were left out
	later     []*listenerVersion     // static listeners that ask for routes when the clusters are warm
	routes    map[string]*routeState // RDS

	vhostSources map[*feed]*vhostSource           // VHDS
	extensions   map[extensionKey]*extensionState // ECDS
	filters      map[string]*filterUse            // of extensions, by key
	places       map[string]*placeVersion         // of extensions, by user
	placeN       uint64                           // numbers users
	scopeSources map[*feed]*scopeSource           // SRDS
	scopes       map[string]*scopeSet             // scoped routes, by key
	uses         map[string]*use                  // who names a cluster
	secrets      map[secretKey]*secretState
	contents     map[resource.Hash]*secretContent // of secrets, each once
	fileUsers    map[string][]*secretState        // by path: the secrets that were read from it
	fileWatch    fileWatch
	expiry       expiry
	panicked     map[string]bool // panics whose stack was logged
	rejected     map[string]*Rejected
	warnings     map[string]*Warned
	dirty        dirt
	phase        initPhase
	state        State
	runtime      *match.Runtime
	values       RuntimeValues
	layers       []*runtimeLayer // RTDS
	cds, lds     *feed
	cdsIn        bool // the first CDS response was handled, or its fetch timed out
	ldsIn        bool

	clusterDemands     clusterDemands
	answers            []filter.Demand // for the workers, with the next snapshot
	cdsChanged         bool            // by the running batch
	fresh, freshTables []string        // names interned by the running event
	soonFns            []func()

	// Counts, so that no event looks at everything
	activeClusters, warmingClusters, awaitedClusters int
	activeListenerN, warmingListeners                int

	mgr  managers
	once sync.Once
}

type dirt struct {
	clusters  map[*route.ClusterRef]bool
	routes    map[*route.TableRef]*route.Table
	scopes    map[*route.ScopesRef]*route.Scopes
	listeners bool
	runtime   bool
}

func (d *dirt) any() bool {
	return len(d.clusters) > 0 || len(d.routes) > 0 || len(d.scopes) > 0 || d.listeners || d.runtime
}

// Rejected is one resource that was refused: what was wrong, since when, and the resource as received, for dumps.
type Rejected struct {
	Type    resource.Type
	Name    string
	Details []string
	Version string
	Since   time.Time // of the first refusal in a row
	Last    time.Time
	Any     *anypb.Any
}

// Warned is the advisory findings of one accepted resource.
type Warned struct {
	Type     resource.Type
	Name     string
	Findings []string
	Since    time.Time
}

// New prepares a controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, schema: cfg.Compile.Schema, events: make(chan func(), queueMax), stop: make(chan struct{}), done: make(chan struct{}),
		start: time.Now(), in: snapshot.NewInterner(), feeds: map[string]*feed{}, clusters: map[string]*clusterState{},
		services: map[serviceKey]*serviceState{}, listeners: map[string]*listenerState{}, routes: map[string]*routeState{},
		addresses: map[addressKey]*addressOwner{}, uses: map[string]*use{}, rejected: map[string]*Rejected{}, skipped: map[string]bool{}, warnings: map[string]*Warned{},
		values: RuntimeValues{Admin: map[string]string{}, RTDS: map[string]*structpb.Struct{}}, state: PreInitializing, secrets: map[secretKey]*secretState{}, contents: map[resource.Hash]*secretContent{},
		scopes: map[string]*scopeSet{}, scopeSources: map[*feed]*scopeSource{}, vhostSources: map[*feed]*vhostSource{}, extensions: map[extensionKey]*extensionState{}, filters: map[string]*filterUse{}, places: map[string]*placeVersion{}, fileUsers: map[string][]*secretState{}, panicked: map[string]bool{}}
	c.fileWatch.changed = func(paths []string) { c.Post(func() { c.filesChanged(paths) }) }
	if c.cfg.Log == nil {
		c.cfg.Log = func(string, string, string, ...any) {}
	}
	c.mgr.init(cfg.Stats)
	c.clean()
	return c
}

func (c *Controller) clean() {
	c.dirty = dirt{clusters: map[*route.ClusterRef]bool{}, routes: map[*route.TableRef]*route.Table{}, scopes: map[*route.ScopesRef]*route.Scopes{}}
}

// Interner is the table of refs; only the controller goroutine and compilers it calls may use it.
func (c *Controller) Interner() *snapshot.Interner { return c.in }

// Post queues fn to run on the controller goroutine; it blocks while the queue is full and does nothing after Close. Any goroutine.
func (c *Controller) Post(fn func()) {
	select {
	case c.events <- fn:
	case <-c.stop:
	}
}

// Call runs fn on the controller goroutine and waits; false means the controller is gone or did not answer in time.
func (c *Controller) Call(timeout time.Duration, fn func()) bool {
	ok := make(chan struct{})
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case c.events <- func() { fn(); close(ok) }:
	case <-c.stop:
		return false
	case <-t.C:
		return false
	}
	select {
	case <-ok:
		return true
	case <-c.done:
		return false
	case <-t.C:
		return false
	}
}

// After posts fn after d.
func (c *Controller) after(d time.Duration, fn func()) *time.Timer {
	return time.AfterFunc(d, func() { c.Post(fn) })
}

// Run is the controller's life. static is loaded first; an error there is fatal and returned before anything runs.
func (c *Controller) Run() {
	defer close(c.done)
	tick := time.NewTimer(tickEvery) // runs only while something has to be looked at: an idle process does not wake up
	defer tick.Stop()
	ticking := true
	for {
		select {
		case <-c.stop:
			c.closeFeeds()
			c.fileWatch.close()
			return
		case fn := <-c.events:
			fn()
			c.drain()
		case <-tick.C:
			ticking = false
			c.tick()
		}
		c.settleEvent()
		if !ticking && len(c.draining) > 0 {
			ticking = true
			tick.Reset(tickEvery)
		}
	}
}

// settleEvent does what waits for the end of an event: gathered requests, the next step of start-up, the next snapshot.
func (c *Controller) settleEvent() {
	c.runSoon()
	c.advanceInit()
	c.runSoon()
	c.sweepFresh()
	c.gauges()
	c.publish()
	c.answer()
}

// soon runs fn after the running event, before the next snapshot: for steps that must not happen inside a batch.
func (c *Controller) soon(fn func()) { c.soonFns = append(c.soonFns, fn) }

func (c *Controller) runSoon() {
	for len(c.soonFns) > 0 {
		fns := c.soonFns
		c.soonFns = nil
		for _, fn := range fns {
			fn()
		}
	}
}

// drain takes what else is queued, for at most the coalescing time, so that a burst becomes one snapshot.
func (c *Controller) drain() {
	end := time.Now().Add(coalesce)
	for n := 0; n < queueMax; n++ {
		select {
		case fn := <-c.events:
			fn()
		default:
			return
		}
		if time.Now().After(end) {
			return
		}
	}
}

// Close ends the controller and its streams.
func (c *Controller) Close() {
	c.once.Do(func() { close(c.stop) })
	<-c.done
}

func (c *Controller) tick() {
	now := c.now()
	for _, f := range c.feeds {
		f.step(ads.Tick{Now: now})
	}
	c.reapDraining(time.Now())
	c.cfg.Plane.Reap()
}

func (c *Controller) now() time.Duration { return time.Since(c.start) }

// publish builds and publishes a snapshot if anything changed. Cost: what changed.
func (c *Controller) publish() {
	if !c.dirty.any() {
		return
	}
	b := snapshot.NewBuilder(c.snap, c.in)
	// Rows that are gone first: another name may have their number by now.
	for ref := range c.dirty.clusters {
		if c.row(ref) == nil {
			c.retireHosts(ref, nil)
			b.SetCluster(ref, nil)
		}
	}
	for ref := range c.dirty.clusters {
		if row := c.row(ref); row != nil {
			c.retireHosts(ref, row)
			b.SetCluster(ref, row)
		}
	}
	for ref, t := range c.dirty.routes {
		if t == nil {
			b.SetTable(ref, nil)
		}
	}
	for ref, t := range c.dirty.routes {
		if t != nil {
			b.SetTable(ref, t)
		}
	}
	if len(c.dirty.scopes) > 0 {
		b.SetScopes(c.dirty.scopes)
	}
	if c.dirty.listeners {
		b.SetListeners(c.activeListeners())
	}
	if c.dirty.runtime || c.snap == nil {
		b.SetRuntime(c.runtime)
	}
	c.in.Publish()
	c.snap = b.Freeze()
	c.clean()
	c.cfg.Plane.Publish(c.snap)
}

// row is what snapshots hold for a ref, nil when the cluster is gone or warms for the first time.
func (c *Controller) row(ref *route.ClusterRef) *snapshot.Cluster {
	if s := c.clusters[ref.Name]; s != nil && s.active != nil && s.active.Ref == ref {
		return s.active
	}
	return nil
}

// retireHosts marks the hosts that the last snapshot had and the next has not.
func (c *Controller) retireHosts(ref *route.ClusterRef, next *snapshot.Cluster) {
	if c.snap == nil {
		return
	}
	old := c.snap.Cluster(ref)
	switch {
	case old == nil:
	case next == nil:
		hostset.Retire(old.Hosts, nil)
	default:
		hostset.Retire(old.Hosts, next.Hosts)
	}
}

func (c *Controller) activeListeners() []*snapshot.Listener {
	out := make([]*snapshot.Listener, 0, len(c.listeners))
	for _, s := range c.order {
		if s.active != nil {
			out = append(out, s.active.model)
		}
	}
	return out
}

// Epoch is the epoch of the last snapshot; control goroutine only.
func (c *Controller) Epoch() uint64 {
	if c.snap == nil {
		return 0
	}
	return c.snap.Epoch
}

// Snapshot is the last published snapshot; control goroutine only (use Call).
func (c *Controller) Snapshot() *snapshot.Snapshot { return c.snap }

// reject records a refused resource and returns the NACK lines.
func (c *Controller) reject(t resource.Type, name, version string, raw *ads.Raw, err error) []string {
	var lines []string
	for _, e := range resource.Errors(t, name, err) {
		lines = append(lines, e.Error())
	}
	c.record(t, name, version, raw, lines)
	return lines
}

func (c *Controller) record(t resource.Type, name, version string, raw *ads.Raw, lines []string) {
	key := t.String() + "/" + name
	now := time.Now()
	r := c.rejected[key]
	if r == nil {
		c.boundRejected()
		r = &Rejected{Type: t, Name: name, Since: now}
		c.rejected[key] = r
	}
	if !slices.Equal(r.Details, lines) {
		for _, l := range lines {
			c.cfg.Log("warning", "config", "rejected: %s", l)
		}
	}
	r.Details, r.Version, r.Last = lines, version, now
	if raw != nil {
		r.Any = &anypb.Any{TypeUrl: raw.TypeURL, Value: raw.Body}
	}
}

// boundRejected makes room for one more refused resource.
func (c *Controller) boundRejected() {
	if len(c.rejected) < rejectedMax {
		return
	}
	var oldest string
	for k, r := range c.rejected {
		if oldest == "" || r.Last.Before(c.rejected[oldest].Last) {
			oldest = k
		}
	}
	delete(c.rejected, oldest)
}

// accept forgets an earlier rejection and records warnings.
func (c *Controller) accept(t resource.Type, name string, rep *registry.Report) {
	key := t.String() + "/" + name
	delete(c.rejected, key)
	if rep == nil || len(rep.Warnings) == 0 {
		delete(c.warnings, key)
		return
	}
	w := &Warned{Type: t, Name: name, Since: time.Now()}
	for _, f := range rep.Warnings {
		w.Findings = append(w.Findings, f.String())
	}
	if rep.Dropped > 0 {
		w.Findings = append(w.Findings, fmt.Sprintf("and %d more", rep.Dropped))
	}
	if old := c.warnings[key]; old == nil {
		c.cfg.Log("info", "config", "%s %q: %d field(s) without effect, see /xds", t, name, len(w.Findings))
	} else {
		w.Since = old.Since
	}
	c.warnings[key] = w
}

func (c *Controller) forgetRejection(t resource.Type, name string) {
	delete(c.rejected, t.String()+"/"+name)
}

func (c *Controller) forget(t resource.Type, name string) {
	key := t.String() + "/" + name
	delete(c.rejected, key)
	delete(c.warnings, key)
}

func (c *Controller) unknown(static bool) registry.UnknownFields {
	if static {
		return c.cfg.UnknownStatic
	}
	return c.cfg.Unknown
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// gauges shows the counts. During start-up Envoy counts every cluster as active, warm or not.
func (c *Controller) gauges() {
	warming := c.warmingClusters
	active := c.activeClusters
	if c.phase < phaseListeners {
		active, warming = len(c.clusters), 0
	}
	c.mgr.cm.Set(stats.ClusterManagerActiveClusters, int64(active))
	c.mgr.cm.Set(stats.ClusterManagerWarmingClusters, int64(warming))
	c.mgr.lm.Set(stats.ListenerManagerTotalListenersActive, int64(c.activeListenerN))
	c.mgr.lm.Set(stats.ListenerManagerTotalListenersWarming, int64(c.warmingListeners))
	gone := 0
	for _, d := range c.draining {
		if !d.replaced {
			gone++
		}
	}
	c.mgr.lm.Set(stats.ListenerManagerTotalListenersDraining, int64(gone))
}
