// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	"sidecar/dataplane/fault"
)

// newSettings is a SETTINGS frame under way. It takes effect as a whole, so that it does not matter how it arrives.
type newSettings struct {
	table, streams, window uint32
	has                    uint8 // 1, 2, 4: which of them
	connect                bool
}

// beginSettings: RFC 9113 section 6.5.
func (c *Conn) beginSettings(ev *Event) bool {
	h := &c.h
	switch {
	case h.id != 0:
		return c.protocolError()
	case h.flags&flagAck != 0:
		if h.length != 0 {
			c.fail(CodeFrameSize, fault.H2Protocol, CountProtocolError)
			return false
		}
		c.settingsAcked()
		c.phase = phFrame
		return false
	case h.length%6 != 0:
		c.fail(CodeFrameSize, fault.H2Protocol, CountProtocolError)
		return false
	case h.length > 6*maxSettings:
		c.fail(CodeEnhanceYourCalm, fault.H2Flood, CountSettingsFlood)
		return false
	}
	c.news = newSettings{connect: c.fl&cConnect != 0}
	c.phase, c.need = phSettings, 6
	if h.length == 0 {
		return c.applySettings(ev)
	}
	return false
}

// setting takes one entry.
func (c *Conn) setting(ev *Event) bool {
	v := binary.BigEndian.Uint32(c.part[2:])
	n := &c.news
	switch settingID(binary.BigEndian.Uint16(c.part[:])) {
	case setHeaderTableSize:
		n.table, n.has = v, n.has|1
	case setEnablePush:
		if v > 1 || v == 1 && c.role == Client { // section 6.5.2
			return c.protocolError()
		}
	case setMaxConcurrentStreams:
		n.streams, n.has = v, n.has|2
	case setInitialWindowSize:
		if v > maxWindow {
			c.fail(CodeFlowControl, fault.H2Protocol, CountProtocolError)
			return false
		}
		n.window, n.has = v, n.has|4
	case setMaxFrameSize: // we never send more than the least
		if v < maxFrame || v > 1<<24-1 {
			return c.protocolError()
		}
	case setEnableConnect: // RFC 8441 section 3
		if v > 1 || v == 0 && n.connect {
			return c.protocolError()
		}
		n.connect = v == 1
	}
	if c.left == 0 {
		return c.applySettings(ev)
	}
	return false
}

func (c *Conn) applySettings(ev *Event) bool {
	n := &c.news
	c.phase = phFrame
	if n.has&1 != 0 {
		c.enc.SetPeerTable(n.table)
	}
	if n.has&2 != 0 {
		c.peerMax = n.streams
	}
	if n.connect {
		c.fl |= cConnect
	}
	walk := n.has&4 != 0 && int32(n.window) != c.peerWindow && c.streams.count >= manyStreams
	if n.has&4 != 0 && !c.resizeStreams(int32(n.window)) {
		c.fail(CodeFlowControl, fault.H2Protocol, CountProtocolError)
		return false
	}
	c.grow(frameHeader)
	c.out = appendHeader(c.out, 0, ftSettings, flagAck, 0)
	c.sent(ftSettings)
	if c.role == Server && !walk {
		return false
	}
	ev.Kind = EventSettings
	return true
}

// resizeStreams applies the peer's SETTINGS_INITIAL_WINDOW_SIZE to all streams (section 6.9.2): windows may become negative, but not too large.
func (c *Conn) resizeStreams(window int32) bool {
	d := int64(window) - int64(c.peerWindow)
	if d == 0 {
		return true
	}
	c.peerWindow = window
	for s := c.streams.oldest; s != nil; s = s.newer {
		w := int64(s.sendWin) + d
		if w > maxWindow {
			return false
		}
		s.sendWin = int32(w)
		c.want(s)
	}
	return true
}

// settingsAcked: what our SETTINGS ask for is in force (section 6.5.3).
func (c *Conn) settingsAcked() {
	if c.fl&cUnacked == 0 {
		return
	}
	c.fl &^= cUnacked
	c.settingsBy = 0
	c.dec.SetMaxTable(c.o.HpackTableSize)
}

// sendSettings sends the first SETTINGS frame.
func (c *Conn) sendSettings() {
	o := c.o
	at := len(c.out)
	c.out = appendHeader(c.out, 0, ftSettings, 0, 0)
	if o.HpackTableSize != 4096 {
		c.appendSetting(setHeaderTableSize, o.HpackTableSize)
	}
	if c.role == Client {
		c.appendSetting(setEnablePush, 0)
	} else {
		c.appendSetting(setMaxConcurrentStreams, o.MaxConcurrentStreams)
		if o.AllowConnect {
			c.appendSetting(setEnableConnect, 1)
		}
	}
	if o.StreamWindow != initialWindow {
		c.appendSetting(setInitialWindowSize, uint32(o.StreamWindow))
	}
	putLength(c.out[at:], len(c.out)-at-frameHeader)
	c.sent(ftSettings)
}

func (c *Conn) appendSetting(id settingID, v uint32) {
	c.out = append(c.out, byte(id>>8), byte(id), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
