// SPDX-License-Identifier: Apache-2.0

package http2

// growth measures what the connection carries in one round trip and widens our receive windows to a multiple of that, up to the options' limits. It counts
// consumed bytes: a peer that sends into a full buffer gets no wider window for it.
//
// A measurement is one PING, sent when a window update is due, so that it costs nothing while little is received. At that time half a window is used up, and a
// peer that the window holds back sends the other half, no more, until the answer: so a third of a window is a sign that it is too small, and four times the measured
// bytes make it twice as large. A measurement that changes nothing puts off the next, each time for twice as many window updates.
type growth struct {
	bytes int64 // consumed since the PING
	wait  uint8 // window updates until the next measurement
	step  uint8 // measurements in a row that changed nothing
}

// growthFactor is how many times the bytes of a round trip since a window update fit into the window that they ask for.
const growthFactor = 4

// maxGrowthStep bounds how far measurements are put off: 1<<maxGrowthStep window updates.
const maxGrowthStep = 6

// measure starts a measurement if one is due.
func (c *Conn) measure() {
	if c.fl&(cProbing|cFailed) != 0 || c.ourWindow >= c.o.MaxStreamWindow && c.recvSize >= c.o.MaxConnWindow {
		return
	}
	if c.growth.wait > 0 {
		c.growth.wait--
		return
	}
	c.fl |= cProbing
	c.growth.bytes = 0
	c.sendPing(pingProbe)
}

// measured ends a measurement.
func (c *Conn) measured() {
	c.fl &^= cProbing
	g := &c.growth
	size := growthFactor * g.bytes
	grown := false
	if 3*g.bytes >= int64(c.ourWindow) && c.ourWindow < c.o.MaxStreamWindow {
		grown = c.widenStreams(int32(min(size, int64(c.o.MaxStreamWindow))))
	}
	if 3*g.bytes >= int64(c.recvSize) && c.recvSize < c.o.MaxConnWindow {
		if d := int32(min(size, int64(c.o.MaxConnWindow))) - c.recvSize; d > 0 {
			c.recvSize += d
			c.recvWin += d
			c.windowUpdate(0, d)
			grown = true
		}
	}
	if grown {
		g.step, g.wait = 0, 0
		return
	}
	g.step = min(g.step+1, maxGrowthStep)
	g.wait = 1 << g.step
}

// widenStreams sets SETTINGS_INITIAL_WINDOW_SIZE to size, which widens the window of every stream, old and new (RFC 9113 section 6.9.2).
func (c *Conn) widenStreams(size int32) bool {
	d := size - c.ourWindow
	if d <= 0 {
		return false
	}
	c.ourWindow = size
	for s := c.streams.oldest; s != nil; s = s.newer {
		s.recvWin += d
		s.recvSize += d
	}
	c.grow(frameHeader + 6)
	c.out = appendHeader(c.out, 6, ftSettings, 0, 0)
	c.appendSetting(setInitialWindowSize, uint32(size))
	c.sent(ftSettings)
	return true
}
