// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/sys"
)

// What our PING frames carry; the peer sends it back.
const (
	pingKeepalive = 0x73696465_63617201
	pingProbe     = 0x73696465_63617202
)

// Deadline is when OnTime is to be called, 0 for never.
func (c *Conn) Deadline() sys.Nanos {
	at := c.settingsBy
	for _, t := range [...]sys.Nanos{c.pingAt, c.pongBy} {
		if at == 0 || t != 0 && t < at {
			at = t
		}
	}
	return at
}

// OnTime does what is due. It may end the connection: then Next says so, with no input too.
func (c *Conn) OnTime(now sys.Nanos) {
	c.now = now
	if c.settingsBy != 0 && now >= c.settingsBy {
		c.settingsBy = 0
		c.fail(CodeSettingsTimeout, fault.H2Timeout, CountSettingsTimeout)
	}
	if c.pongBy != 0 && now >= c.pongBy {
		if by := c.lastIn + c.o.KeepaliveTimeout; by > now { // bytes have come meanwhile: it lives, though its answer waits behind them
			c.pongBy = by
		} else {
			c.pongBy = 0
			c.fail(CodeNo, fault.H2Timeout, CountKeepaliveTimeout)
		}
	}
	if c.pingAt != 0 && now >= c.pingAt {
		c.keepalive()
		c.scheduleKeepalive()
	}
	if c.fl&cFailed != 0 {
		c.settingsBy, c.pingAt, c.pongBy = 0, 0, 0
	}
}

// scheduleKeepalive sets the time of the next PING: the interval and up to KeepaliveJitter percent of it.
func (c *Conn) scheduleKeepalive() {
	d := c.o.KeepaliveInterval
	if d <= 0 {
		return
	}
	if most := uint64(d) / 100 * uint64(c.o.KeepaliveJitter); most > 0 {
		d += sys.Nanos(c.rand() % most)
	}
	c.pingAt = c.now + d
}

// keepalive sends a PING and expects its answer in time, unless one is under way.
func (c *Conn) keepalive() {
	if c.fl&(cPinged|cFailed) != 0 {
		return
	}
	c.fl |= cPinged
	c.sendPing(pingKeepalive)
	if c.o.KeepaliveTimeout > 0 {
		c.pongBy = c.now + c.o.KeepaliveTimeout
	}
}

// checkIdle sends a PING in front of a stream that is opened after a long silence.
func (c *Conn) checkIdle() {
	if d := c.o.KeepaliveIdle; d > 0 && c.now-c.lastIn >= d {
		c.keepalive()
	}
}

func (c *Conn) sendPing(data uint64) {
	c.grow(frameHeader + 8)
	c.out = appendHeader(c.out, 8, ftPing, 0, 0)
	c.out = binary.BigEndian.AppendUint64(c.out, data)
	c.sent(ftPing)
}

// pong takes the answer to a PING. Answers to nothing are ignored.
func (c *Conn) pong() {
	switch binary.BigEndian.Uint64(c.part[:]) {
	case pingKeepalive:
		c.fl &^= cPinged
		c.pongBy = 0
	case pingProbe:
		if c.fl&cProbing != 0 {
			c.measured()
		}
	}
}
