// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// maxHandshakeErrors ends a run in which nothing will come right any more.
	maxHandshakeErrors = 100
	// handshakeTimeout bounds one connection.
	handshakeTimeout = 10 * time.Second
)

// handshaker makes connections one after the other: handshake, one request, its whole answer, close.
type handshaker struct {
	o       options
	request []byte

	mu        sync.Mutex // Guards the rest: a goroutine per client takes it once per connection.
	hist      *histogram
	res       Result
	measuring bool
	ended     bool
}

// runHandshakes keeps -conns handshaking clients busy. Unlike the other clients they are goroutines and block: a handshake costs far more than that.
func runHandshakes(o options) error {
	runtime.GOMAXPROCS(1)
	h := &handshaker{o: o, request: httpRequest(o), hist: newHistogram()}
	var clients sync.WaitGroup
	for range o.conns {
		own := o.tls
		if o.resume {
			own.sessions = tls.NewLRUClientSessionCache(4)
		}
		c, err := own.config()
		if err != nil {
			return err
		}
		if c == nil {
			return errors.New("-tls is needed")
		}
		clients.Go(func() { h.run(c) })
	}
	if o.count == 0 {
		time.Sleep(o.warmup)
	}
	h.mu.Lock()
	h.measuring, h.res = true, Result{Errors: h.res.Errors}
	h.mu.Unlock()
	fmt.Println("start")
	opened := time.Now()
	if o.count == 0 {
		time.Sleep(o.duration)
	} else {
		clients.Wait()
	}
	h.mu.Lock()
	h.ended = true
	h.res.Seconds = time.Since(opened).Seconds()
	h.res.P50, h.res.P99, h.res.Max = h.hist.quantile(0.5), h.hist.quantile(0.99), float64(h.hist.max)
	defer h.mu.Unlock()
	return printJSON(h.res)
}

// run is one client. Until it has a session its handshakes are full; in the window a client that resumes never goes back to that.
func (h *handshaker) run(c *tls.Config) {
	for h.more() {
		begun := time.Now()
		n, resumed, err := h.once(c)
		h.mu.Lock()
		switch {
		case h.ended:
		case err != nil:
			h.res.fail(err)
		case h.measuring:
			if h.o.resume && !resumed && h.o.count == 0 {
				h.res.fail(errors.New("a session was not resumed"))
			}
			h.res.Requests++
			h.res.Bytes += int64(n)
			h.hist.add(time.Since(begun))
		}
		h.mu.Unlock()
	}
}

func (h *handshaker) more() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.ended && h.res.Errors < maxHandshakeErrors && (h.o.count == 0 || h.res.Requests < h.o.count)
}

func (h *handshaker) once(c *tls.Config) (n int, resumed bool, err error) {
	raw, err := net.DialTimeout("tcp", h.o.addr, handshakeTimeout)
	if err != nil {
		return 0, false, err
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return 0, false, err
	}
	tc := tls.Client(raw, c)
	if err := tc.Handshake(); err != nil {
		return 0, false, fmt.Errorf("handshake: %w", err)
	}
	if _, err := tc.Write(h.request); err != nil {
		return 0, false, err
	}
	k := conn{need: -1}
	var b [4 << 10]byte
	for k.need != 0 {
		m, err := tc.Read(b[:])
		if err != nil {
			return 0, false, err
		}
		if err := k.take(b[:m]); err != nil {
			return 0, false, err
		}
		n += m
	}
	return n, tc.ConnectionState().DidResume, tc.Close()
}
