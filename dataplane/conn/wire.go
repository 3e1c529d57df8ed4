// SPDX-License-Identifier: Apache-2.0

package conn

import "sidecar/dataplane/sys"

// The wire of a connection is its socket, or a pipe inside the process (see pipe.go). A socket costs one comparison.

// recvFrom is recv(2).
func (c *Conn) recvFrom(b []byte) (int, sys.Errno) {
	if c.fd < 0 {
		return c.x.pipe.recv(b)
	}
	return c.l.K.Recv(c.fd, b)
}

// sendTo sends a, then b, in one system call.
func (c *Conn) sendTo(a, b []byte) (int, sys.Errno) {
	switch {
	case c.fd < 0:
		return c.x.pipe.send(a, b)
	case b == nil:
		return c.l.K.Send(c.fd, a)
	}
	return c.l.K.Send2(c.fd, a, b)
}

// shutWire sends FIN.
func (c *Conn) shutWire() {
	if c.fd < 0 {
		c.x.pipe.shutdown()
		return
	}
	c.l.K.Shutdown(c.fd, true)
}

// closeWire closes, with rst by a reset.
func (c *Conn) closeWire(rst bool) {
	switch {
	case c.fd < 0:
		c.x.pipe.close(rst)
		return
	case rst:
		c.l.Free(c.slot)
		c.l.K.Reset(c.fd)
		return
	}
	c.l.Free(c.slot)
	c.l.K.Close(c.fd)
}

// connectResult is what became of a connect that was hung up.
func (c *Conn) connectResult() sys.Errno {
	if c.fd < 0 {
		return c.x.pipe.err
	}
	return c.l.K.ConnectResult(c.fd)
}
