// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// sockets are WebSockets that stay open for the whole self-check: each sends a message, waits for its echo, and counts as cut when that does not come.
type sockets struct {
	clients []io.ReadWriteCloser
	close   func() // ends what the clients share
	done    chan struct{}
	wg      sync.WaitGroup
	echoed  atomic.Int64
	cut     atomic.Int64
	first   atomic.Pointer[string]
}

const (
	// messageEvery is how often each WebSocket sends.
	messageEvery = 5 * time.Millisecond

	// messageSize is the payload of a message in bytes; up to 125 need no extended length (RFC 6455 section 5.2).
	messageSize = 100

	// wsKey is the Sec-WebSocket-Key of every client: nothing here caches answers.
	wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

	// binaryFrame is the first octet of a message in one frame.
	binaryFrame = 0x82
)

// openSockets opens n WebSockets over HTTP/1.1 and n over one HTTP/2 connection (RFC 8441), and lets them talk until stop.
func openSockets(addr string, n int) (*sockets, error) {
	t := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr) // prior knowledge, without TLS
	}}
	s := &sockets{done: make(chan struct{}), close: t.CloseIdleConnections}
	for i := range 2 * n {
		open := upgrade
		if i >= n {
			open = func(addr string) (io.ReadWriteCloser, error) { return connect(t, addr) }
		}
		c, err := open(addr)
		if err != nil {
			s.stop()
			return nil, fmt.Errorf("WebSocket %d: %w", i+1, err)
		}
		s.clients = append(s.clients, c)
	}
	for i, c := range s.clients {
		s.wg.Go(func() { s.talk(i, c) })
	}
	return s, nil
}

// talk sends messages and compares what comes back.
func (s *sockets) talk(i int, c io.ReadWriteCloser) {
	out, in := make([]byte, messageSize), make([]byte, messageSize)
	for n := uint64(0); ; n++ {
		select {
		case <-s.done:
			return
		case <-time.After(messageEvery):
		}
		binary.BigEndian.PutUint64(out, n)
		late := time.AfterFunc(effectTimeout, func() { _ = c.Close() })
		err := writeFrame(c, out, true)
		if err == nil {
			err = readFrame(c, in)
		}
		if err == nil && !bytes.Equal(in, out) {
			err = errors.New("another message came back")
		}
		late.Stop()
		if err != nil {
			s.cut.Add(1)
			text := fmt.Sprintf("WebSocket %d after %d messages: %v", i+1, n, err)
			s.first.CompareAndSwap(nil, &text)
			return
		}
		s.echoed.Add(1)
	}
}

// stop ends the conversations, then the connections; counts do not change any more.
func (s *sockets) stop() {
	close(s.done)
	s.wg.Wait()
	for _, c := range s.clients {
		_ = c.Close()
	}
	s.close()
}

func (s *sockets) counts() (open int, echoed, cut int64, first string) {
	if p := s.first.Load(); p != nil {
		first = *p
	}
	return len(s.clients), s.echoed.Load(), s.cut.Load(), first
}

// writeFrame sends a message of at most 125 bytes in one frame. Clients mask what they send: here with zeros, which leave it as it is.
func writeFrame(w io.Writer, p []byte, masked bool) error {
	b := append(make([]byte, 0, 6+len(p)), binaryFrame, byte(len(p)))
	if masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0)
	}
	_, err := w.Write(append(b, p...))
	return err
}

// readFrame reads what writeFrame wrote, of len(p) bytes.
func readFrame(r io.Reader, p []byte) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if head[0] != binaryFrame || int(head[1]&0x7f) != len(p) {
		return fmt.Errorf("frame %x", head)
	}
	if head[1]&0x80 != 0 {
		var mask [4]byte
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return err
		}
	}
	_, err := io.ReadFull(r, p)
	return err
}

// wsAccept is the answer to a key (RFC 6455 section 4.2.2).
func wsAccept(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}

// upgraded is a WebSocket that has its connection for itself.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }

// upgrade opens a WebSocket over HTTP/1.1.
func upgrade(addr string) (io.ReadWriteCloser, error) {
	c, err := net.DialTimeout("tcp", addr, effectTimeout)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: demo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", wsKey)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err == nil && (resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != wsAccept(wsKey)) {
		err = fmt.Errorf("status %s, %v", resp.Status, resp.Header)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &upgraded{c, r}, nil
}

// streamed is a WebSocket that is a stream of an HTTP/2 connection.
type streamed struct {
	io.ReadCloser // the answer's body
	w             *io.PipeWriter
}

func (s *streamed) Write(p []byte) (int, error) { return s.w.Write(p) }

func (s *streamed) Close() error { return errors.Join(s.w.Close(), s.ReadCloser.Close()) }

// connect opens a WebSocket as a stream, by extended CONNECT.
func connect(t *http2.Transport, addr string) (io.ReadWriteCloser, error) {
	r, w := io.Pipe()
	req, err := http.NewRequest(http.MethodConnect, "http://"+addr+"/ws", r)
	if err != nil {
		return nil, err
	}
	req.Header[":protocol"] = []string{"websocket"}
	req.Header.Set("Sec-WebSocket-Version", "13")
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	s := &streamed{resp.Body, w}
	if resp.StatusCode != http.StatusOK {
		_ = s.Close()
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return s, nil
}

// echo is the application's side: a WebSocket whose messages come back until it is closed.
func echo(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "not a WebSocket", http.StatusBadRequest)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		wsAccept(r.Header.Get("Sec-WebSocket-Key")))
	for p := make([]byte, messageSize); err == nil; {
		if err = readFrame(rw, p); err == nil {
			err = writeFrame(c, p, false)
		}
	}
}
