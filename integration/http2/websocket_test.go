// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	xh2 "golang.org/x/net/http2"
)

// wsBytes is how much is echoed: less than a window, so that the ends need no flow control.
const wsBytes = 48 << 10

// tunnel is one end of a WebSocket: what it reads ends when the other end closes.
type tunnel interface {
	io.ReadWriteCloser
}

func TestWebSocket_WhenOverEveryPairOfCodecs_ThenEchoedAndClosedFromEitherSide(t *testing.T) {
	for _, down := range []string{"h1", "h2"} {
		for _, up := range []string{"h1", "h2"} {
			pair := down + "/" + up
			t.Run(pair, func(t *testing.T) {
				accepted := make(chan tunnel, 1)
				var c config
				if up == "h1" {
					c.cluster("b", wsServer(t, accepted, upgradeServer), "", "")
				} else {
					c.cluster("b", wsServer(t, accepted, connectServer), "", "{}")
				}
				hcm := "upgrade_configs: [{upgrade_type: websocket}],"
				if down == "h2" {
					hcm += "http2_protocol_options: {allow_connect: true},"
				}
				c.listener("h", "b", "", hcm)
				p := start(t, c.String())
				dial := map[string]func(*testing.T, string) tunnel{"h1": upgradeClient, "h2": connectClient}[down]
				for _, closer := range []string{"client", "server"} {
					a := dial(t, p.Addr["h"])
					b := take(t, accepted)
					exchange(t, a, b)
					exchange(t, b, a)
					if closer == "server" {
						a, b = b, a
					}
					_ = a.Close()
					if rest, err := io.ReadAll(b); len(rest) > 0 || timedOut(err) {
						t.Errorf("closed by the %s: %d bytes, %v", closer, len(rest), err)
					}
					_ = b.Close()
				}
				p.Until("no request is left", func() bool { return p.Stats()["http.h.downstream_rq_active"] == 0 })
				s := p.Stats()
				t.Logf("upgrades %d, resets rx %d tx %d", s["http.h.downstream_cx_upgrades_total"], s["http.h.downstream_rq_rx_reset"], s["http.h.downstream_rq_tx_reset"])
				if n := s["http.h.downstream_cx_upgrades_total"]; n != 2 {
					t.Errorf("downstream_cx_upgrades_total is %d", n)
				}
				if n := s["http.h.downstream_cx_upgrades_active"]; n != 0 {
					t.Errorf("downstream_cx_upgrades_active is %d", n)
				}
				p.Alive(t)
			})
		}
	}
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func take(t *testing.T, c chan tunnel) tunnel {
	t.Helper()
	select {
	case b := <-c:
		return b
	case <-time.After(patience):
		t.Fatal("no tunnel reached the backend")
		return nil
	}
}

// exchange sends random bytes from a to b and checks them.
func exchange(t *testing.T, a, b tunnel) {
	t.Helper()
	sent, got := make([]byte, wsBytes/2), make([]byte, wsBytes/2)
	_, _ = rand.Read(sent)
	go func() { _, _ = a.Write(sent) }()
	if _, err := io.ReadFull(b, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Fatal("other bytes came")
	}
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// wsAccept is the answer to a key (RFC 6455 section 4.2.2).
func wsAccept(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}

// wsServer accepts connections and hands out the tunnels that serve makes of them.
func wsServer(t *testing.T, accepted chan tunnel, serve func(net.Conn, chan tunnel) error) string {
	t.Helper()
	return accept(t, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(patience))
		_ = serve(c, accepted)
	})
}

// upgraded is a tunnel that is the connection itself.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }

func upgradeServer(c net.Conn, accepted chan tunnel) error {
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	if req.Method != "GET" || req.Header.Get("upgrade") != "websocket" || req.Header.Get("sec-websocket-version") != "13" {
		_, err := io.WriteString(c, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
		return err
	}
	_, err = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %s\r\n\r\n",
		wsAccept(req.Header.Get("sec-websocket-key")))
	accepted <- &upgraded{c, r}
	return err
}

func upgradeClient(t *testing.T, addr string) tunnel {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET /chat HTTP/1.1\r\nhost: a.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: %s\r\n\r\n", wsKey)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("upgrade") != "websocket" {
		t.Fatalf("status %d, %v", resp.StatusCode, resp.Header)
	}
	return &upgraded{c, r}
}

// carrier is one end of an HTTP/2 connection whose streams are tunnels.
type carrier struct {
	mu    sync.Mutex // frames are written by several goroutines
	f     *framer
	pipes map[uint32]*io.PipeWriter
	head  func(*carrier, *xh2.MetaHeadersFrame, *stream) // gets the first head of a stream
}

