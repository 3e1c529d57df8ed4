// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// driver is a small controller: it owns a session, decodes what comes, keeps it by name and follows clusters to endpoints and listeners to
// routes. It shows how session and runner go together.
type driver struct {
	t       *testing.T
	session *ads.Session
	runner  Runner
	events  chan ads.Event
	orders  chan func()
	quit    chan struct{}
	done    chan struct{}
	start   time.Time
	manual  bool // verdicts are given by the test
	// likeEnvoy asks for listeners when the first clusters are warm, withholds the CDS answer while clusters warm (from then on), and
	// drops the endpoints of clusters that are gone.
	likeEnvoy bool
	live      bool

	mu       sync.Mutex
	have     map[string]map[string]string // type URL -> name -> version (delta) or hash
	closed   int
	opened   int
	batches  int
	pending  []ads.Deliver
	lastErr  error
	rejected map[string]bool // names the driver refuses
}

func newDriver(t *testing.T, v ads.Variant, types ...string) *driver {
	d := &driver{
		t: t, events: make(chan ads.Event), orders: make(chan func()), quit: make(chan struct{}), done: make(chan struct{}),
		start: time.Now(), have: map[string]map[string]string{}, rejected: map[string]bool{},
	}
	cfg := ads.Config{Variant: v, Seed: 7}
	for _, u := range types {
		cfg.Types = append(cfg.Types, ads.TypeConfig{URL: u, FullState: u == resource.ClusterURL || u == resource.ListenerURL})
	}
	d.session = ads.New(cfg)
	return d
}

// clock is the time base of responses and ticks.
func (d *driver) clock() time.Duration { return time.Since(d.start) }

// sink is the Sink of the runner.
func (d *driver) sink(ev ads.Event) {
	select {
	case d.events <- ev:
	case <-d.quit:
	}
}

