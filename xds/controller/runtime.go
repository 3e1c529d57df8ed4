// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"maps"
	"time"

	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// RuntimeValues are the runtime values that are not in the bootstrap. Immutable once handed out.
type RuntimeValues struct {
	// Admin is the admin layer: what /runtime_modify set.
	Admin map[string]string
	// RTDS holds the values of the layers over xDS, by the layer's name; none until the first response.
	RTDS map[string]*structpb.Struct
}

// runtimeLayer is one layer over xDS (rtds_layer). It lives as long as the process.
type runtimeLayer struct {
	received
	name     string // of the layer
	resource string // of its resource
	feed     *feed
	counts   *subscription
	ready    bool // answered, or waited for in vain: start-up may go on
}

// newRuntime makes the next generation of runtime values.
func (c *Controller) newRuntime() {
	c.runtime = c.cfg.Compile.Runtime(c.Runtime())
	c.dirty.runtime = true
}

// SetRuntime changes the admin layer of the runtime (POST /runtime_modify): an empty value removes a key. The new generation is in the next
// snapshot. Any goroutine.
func (c *Controller) SetRuntime(values map[string]string) {
	values = maps.Clone(values)
	c.Post(func() {
		for k, v := range values {
			if v == "" {
				delete(c.values.Admin, k)
			} else {
				c.values.Admin[k] = v
			}
		}
		c.newRuntime()
	})
}

// Runtime is a copy of the values that are not in the bootstrap; control goroutine only (use Call).
func (c *Controller) Runtime() RuntimeValues {
	return RuntimeValues{Admin: maps.Clone(c.values.Admin), RTDS: maps.Clone(c.values.RTDS)}
}

// startRTDS subscribes the layers over xDS. Their statistics are all under "runtime.", as Envoy's.
func (c *Controller) startRTDS() {
	for i := range c.cfg.Bootstrap.Runtime {
		b := &c.cfg.Bootstrap.Runtime[i]
		if b.RTDS == nil {
			continue
		}
		f, err := c.feedFor(resource.Runtime, b.RTDS, "")
		if err != nil {
			c.cfg.Log("critical", "config", "layered_runtime: layer %q: %v", b.Name, err)
			continue
		}
		l := &runtimeLayer{name: b.Name, resource: b.Resource, feed: f, counts: c.mgr.subscription("runtime.", nil)}
		c.layers = append(c.layers, l)
		l.counts.attempt()
		f.subscribe(resource.Runtime, false, l.resource)
		c.initTimeout(b.RTDS, func() {
			if !l.ready {
				l.ready = true
				l.counts.timedOut()
			}
		})
	}
}

// runtimeReady tells whether every layer over xDS was answered or waited for in vain. The values are loaded once more then, as Envoy does.
func (c *Controller) runtimeReady() bool {
	for _, l := range c.layers {
		if !l.ready {
			return false
		}
	}
	if len(c.layers) > 0 {
		c.newRuntime()
	}
	return true
}

// applyRuntime handles one RTDS batch: layers that changed, and in the delta variant layers that are gone and have no values then.
func (c *Controller) applyRuntime(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for _, name := range d.Removed {
		c.clearLayer(f, name)
	}
	for i := range d.Changed {
		raw := &d.Changed[i]
		began := time.Now()
		version := first(raw.Version, d.Version)
		dec, err := c.decode(resource.Runtime, raw)
		name, known := raw.Name, false
		if err == nil {
			name = dec.Name
		}
		for _, l := range c.layers {
			if l.feed != f || l.resource != name {
				continue
			}
			known = true
			if l.ready = true; err != nil {
				l.counts.rejected(f.delta)
				continue
			}
			if l.any == nil || l.hash != dec.Hash {
				l.received = receivedOf(dec, raw, version)
				c.values.RTDS[l.name] = dec.Message.(*runtimev3.Runtime).GetLayer()
			}
			c.newRuntime() // Envoy loads, and counts, every response
			l.counts.accepted(d.Version, time.Since(began))
		}
		switch {
		case err != nil:
		case !known:
			err = fmt.Errorf("unexpected RTDS runtime %q", name)
		default:
			c.accept(resource.Runtime, name, nil)
			continue
		}
		for _, l := range c.reject(resource.Runtime, name, version, raw, err) {
			rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
		}
	}
	return rej
}

// clearLayer empties the layers of a resource that is gone or expired.
func (c *Controller) clearLayer(f *feed, name string) {
	for _, l := range c.layers {
		if l.feed != f || l.resource != name {
			continue
		}
		l.ready = true
		l.counts.inc(stats.SubscriptionUpdateSuccess)
		l.counts.attempt()
		if l.any != nil {
			l.received = received{}
			delete(c.values.RTDS, l.name)
			c.newRuntime()
		}
	}
}
