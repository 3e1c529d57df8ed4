// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// speaksH2 reports whether the connection begins with the preface of HTTP/2.
func (c *backendConn) speaksH2() bool {
	yes := false
	c.await(func(got []byte) bool {
		n := min(len(got), len(http2.ClientPreface))
		yes = n == len(http2.ClientPreface) && string(got[:n]) == http2.ClientPreface
		return yes || n > 0 && !strings.HasPrefix(http2.ClientPreface, string(got[:n]))
	})
	return yes
}

func (c *backendConn) usesH2() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.h2 != nil
}

// renderHead shows the TLS session and what came over HTTP/2.
func (c *backendConn) renderHead(requests *int) (text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tls != nil {
		text = renderTLS(c.tls, true)
	}
	if c.h2 != nil {
		streams, units := c.h2.render()
		*requests += len(units)
		text += "HTTP/2\n" + streams
	}
	return text
}

// serveH2 answers every stream by the script, in the order of their heads, until the connection ends.
func (c *backendConn) serveH2() {
	c.b.mu.Lock()
	opt := c.b.h2
	c.b.mu.Unlock()
	e := newH2End(&c.mu, c.cond, deadlineWriter{c.c}, true, opt)
	e.wmu.Lock()
	c.mu.Lock()
	answer := e.feed(c.got[len(http2.ClientPreface):])
	c.h2 = e
	c.mu.Unlock()
	first, err := e.preface()
	if err == nil && !opt.NoPreface {
		e.write(append(first, answer...))
	}
	e.wmu.Unlock()
	var begun []uint32
	for {
		c.mu.Lock()
		var s *h2Stream
		for s == nil {
			for _, id := range e.ids {
				if e.streams[id].blocks > 0 && !slices.Contains(begun, id) {
					s = e.streams[id]
					break
				}
			}
			if s == nil && (c.end != "" || c.self) {
				c.mu.Unlock()
				return
			}
			if s == nil {
				c.cond.Wait()
			}
		}
		method := s.method
		c.mu.Unlock()
		begun = append(begun, s.id)
		c.b.mu.Lock()
		r := pick(c.b.http, c.b.served)
		c.b.served++
		c.b.mu.Unlock()
		if r == nil {
			r = &Reply{Status: 200, Body: c.b.name}
			if method == "HEAD" {
				r = &Reply{Status: 200, Headers: []string{"content-length: 2"}}
			}
		}
		go c.replyH2(s, r)
	}
}

// replyH2 plays one scripted answer on a stream.
func (c *backendConn) replyH2(s *h2Stream, r *Reply) {
	if !r.Early && !r.Tunnel && !c.awaitStream(s, func() bool { return s.ended }) {
		return
	}
	parts := append([]*Reply{r}, r.Then...)
	for i, part := range parts {
		time.Sleep(time.Duration(part.Delay))
		if part.Hang {
			return
		}
		if part.Tunnel {
			open := *part
			open.Open = true
			c.h2.send(h2Reply(&open, s.id, true)...)
			c.echoH2(s)
			return
		}
		if c.h2.send(h2Reply(part, s.id, i == len(parts)-1)...) != nil {
			c.h2.send(&Frame{Type: "HEADERS", Stream: s.id, Fields: []string{":status: 599", "x: broken case file"}, End: true})
			return
		}
		if part.Close != "" {
			c.shut(part.Close)
			return
		}
	}
}

// awaitStream blocks until ok() under the lock; it reports false when the stream or the connection ends before.
func (c *backendConn) awaitStream(s *h2Stream, ok func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() {
		if s.reset != "" || c.end != "" || c.self {
			return false
		}
		c.cond.Wait()
	}
	return true
}

// echoH2 sends the stream's DATA back until it ends.
func (c *backendConn) echoH2(s *h2Stream) {
	done := 0
	for c.awaitStream(s, func() bool { return len(s.body) > done || s.ended }) {
		c.mu.Lock()
		done = min(done, len(s.body)) // trailers end what was collected
		chunk, ended := string(s.body[done:]), s.ended
		done = len(s.body)
		c.mu.Unlock()
		c.h2.send(&Frame{Type: "DATA", Stream: s.id, Body: strings.ReplaceAll(chunk, `\`, `\\`), End: ended})
		if ended {
			return
		}
	}
}

// sendH2 sends a step's request or frames on an HTTP/2 connection.
func (run *groupRun) sendH2(cc *clientConn, s *Step) error {
	if len(s.Frames) > 0 {
		return cc.h2.send(s.Frames...)
	}
	if s.Req == "" {
		return nil
	}
	stream := s.Stream
	if stream == 0 {
		stream = cc.next
	}
	cc.next = stream + 2
	scheme := "http"
	if cc.tls != nil {
		scheme = "https"
	}
	expanded := *s
	expanded.Headers = slices.Clone(s.Headers)
	for i := range expanded.Headers {
		var err error
		if expanded.Headers[i], err = run.v.expand(expanded.Headers[i]); err != nil {
			return err
		}
	}
	frames, err := h2Request(&expanded, stream, scheme)
	if err != nil {
		return err
	}
	return cc.h2.send(frames...)
}

// awaitSeen waits until a backend shows a text.
func (run *groupRun) awaitSeen(s *Step) error {
	name, text, _ := strings.Cut(s.Seen, " ")
	for deadline := time.Now().Add(max(time.Duration(s.Timeout), defaultTimeout)); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if b := run.backends[name]; b != nil && strings.Contains(b.render(false), text) {
			break
		}
	}
	return nil
}

// writeFiles moves files with these contents into the scratch directory.
func (run *groupRun) writeFiles(files map[string]string) error {
	for _, name := range sortedKeys(files) {
		text, err := run.v.expand(files[name])
		if err != nil {
			return err
		}
		path := filepath.Join(run.v.dir, name)
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

// wireBytes lists the endings of statistics that count bytes of HTTP/2 in this case: how the two ends of such a connection compress heads and
// when they return windows is not part of the answer.
func (run *groupRun) wireBytes(c *Case, conns map[string]*clientConn) (suffixes []string) {
	for _, cc := range conns {
		if cc.h2 != nil || c.WireBytes {
			suffixes = append(suffixes, ".downstream_cx_rx_bytes_total", ".downstream_cx_tx_bytes_total")
			break
		}
	}
	for _, b := range run.backends {
		b.mu.Lock()
		list := b.conns
		b.mu.Unlock()
		for _, bc := range list {
			if bc.usesH2() || c.WireBytes {
				return append(suffixes, ".upstream_cx_rx_bytes_total", ".upstream_cx_tx_bytes_total")
			}
		}
	}
	return suffixes
}
