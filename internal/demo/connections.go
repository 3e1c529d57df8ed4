// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"net"
	"sync/atomic"
)

// connections dials, and counts the connections that end although this side has not closed them.
type connections struct {
	opened atomic.Int64
	cut    atomic.Int64
}

func (k *connections) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	k.opened.Add(1)
	return &watched{Conn: c, of: k}, nil
}

// watched is one connection. Its reader always waits (both codecs of net/http read while idle), so that an end is seen at once.
type watched struct {
	net.Conn
	of   *connections
	over atomic.Bool // closed by this side, or counted
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && !w.over.Swap(true) {
		w.of.cut.Add(1)
	}
	return n, err
}

func (w *watched) Close() error {
	w.over.Store(true)
	return w.Conn.Close()
}
