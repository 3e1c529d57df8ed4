// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// Splicing: bulk goes from socket to pipe to socket inside the kernel. A pipe is lent to a direction while bytes are in it and is empty whenever the
// source is read, so that EAGAIN always means an empty source and the end of input never overtakes bytes.
const (
	// spliceAfter is the burst (see half) from which on a direction is taken for bulk: small messages are cheaper to copy.
	spliceAfter = 64 << 10
	// pipeSize is how much one splice moves at most.
	pipeSize = 1 << 20
	// keepPipes bounds the idle pipes of one worker, maxPipes all of them: beyond it directions copy.
	keepPipes = 16
	maxPipes  = 256
)

// pipe is a kernel pipe; n is how many bytes are in it.
type pipe struct {
	r, w sys.FD
	n    int
	size int // how many bytes it takes
}

// pipes is the pipes of one worker.
type pipes struct {
	free []*pipe
	n    int // all, lent ones included
	dead bool
}

// get lends an empty pipe; nil when none can be had, which is final if the kernel refused.
func (p *pipes) get(k sys.Kernel) *pipe {
	if n := len(p.free); n > 0 {
		x := p.free[n-1]
		p.free = p.free[:n-1]
		return x
	}
	if p.dead || p.n >= maxPipes {
		return nil
	}
	r, w, e := k.Pipe(pipeSize)
	if e != 0 {
		p.dead = e != sys.EMFILE && e != sys.ENFILE
		return nil
	}
	p.n++
	return &pipe{r: r, w: w, size: pipeSize}
}

// put takes an empty pipe back.
func (p *pipes) put(k sys.Kernel, x *pipe) {
	if len(p.free) < keepPipes {
		p.free = append(p.free, x)
		return
	}
	p.close(k, x)
}

func (p *pipes) close(k sys.Kernel, x *pipe) {
	p.n--
	k.Close(x.r)
	k.Close(x.w)
}

// drop gives up a direction's pipe with what is in it; the tunnel is over.
func (p *pipes) drop(l *loop.Loop, h *half) {
	if h.pipe == nil {
		return
	}
	if h.pipe.n == 0 {
		p.put(l.K, h.pipe)
	} else {
		p.close(l.K, h.pipe)
	}
	h.pipe = nil
}

// Close closes the worker's idle pipes.
func (e *Env) Close() {
	for _, x := range e.pipes.free {
		e.pipes.close(e.L.K, x)
	}
	e.pipes.free = nil
}

// splices tells whether the next portion of a direction goes by splice: it is bulk, both ends are plain sockets, and nothing is queued in user space that it
// would overtake.
func (t *Tunnel) splices(h *half, from, to *conn.Conn) bool {
	if h.pipe != nil {
		return true
	}
	if !t.env.Splice || h.plain || from.Secure() || to.Secure() || from.Internal() || to.Internal() || h.burst < spliceAfter || len(from.In()) > 0 || to.Queued() > 0 {
		return false
	}
	if to.Settle(); to.Queued() > 0 {
		return false
	}
	h.pipe = t.env.pipes.get(t.env.L.K)
	return h.pipe != nil
}

// splice moves one portion through the direction's pipe.
func (t *Tunnel) splice(h *half, from, to *conn.Conn) (int, conn.Status) {
	p, k := h.pipe, t.env.L.K
	if p.n == 0 {
		if st := t.fill(h, from, to); p.n == 0 {
			t.env.pipes.put(k, p)
			h.pipe = nil
			return 0, st
		}
	}
	moved := 0
	for p.n > 0 {
		n, e := k.Splice(p.r, to.FD(), p.n)
		if n > 0 {
			p.n -= n
			moved += n
			to.BytesOut += uint64(n)
			continue
		}
		switch e {
		case sys.EINTR:
		case sys.EAGAIN:
			to.WantRoom()
			return moved, conn.Blocked
		case sys.EINVAL, sys.ENOSYS, sys.EPERM:
			h.plain = true
			return moved, t.unload(h, to)
		default:
			to.Fail(e)
			return moved, conn.Failed
		}
	}
	return moved, conn.More
}

// fill splices from the source into the empty pipe.
func (t *Tunnel) fill(h *half, from, to *conn.Conn) conn.Status {
	switch {
	case from.Broken():
		return conn.Failed
	case !from.MayRead():
		return conn.Blocked
	}
	p := h.pipe
	n, e := t.env.L.K.Splice(from.FD(), p.w, min(p.size, max(to.Room(), minRead)))
	switch {
	case e == sys.EAGAIN:
		from.SetReadable(false)
		return conn.Blocked
	case e == sys.EINTR:
		return conn.More
	case e == sys.EINVAL || e == sys.ENOSYS || e == sys.EPERM:
		h.plain = true
		return conn.More // nothing was taken; the next portion is copied
	case e != 0:
		from.Fail(e)
		return conn.Failed
	case n == 0:
		from.SetEOF()
		return conn.EOF
	}
	p.n = n
	h.count(n)
	from.BytesIn += uint64(n)
	return conn.More
}

// unload sends what is in the pipe by copying: the destination cannot be spliced to.
func (t *Tunnel) unload(h *half, to *conn.Conn) conn.Status {
	p, k := h.pipe, t.env.L.K
	b := t.env.L.Bufs.Get(p.n)
	defer func() { t.env.L.Bufs.Put(b) }()
	for p.n > 0 {
		n, e := k.ReadPipe(p.r, b[:p.n])
		if e != 0 || n == 0 {
			to.Fail(e)
			return conn.Failed
		}
		p.n -= n
		to.Send(b[:n], nil)
	}
	t.env.pipes.put(k, p)
	h.pipe = nil
	if to.Broken() {
		return conn.Failed
	}
	return conn.More
}