func newCarrier(c net.Conn, head func(*carrier, *xh2.MetaHeadersFrame, *stream)) *carrier {
	return &carrier{f: newFramer(c), pipes: map[uint32]*io.PipeWriter{}, head: head}
}

// write writes frames.
func (k *carrier) write(frames func(f *xh2.Framer) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return frames(k.f.Framer)
}

func (k *carrier) headers(id uint32, kv ...string) error {
	return k.write(func(*xh2.Framer) error { return k.f.headers(id, false, kv...) })
}

// serve reads frames until the connection ends.
func (k *carrier) serve() error {
	for {
		fr, err := k.f.ReadFrame()
		if err != nil {
			for id := range k.pipes {
				k.end(id, err)
			}
			return err
		}
		id := fr.Header().StreamID
		switch fr := fr.(type) {
		case *xh2.SettingsFrame:
			if !fr.IsAck() {
				_ = k.write((*xh2.Framer).WriteSettingsAck)
			}
		case *xh2.PingFrame:
			if !fr.IsAck() {
				_ = k.write(func(f *xh2.Framer) error { return f.WritePing(true, fr.Data) })
			}
		case *xh2.MetaHeadersFrame:
			if k.pipes[id] == nil {
				r, w := io.Pipe()
				k.pipes[id] = w
				k.head(k, fr, &stream{k, id, false, r})
			}
			if fr.StreamEnded() {
				k.end(id, io.EOF)
			}
		case *xh2.DataFrame:
			if w := k.pipes[id]; w != nil {
				_, _ = w.Write(fr.Data())
			}
			if fr.StreamEnded() {
				k.end(id, io.EOF)
			}
		case *xh2.RSTStreamFrame:
			k.end(id, fmt.Errorf("reset: %v", fr.ErrCode))
		}
	}
}

func (k *carrier) end(id uint32, err error) {
	if w := k.pipes[id]; w != nil {
		_ = w.CloseWithError(err)
	}
}

// stream is a tunnel that is a stream of a carrier. A client that is done resets it: its END_STREAM alone is nothing that Envoy tells an HTTP/1 server.
type stream struct {
	k      *carrier
	id     uint32
	resets bool
	*io.PipeReader
}

func (s *stream) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		chunk := rest[:min(len(rest), 10000)]
		rest = rest[len(chunk):]
		if err := s.k.write(func(f *xh2.Framer) error { return f.WriteData(s.id, false, chunk) }); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (s *stream) Close() error {
	return s.k.write(func(f *xh2.Framer) error {
		if s.resets {
			return f.WriteRSTStream(s.id, xh2.ErrCodeCancel)
		}
		return f.WriteData(s.id, true, nil)
	})
}

// connectServer takes extended CONNECT (RFC 8441).
func connectServer(c net.Conn, accepted chan tunnel) error {
	if _, err := io.ReadFull(c, make([]byte, len(xh2.ClientPreface))); err != nil {
		return err
	}
	k := newCarrier(c, func(k *carrier, h *xh2.MetaHeadersFrame, s *stream) {
		if h.PseudoValue("method") != "CONNECT" || h.PseudoValue("protocol") != "websocket" || h.PseudoValue("path") != "/chat" {
			_ = k.headers(h.StreamID, ":status", "400")
			return
		}
		_ = k.headers(h.StreamID, ":status", "200")
		accepted <- s
	})
	if err := k.write(func(f *xh2.Framer) error {
		return f.WriteSettings(xh2.Setting{ID: xh2.SettingEnableConnectProtocol, Val: 1})
	}); err != nil {
		return err
	}
	return k.serve()
}

// connectClient opens a tunnel with extended CONNECT.
func connectClient(t *testing.T, addr string) tunnel {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	heads := make(chan *xh2.MetaHeadersFrame, 1)
	opened := make(chan *stream, 1)
	k := newCarrier(c, func(_ *carrier, h *xh2.MetaHeadersFrame, s *stream) {
		s.resets = true
		heads <- h
		opened <- s
	})
	_, _ = io.WriteString(c, xh2.ClientPreface)
	_ = k.write(func(f *xh2.Framer) error { return f.WriteSettings() })
	go func() { _ = k.serve(); close(heads) }()
	err = k.headers(1, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a.test", ":path", "/chat", "sec-websocket-version", "13")
	if err != nil {
		t.Fatal(err)
	}
	h := <-heads
	if h == nil || h.PseudoValue("status") != "200" {
		t.Fatalf("answer %v", h)
	}
	return <-opened
}
