// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls"
	"sidecar/internal/telemetry/stats"
)

// An idle connection can change its worker: Pack takes it out of the one, Unpack puts it into the other. In between it belongs to the message that
// carries it. The kernel keeps what the peer sends meanwhile and reports it when the socket is registered again. A TLS session goes along: after
// the handshake it needs nothing of its worker but the buffer pool.

// Movable tells whether nothing is in flight, in neither direction, and nothing has ended.
func (c *Conn) Movable() bool {
	if c.fd < 0 || c.f != nil || c.fl&^fTLS != 0 {
		return false
	}
	return c.fl&fTLS == 0 || c.x.sec.resting()
}

// resting tells whether the session is between two records.
func (x *secure) resting() bool {
	return x.sh == nil && x.raw == nil && x.early == nil && x.plain == 0 && !x.fresh && !x.bad && x.s.State() == tls.Open && x.s.Out == nil
}

// Pack takes a Movable connection out of its worker. Only Unpack and Abandon may follow.
func (c *Conn) Pack() {
	c.l.Detach(c.fd)
	c.l.Free(c.slot)
	c.l.DropScratch(c)
	c.owner, c.l = nil, nil
	if c.fl&fTLS != 0 {
		x := c.x.sec
		x.w, x.ssl = nil, nil
		x.s.SetEngine(nil)
	}
}

// Unpack puts a packed connection into the worker of l, for owner; w and ssl (stats.SSLDef, may be nil) are for one that speaks TLS. When the kernel does
// not take it, the connection is closed and Fill says Failed.
func (c *Conn) Unpack(l *loop.Loop, owner *loop.Task, w *TLS, ssl *stats.Block) {
	c.l, c.owner = l, owner
	if c.fl&fTLS != 0 {
		x := c.x.sec
		x.w, x.ssl = w, ssl
		x.s.SetEngine(&w.Engine)
	}
	token, e := l.Register(c.fd, c, interest)
	if e != 0 {
		c.Abandon(l.K)
		c.err = e
		return
	}
	c.slot = uint32(token)
}

// Abandon closes a packed connection that no worker takes any more.
func (c *Conn) Abandon(k sys.Kernel) {
	k.Close(c.fd)
	c.fl |= fClosed | fFailed
}
