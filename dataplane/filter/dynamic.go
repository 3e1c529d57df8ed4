// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"sync/atomic"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// Dynamic is a filter whose configuration comes by itself (config_discovery). It is what snapshot.HTTPFilter.Config holds for it: the control side swaps
// the factory inside, so that a new configuration needs no new snapshot and drains no connection. An exchange keeps the factory that it began with.
// Use NewDynamic.
type Dynamic struct {
	// Immutable
	terminal bool

	// Atomic
	current atomic.Pointer[Factory]
}

// NewDynamic returns a Dynamic without a configuration; terminal: it stands at the end of its chain, for configurations that are Terminal.
func NewDynamic(terminal bool) *Dynamic {
	d := &Dynamic{terminal: terminal}
	d.Set(nil)
	return d
}

// Set puts a factory in force; nil takes the configuration away: requests are answered with 500 then. Control side.
func (d *Dynamic) Set(f Factory) {
	if f == nil {
		f = missing{}
	}
	d.current.Store(&f)
}

// Current is the factory in force, never nil. Any thread.
func (d *Dynamic) Current() Factory { return *d.current.Load() }

// IsTerminal tells whether it stands at the end of its chain.
func (d *Dynamic) IsTerminal() bool { return d.terminal }

// Terminal is the configuration of a discovered filter that ends the chain, which is no filter: the exchange takes Config, a *snapshot.Router, for what it
// does behind the filters, and makes no instance.
type Terminal struct{ Config any }

// Phases implements Factory.
func (Terminal) Phases() Phase { return 0 }

// New implements Factory.
func (Terminal) New(*Ctx) HTTP { return nil }

// missing stands for a configuration that is not there.
type missing struct{}

// Phases implements Factory.
func (missing) Phases() Phase { return RequestHead }

// New implements Factory.
func (missing) New(*Ctx) HTTP { return missing{} }

// OnHead implements HTTP.
func (missing) OnHead(c *Ctx, _ Dir, _ *httpmsg.Head, _ bool) Verdict {
	return c.SetReply(Local{Status: 500, Flags: fault.FlagNFCF})
}

// OnData implements HTTP.
func (missing) OnData(*Ctx, Dir, *Data, bool) Verdict { return Continue }

// OnTrailers implements HTTP.
func (missing) OnTrailers(*Ctx, Dir, *httpmsg.Fields) Verdict { return Continue }

// OnEvent implements HTTP.
func (missing) OnEvent(*Ctx, Event) Verdict { return Continue }

// OnDone implements HTTP.
func (missing) OnDone(*Ctx) {}
