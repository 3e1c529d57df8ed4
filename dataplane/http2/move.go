// SPDX-License-Identifier: Apache-2.0

package http2

// Resting tells whether nothing is under way: no stream, no frame that has come or left in part, nothing to send. Such a Conn may change its worker.
func (c *Conn) Resting() bool {
	return c.streams.count == 0 && c.phase == phFrame && c.have == 0 && c.block == nil && c.out == nil && c.fl&(cFailed|cInBlock|cSweep) == 0
}

// Pack takes the state of a Resting Conn out of its worker, for Unpack. c must not be used any more.
func (c *Conn) Pack() *Conn {
	p := new(Conn)
	*p = *c
	p.sh, p.counts = nil, nil
	p.dec.SetScratch(nil)
	*c = Conn{}
	return p
}

// Unpack makes c what p was, on the worker of sh.
func (c *Conn) Unpack(p *Conn, sh *Shared, counts *Counters) {
	*c = *p
	c.sh, c.counts = sh, counts
	c.dec.SetScratch(&sh.scratch)
}