func (d *driver) run(r Runner, subscribe ...ads.Subscribe) {
	d.runner = r
	for _, s := range subscribe {
		d.session.Step(s, nil)
	}
	go func() {
		defer close(d.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		d.runner.Start()
		for {
			select {
			case ev := <-d.events:
				d.step(ev)
			case f := <-d.orders:
				f()
			case <-tick.C:
				d.step(ads.Tick{Now: d.clock()})
			case <-d.quit:
				return
			}
		}
	}()
	d.t.Cleanup(func() {
		close(d.quit)
		<-d.done
		r.Close()
	})
}

// order runs f on the driver's goroutine and waits for it.
func (d *driver) order(f func()) {
	d.t.Helper()
	done := make(chan struct{})
	select {
	case d.orders <- func() { f(); close(done) }:
		<-done
	case <-time.After(10 * time.Second):
		d.t.Fatal("driver is stuck")
	}
}

func (d *driver) step(ev ads.Event) {
	d.mu.Lock()
	switch e := ev.(type) {
	case ads.Opened:
		d.opened++
	case ads.Closed:
		d.closed++
		d.lastErr = e.Err
	}
	d.mu.Unlock()
	for _, a := range d.session.Step(ev, nil) {
		if r, ok := a.(ads.Reconnect); ok {
			r.After = min(r.After, 50*time.Millisecond) // tests are in a hurry
			a = r
		}
		d.runner.Do(a)
		if e, ok := a.(ads.Expired); ok {
			d.mu.Lock()
			delete(d.have[e.TypeURL], e.Name)
			d.mu.Unlock()
		}
		if del, ok := a.(ads.Deliver); ok {
			d.deliver(del)
		}
	}
}

func (d *driver) deliver(del ads.Deliver) {
	d.mu.Lock()
	d.batches++
	if d.manual {
		d.pending = append(d.pending, del)
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	d.step(d.apply(del))
}

func (d *driver) apply(del ads.Deliver) ads.Verdict {
	v := ads.Verdict{Batch: del.Batch}
	typ, _ := resource.TypeOf(del.TypeURL)
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.have[del.TypeURL]
	if m == nil {
		m = map[string]string{}
		d.have[del.TypeURL] = m
	}
	for _, n := range del.Removed {
		delete(m, n)
	}
	var eds, rds []string
	for i, raw := range del.Changed {
		dec, err := resource.Decode(typ, raw.TypeURL, raw.Body, resource.Options{})
		if err == nil && d.rejected[dec.Name] {
			err = fmt.Errorf("%s %q: refused by the test", typ, dec.Name)
		}
		if err != nil {
			for _, e := range resource.Errors(typ, raw.Name, err) {
				e.Index = i
				v.Rejected = append(v.Rejected, ads.Rejection{Name: raw.Name, Text: e.Error()})
			}
			continue
		}
		m[dec.Name] = fmt.Sprintf("%x", dec.Hash[:4])
		switch msg := dec.Message.(type) {
		case *clusterv3.Cluster:
			if n, ok := resource.EDSServiceName(msg); ok {
				eds = append(eds, n)
			}
		case *listenerv3.Listener:
			rds = append(rds, routeNames(msg)...)
		}
	}
	if d.likeEnvoy {
		d.follow(del, &v)
	}
	if len(eds) > 0 {
		d.session.Step(ads.Subscribe{TypeURL: resource.EndpointsURL, Names: eds}, nil)
	}
	if len(rds) > 0 {
		d.session.Step(ads.Subscribe{TypeURL: resource.RouteURL, Names: rds}, nil)
	}
	return v
}

// follow is what likeEnvoy adds. The caller holds mu.
func (d *driver) follow(del ads.Deliver, v *ads.Verdict) {
	if del.TypeURL == resource.ClusterURL && len(del.Removed) > 0 {
		d.session.Step(ads.Unsubscribe{TypeURL: resource.EndpointsURL, Names: del.Removed}, nil)
		for _, n := range del.Removed {
			delete(d.have[resource.EndpointsURL], n)
		}
	}
	cold := 0
	for n := range d.have[resource.ClusterURL] {
		if _, ok := d.have[resource.EndpointsURL][n]; !ok {
			cold++
		}
	}
	switch {
	case del.TypeURL == resource.ClusterURL:
		v.Hold = d.live && cold > 0
	case del.TypeURL == resource.EndpointsURL && cold == 0 && !d.live:
		d.live = true
		d.session.Step(ads.Subscribe{TypeURL: resource.ListenerURL, Wildcard: true}, nil)
	case del.TypeURL == resource.EndpointsURL && cold == 0:
		go d.orderLater(func() { d.step(ads.Release{TypeURL: resource.ClusterURL}) })
	}
}

// orderLater runs f on the driver's goroutine when it is free.
func (d *driver) orderLater(f func()) {
	select {
	case d.orders <- f:
	case <-d.quit:
	}
}

func routeNames(l *listenerv3.Listener) []string {
	var out []string
	for _, c := range l.GetFilterChains() {
		for _, f := range c.GetFilters() {
			var h hcmv3.HttpConnectionManager
			if f.GetTypedConfig().UnmarshalTo(&h) == nil && h.GetRds() != nil {
				out = append(out, h.GetRds().GetRouteConfigName())
			}
		}
	}
	return out
}

// names returns what is held of a type.
func (d *driver) names(url string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.have[url]))
}

func (d *driver) counts() (opened, closed, batches int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened, d.closed, d.batches
}

// eventually polls cond for up to ten seconds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func stream(t *testing.T, d *driver, cfg StreamConfig) *Stream {
	t.Helper()
	cfg.Sink, cfg.Clock = d.sink, d.clock
	cfg.Node = &corev3.Node{Id: "n1", Cluster: "c1"}
	s, err := NewStream(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tcpTarget(addr string) []*Target {
	return []*Target{{Name: "xds", Endpoints: []Endpoint{{Network: "tcp", Address: addr}}, Authority: "xds", ConnectTimeout: time.Second}}
}

func unixTarget(path string) *Target {
	return &Target{Name: "xds", Endpoints: []Endpoint{{Network: "unix", Address: path}}, Authority: "xds", ConnectTimeout: time.Second}
}

var everything = []ads.Subscribe{{TypeURL: resource.ClusterURL, Wildcard: true}, {TypeURL: resource.ListenerURL, Wildcard: true}}
