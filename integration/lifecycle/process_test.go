// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"sidecar/integration/proc"
)

func TestMain(m *testing.M) { proc.Run(m, nil) }

const patience = proc.Patience

// proxy is one running process.
type proxy struct{ *proc.Proxy }

// start runs the program until it is live.
func start(t *testing.T, config string, args ...string) *proxy {
	t.Helper()
	return &proxy{proc.Start(t, config, args...)}
}

// get is an admin request that is answered.
func (p *proxy) get(path string) string {
	p.T.Helper()
	s := p.Get(path)
	if s == "" {
		p.T.Fatalf("GET %s: no answer", path)
	}
	return s
}

// client is one HTTP/1.1 connection.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (p *proxy) dial(name string) *client {
	p.T.Helper()
	c, err := net.Dial("tcp", p.Addr[name])
	if err != nil {
		p.T.Fatalf("%s: %v", name, err)
	}
	p.T.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{p.T, c, bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.c, s); err != nil {
		c.t.Fatal(err)
	}
}

const request = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"

// answer reads a response; closes tells whether it announced the end of the connection.
func (c *client) answer() (body string, closes bool, err error) {
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return "", false, err
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.Close, err
}

// want asks for / and checks the answer.
func (c *client) want(body string, closes bool) {
	c.t.Helper()
	c.send(request)
	c.answered(body, closes)
}

func (c *client) answered(body string, closes bool) {
	c.t.Helper()
	got, cl, err := c.answer()
	if err != nil || got != body || cl != closes {
		c.t.Fatalf("answer %q, close %v, error %v; want %q, close %v", got, cl, err, body, closes)
	}
}

// eof waits for the end of the connection, which must come without a byte and without a reset.
func (c *client) eof() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		c.t.Fatalf("byte %q, error %v; want the end of the connection", b, err)
	}
}

// refused tells whether the listener takes no connections any more.
func (p *proxy) refused(name string) bool {
	c, err := net.DialTimeout("tcp", p.Addr[name], 50*time.Millisecond) // a socket about to close drops what opens connections
	if err == nil {
		c.Close()
	}
	return err != nil
}

// backend is an HTTP server whose answers can be held back.
type backend struct {
	addr string
	hold chan struct{} // nil answers at once; else one receive for each request
	seen chan struct{} // gets one value for each request
}

func newBackend(t *testing.T, hold bool) *backend {
	t.Helper()
	b := &backend{seen: make(chan struct{}, 1<<16)}
	if hold {
		b.hold = make(chan struct{})
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case b.seen <- struct{}{}:
		default:
		}
		if b.hold != nil {
			select {
			case <-b.hold:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "hello")
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return b
}

// newEcho is a TCP server that sends back what it gets; with an HTTP/1.1 upgrade first if the connection begins with one.
func newEcho(t *testing.T, upgrade bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				if upgrade {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
				}
				_, _ = io.Copy(c, r)
			}()
		}
	}()
	return ln.Addr().String()
}

func newClient(t *testing.T, c net.Conn) *client { return &client{t, c, bufio.NewReader(c)} }
