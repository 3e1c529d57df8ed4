// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// Bounds of one Advance: the rest waits for the next one, so that one busy connection cannot starve the others.
const (
	maxPerRun = 16      // pipelined requests
	maxMove   = 2 << 20 // body bytes in one direction
)

// Bounds of what is kept between requests.
const (
	arenaKeep = 16 << 10 // head arenas that grew over this are dropped
	replayCap = 64 << 10 // replay buffers that grew over this are dropped
	spareBufs = 32       // replay buffers kept by one worker
)

// AccessLogger writes records to the loggers that want them; implemented by the worker, which owns the buffers.
type AccessLogger interface {
	Log(loggers []*accesslog.Logger, r *accesslog.Record)
}

// Env is what the exchanges of one worker share. The worker makes one with NewEnv and changes Snap when it adopts a snapshot.
type Env struct {
	// Immutable
	L       *loop.Loop
	Up      *upstream.Manager
	Mux     *mux.Shared
	Shard   int          // the worker's stats shard: worker index + 1
	Logs    AccessLogger // may be nil
	LocalIP netip.Addr   // the node's address: what x-forwarded-for gets for a loopback peer, and mirrored requests
	// Ask takes a demand to the control side, whose answer comes by Answered; false when it cannot. It must not block. nil: there is nobody to ask.
	Ask func(filter.Demand) bool

	// Worker
	Snap *snapshot.Snapshot
	// FailHealth is /healthcheck/fail: every response says Connection: close.
	FailHealth bool
	// DrainClose, when set, is asked before each response whether a drain sequence (of the listener, of its filter chain or of the server) wants
	// the connection to close now.
	DrainClose func(l *snapshot.Listener, fc *snapshot.FilterChain) bool
	// Overloaded makes every response say Connection: close (disable_keepalive under memory pressure).
	Overloaded bool
	// Panicked counts exchanges that a contained panic ended.
	Panicked uint64

	servers   loop.Slab[Server]
	h2servers loop.Slab[h2Server]
	exchanges loop.Slab[Exchange]
	spare     *Exchange // prepared: the next HTTP/2 request goes there
	shadows   loop.Slab[shadow]
	chains    map[*snapshot.FilterChain]*chain
	clock     accesslog.Clock
	halves    map[*Server]http1.Decoder // of connections with a part of a head
	bufs      [][]byte
	demands   filter.Held[*Exchange]
	lastIP    netip.Addr // what ipText printed last, and its text
	lastText  []byte
}

// ipText returns the text of an address, until the next call. A request prints the address of its client more than once, and neighbours often have the same.
func (e *Env) ipText(a netip.Addr) []byte {
	if a != e.lastIP || len(e.lastText) == 0 {
		e.lastIP, e.lastText = a, sys.AppendIP(e.lastText[:0], a)
	}
	return e.lastText
}

// NewEnv makes the environment of one worker.
func NewEnv(l *loop.Loop, up *upstream.Manager, shard int, snap *snapshot.Snapshot) *Env {
	return &Env{L: l, Up: up, Mux: up.Mux, Shard: shard, Snap: snap, chains: map[*snapshot.FilterChain]*chain{},
		halves: map[*Server]http1.Decoder{}}
}

// Active is the number of requests in flight on this worker.
func (e *Env) Active() int {
	n := e.exchanges.Live()
	if e.spare != nil {
		n--
	}
	return n
}

// Connections is the number of HTTP connections of this worker.
func (e *Env) Connections() int { return e.servers.Live() + e.h2servers.Live() }

// chain is what the connections of one filter chain share on one worker, so that a connection needs one pointer for all of it.
type chain struct {
	env  *Env
	l    *snapshot.Listener
	fc   *snapshot.FilterChain
	h    *snapshot.HCM
	hcm  *stats.Block // stats.HCMDef
	lis  *stats.Block // stats.HCMListenerDef, nil when the listener counts nothing
	path pathOptions
	refs int

	logsLocal bool // a log format wants the upstream's local address
	logsHeads bool // a log format wants DOWNSTREAM_HEADER_BYTES_* or UPSTREAM_HEADER_BYTES_*
}

func (e *Env) chainOf(l *snapshot.Listener, fc *snapshot.FilterChain) *chain {
	ch := e.chains[fc]
	if ch == nil || ch.l != l {
		h := fc.HTTP
		ch = &chain{env: e, l: l, fc: fc, h: h, hcm: h.Scope.Block(e.Shard)}
		if h.ListenerScope != nil {
			ch.lis = h.ListenerScope.Block(e.Shard)
		}
		ch.path.Normalize, ch.path.MergeSlashes, ch.path.EscapedSlashes = h.NormalizePath, h.MergeSlashes, h.EscapedSlashes
		ch.path.StripFragment = !h.RejectFragment
		found := routerDiscovered(h) // its logs may want anything
		ch.logsLocal = logsAny(h.AccessLogs, localOperators) || logsAny(h.Router.UpstreamLogs, localOperators) || found
		ch.logsHeads = logsAny(h.AccessLogs, headOperators) || logsAny(h.Router.UpstreamLogs, headOperators) || found
		e.chains[fc] = ch
	}
	ch.refs++
	return ch
}

// routerDiscovered tells whether the router of a connection manager comes by itself.
func routerDiscovered(h *snapshot.HCM) bool {
	if n := len(h.Filters); n > 0 {
		d, ok := h.Filters[n-1].Config.(*filter.Dynamic)
		return ok && d.IsTerminal()
	}
	return false
}

func (ch *chain) release() {
	if ch.refs--; ch.refs == 0 && ch.env.chains[ch.fc] == ch {
		delete(ch.env.chains, ch.fc)
	}
}

// takeBuf lends an empty buffer for a body that has to be kept.
func (e *Env) takeBuf() []byte {
	if n := len(e.bufs); n > 0 {
		b := e.bufs[n-1]
		e.bufs[n-1] = nil
		e.bufs = e.bufs[:n-1]
		return b
	}
	return make([]byte, 0, 4<<10)
}

func (e *Env) giveBuf(b []byte) {
	if b != nil && cap(b) <= replayCap && len(e.bufs) < spareBufs {
		e.bufs = append(e.bufs, b[:0])
	}
}

// clockMillis turns a length into the milliseconds that histograms count.
func clockMillis(d sys.Nanos) uint64 {
	if d < 0 {
		return 0
	}
	return uint64(d / sys.Millisecond)
}
