// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"

	"sidecar/internal/nettest"
)

// h2peer is the test's end of an HTTP/2 connection: frames by golang.org/x/net.
type h2peer struct {
	*peer
	fr      *nettest.Frames
	out, in *bytes.Buffer // what is to be sent, and what was received
}

func (r *rig) h2(p *peer, client bool) *h2peer {
	f := nettest.NewFrames(r.t, client)
	return &h2peer{p, f, &f.Out, &f.In}
}

// dialH2 opens a client connection that speaks HTTP/2.
func (r *rig) dialH2() *h2peer { return r.h2(r.dial(), true) }

// send writes the frames that were queued.
func (h *h2peer) send() { h.write(h.fr.Take()) }

func (h *h2peer) headers(id uint32, end bool, kv ...string) { h.fr.Headers(id, end, kv...) }
func (h *h2peer) get(id uint32, path string)                { h.fr.Get(id, path) }
func (h *h2peer) post(id uint32, path string, kv ...string) { h.fr.Post(id, path, kv...) }
func (h *h2peer) data(id uint32, s string, end bool)        { h.fr.Data(id, s, end) }

// frames reads what came and names it, one line a frame.
func (h *h2peer) frames() (string, bool) {
	text, eof := h.read()
	return h.fr.Names(text), eof
}

var increment = nettest.Increment
