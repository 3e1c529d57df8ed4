// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// initPhase is how far start-up has come, in Envoy's order: static clusters, runtime layers, CDS and all clusters warm, then LDS and everything that listeners wait
// for, then the workers start.
type initPhase uint8

const (
	phaseStart     initPhase = iota
	phaseStatic              // static clusters are warming
	phaseRuntime             // runtime layers are subscribed
	phaseClusters            // CDS is subscribed
	phaseListeners           // LDS is subscribed
	phaseLive
)

// Static loads the static resources and the runtime. It must be called before Run; every error is returned, joined. A resource whose only faults are
// features that a later version brings (registry.ErrLater) is left out, with a warning and an entry among the rejections, so that a bootstrap
// written for all of Envoy starts and the rest of it works; everything else that is wrong is an error.
func (c *Controller) Static() error {
	b := c.cfg.Bootstrap
	c.newRuntime()
	var errs []error
	for i, s := range b.Proto.GetStaticResources().GetSecrets() {
		errs = append(errs, c.static(resource.Secret, fmt.Sprintf("static_resources.secrets[%d]", i), s, func(d *resource.Decoded) error {
			return c.staticSecret(d.Message.(*tlsv3.Secret), d.Hash)
		}))
	}
	for i, cl := range b.Clusters() {
		errs = append(errs, c.static(resource.Cluster, fmt.Sprintf("static_resources.clusters[%d]", i), cl, func(d *resource.Decoded) error {
			if c.clusters[d.Name] != nil {
				return fmt.Errorf("cluster manager: duplicate cluster '%s'", d.Name)
			}
			return c.addCluster(nil, d, nil, "")
		}))
	}
	for i, l := range b.Listeners() {
		errs = append(errs, c.static(resource.Listener, fmt.Sprintf("static_resources.listeners[%d]", i), l, func(d *resource.Decoded) error {
			if d.Name == "" {
				d.Name = fmt.Sprintf("unnamed-static-%d", i)
			}
			if c.listeners[d.Name] != nil {
				return fmt.Errorf("duplicate listener '%s'", d.Name)
			}
			return c.addListener(d, nil, "")
		}))
	}
	return errors.Join(errs...)
}

func (c *Controller) static(t resource.Type, at string, m proto.Message, add func(*resource.Decoded) error) error {
	d := &resource.Decoded{Type: t, Name: resource.Name(m), Hash: resource.HashOf(m), Message: proto.Clone(m)}
	err := registry.Validate(m, "")
	if err == nil {
		err = add(d)
	}
	if err == nil {
		return nil
	}
	var out []error
	later := true
	for _, leaf := range registry.Flatten(err) {
		later = later && errors.Is(leaf, registry.ErrLater)
		var fe *registry.FieldError
		if errors.As(leaf, &fe) {
			out = append(out, &registry.FieldError{Path: registry.Path(at).Join(fe.Path), Err: fe.Err})
			continue
		}
		out = append(out, &registry.FieldError{Path: registry.Path(at), Err: leaf})
	}
	if later {
		c.skip(t, d.Name, out)
		return nil
	}
	return errors.Join(out...)
}

// skip leaves a static resource out that needs what is not there yet.
func (c *Controller) skip(t resource.Type, name string, why []error) {
	lines := make([]string, len(why))
	for i, e := range why {
		lines[i] = e.Error()
	}
	c.cfg.Log("warning", "config", "static resource %q is left out: it needs %d thing(s) that wait for a later version", name, len(lines))
	if t == resource.Cluster {
		c.skipped[name] = true
	}
	c.record(t, name, "", nil, lines)
}

func (c *Controller) setState(s State) {
	if c.state == s {
		return
	}
	c.state = s
	if c.cfg.OnState != nil {
		c.cfg.OnState(s)
	}
}

// advanceInit moves start-up on as far as it can go.
func (c *Controller) advanceInit() {
	for {
		was := c.phase
		switch c.phase {
		case phaseStart:
			c.phase = phaseStatic
		case phaseStatic:
			if c.awaitedClusters == 0 {
				c.startRTDS()
				c.phase = phaseRuntime
			}
		case phaseRuntime:
			if c.runtimeReady() {
				c.startCDS()
				c.phase = phaseClusters
			}
		case phaseClusters:
			if (c.cds == nil || c.cdsIn) && c.awaitedClusters == 0 {
				c.setState(Initializing)
				c.phase = phaseListeners
				c.startLDS()
				c.subscribeStatic()
			}
		case phaseListeners:
			if (c.lds == nil || c.ldsIn) && c.warmingListeners == 0 {
				c.phase = phaseLive
				c.publish()
				c.cfg.Plane.Start()
				c.mgr.lm.Set(stats.ListenerManagerWorkersStarted, 1)
				c.setState(Live)
				c.cfg.Log("info", "main", "all dependencies initialized; workers started")
			}
		}
		if c.phase == was {
			return
		}
	}
}

func (c *Controller) startCDS() {
	src := c.cfg.Bootstrap.CDS
	if src == nil {
		return
	}
	f, err := c.feedFor(resource.Cluster, src, "")
	if err != nil {
		c.cfg.Log("critical", "config", "dynamic_resources.cds_config: %v", err)
		return
	}
	c.cds = f
	c.mgr.of(resource.Cluster).attempt()
	f.subscribe(resource.Cluster, true)
	c.initTimeout(src, func() {
		if !c.cdsIn {
			c.cdsIn = true
			c.mgr.of(resource.Cluster).timedOut()
		}
	})
}

func (c *Controller) startLDS() {
	src := c.cfg.Bootstrap.LDS
	if src == nil {
		return
	}
	f, err := c.feedFor(resource.Listener, src, "")
	if err != nil {
		c.cfg.Log("critical", "config", "dynamic_resources.lds_config: %v", err)
		return
	}
	c.lds = f
	c.mgr.of(resource.Listener).attempt()
	f.subscribe(resource.Listener, true)
	c.initTimeout(src, func() {
		if !c.ldsIn {
			c.ldsIn = true
			c.mgr.of(resource.Listener).timedOut()
		}
	})
}

func (c *Controller) initTimeout(src *bootstrap.Source, fn func()) {
	if d := src.InitialFetchTimeout; d > 0 {
		c.after(d, fn)
	}
}

// State is the init state; control goroutine only.
func (c *Controller) State() State { return c.state }

// Uptime is how long the controller exists.
func (c *Controller) Uptime() time.Duration { return time.Since(c.start) }
