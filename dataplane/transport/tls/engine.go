// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"iter"

	"sidecar/dataplane/buf"
	"sidecar/dataplane/identity"
)

// keepStacks bounds the idle coroutines that an engine keeps: their stacks have grown to what a handshake needs. Sequential handshakes use one.
const keepStacks = 16

// Engine is what the sessions of one worker share: coroutines, and which handshake runs. The zero value with Pool set is ready. It must be used on one
// thread, because a coroutine may only be resumed on the thread that made it.
type Engine struct {
	// Immutable
	Worker int       // index of the worker
	Pool   *buf.Pool // where output buffers come from

	// Worker
	idle    []*coro
	current *Session
	stacks  int // coroutines, idle ones included
	infos   map[identity.Session]*identity.Session
}

// keepInfos bounds the shared session records; beyond it sharing starts anew.
const keepInfos = 256

// intern returns the shared copy of i.
func (e *Engine) intern(i identity.Session) *identity.Session {
	if p := e.infos[i]; p != nil {
		return p
	}
	if e.infos == nil || len(e.infos) >= keepInfos {
		e.infos = map[identity.Session]*identity.Session{}
	}
	p := new(identity.Session)
	*p = i
	e.infos[i] = p
	return p
}

// Current is the session whose handshake runs; nil outside of one. It is how a callback of a tls.Config finds its connection.
func (e *Engine) Current() *Session { return e.current }

// Close ends the idle coroutines. Sessions must have been aborted or be past their handshake.
func (e *Engine) Close() {
	for _, c := range e.idle {
		c.stop()
		e.stacks--
	}
	e.idle = nil
}

// Stacks is the number of coroutines: those of handshakes under way and the idle ones.
func (e *Engine) Stacks() int { return e.stacks }

// signal is why a coroutine gave control back.
type signal uint8

const (
	sigRead signal = iota // it waits for a record
	sigSign               // it waits for a signature
	sigDone               // the handshake is over: Session.err tells how
)

// coro is a stack on which handshakes run, one after the other.
type coro struct {
	s     *Session // whose handshake is to run
	next  func() (signal, bool)
	stop  func()
	yield func(signal) bool
}

// loop runs one handshake for each time that it is resumed with a new session.
func (c *coro) loop(yield func(signal) bool) {
	c.yield = yield
	for {
		s := c.s
		c.s = nil
		s.err = s.conn.Handshake()
		if !yield(sigDone) {
			return
		}
	}
}

func (e *Engine) stack() *coro {
	if n := len(e.idle); n > 0 {
		c := e.idle[n-1]
		e.idle = e.idle[:n-1]
		return c
	}
	c := &coro{}
	c.next, c.stop = iter.Pull(c.loop)
	e.stacks++
	return c
}

func (e *Engine) putStack(c *coro) {
	if len(e.idle) < keepStacks {
		e.idle = append(e.idle, c)
		return
	}
	c.stop()
	e.stacks--
}

// resume runs the handshake of s until it waits or is over.
func (e *Engine) resume(s *Session) {
	c, was := s.co, e.current
	e.current = s
	defer func() {
		e.current = was
		if r := recover(); r != nil { // the stack is lost with the handshake
			e.stacks--
			s.co, s.job = nil, nil
			s.err = &PanicError{r}
			s.st = Failed
		}
	}()
	switch sig, _ := c.next(); sig {
	case sigRead:
		s.st = Shaking
	case sigSign:
		s.st = Signing
	case sigDone:
		s.co = nil
		e.putStack(c)
		s.shaken()
	}
}
