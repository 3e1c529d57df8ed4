// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/snapshot"
)

// throughH2 is through with backends that speak HTTP/2, as golang.org/x/net does.
func throughH2(t *testing.T, change func(*snapshot.TCPProxy), serve http.HandlerFunc) *rig {
	r := through(t, "t.test:443", change)
	r.http2 = true
	h := r.backend(func(c *net.TCPConn) {
		(&xh2.Server{}).ServeConn(c, &xh2.ServeConnOpts{Handler: serve})
	})
	r.cluster("c", 1<<20, 10, h)
	r.start()
	return r
}

// echoStream answers CONNECT and sends back what comes.
func echoStream(w http.ResponseWriter, q *http.Request) {
	w.WriteHeader(200)
	_ = http.NewResponseController(w).Flush()
	b := make([]byte, 64<<10)
	for {
		n, err := q.Body.Read(b)
		_, _ = w.Write(b[:n])
		_ = http.NewResponseController(w).Flush()
		if err != nil {
			return
		}
	}
}

func TestStream_WhenOpened_ThenBytesGoBothWaysAndFINIsPassedOn(t *testing.T) {
	seen := make(chan string, 4)
	r := throughH2(t, nil, func(w http.ResponseWriter, q *http.Request) {
		seen <- q.Method + " " + q.Host + " " + q.URL.Path
		echoStream(w, q)
	})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB: beyond every window
	for range 3 {
		c := r.dial()
		go func() {
			_, _ = c.Write(big)
			_ = c.CloseWrite()
		}()
		if got := readAll(t, c); got != string(big) {
			t.Fatalf("%d of %d bytes came back", len(got), len(big))
		}
		if s := <-seen; s != "CONNECT t.test:443 " {
			t.Error(s)
		}
	}
	if got := r.log(1); !strings.HasPrefix(got, "TcpConnectionEnd - rx=4194304 tx=4194304 att=1") {
		t.Error(got)
	}
	r.idle()
}

func TestStream_WhenPost_ThenThePathIsAsked(t *testing.T) {
	seen := make(chan string, 1)
	r := throughH2(t, func(p *snapshot.TCPProxy) { p.Tunneling.PostPath = "/tunnel" }, func(w http.ResponseWriter, q *http.Request) {
		seen <- q.Method + " " + q.Host + " " + q.URL.Path
		echoStream(w, q)
	})
	c := r.dial()
	_, _ = io.WriteString(c, "hello")
	_ = c.CloseWrite()
	if got, s := readAll(t, c), <-seen; got != "hello" || s != "POST t.test:443 /tunnel" {
		t.Error(got, s)
	}
	r.idle()
}

func TestStream_WhenNot200_ThenRefused(t *testing.T) {
	for _, status := range []int{204, 403, 503} {
		r := throughH2(t, nil, func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(status) })
		if got := readAll(t, r.dial()); got != "" {
			t.Error(got)
		}
		if got := r.log(1); !strings.HasPrefix(got, "TcpConnectionEnd UF,URX rx=0 tx=0 att=1") || !strings.Contains(got, "fail=tunnel_response:"+strconv.Itoa(status)) {
			t.Error(got)
		}
		r.idle()
	}
}

func TestStream_WhenTheUpstreamEndsFirst_ThenTheClientMayFinish(t *testing.T) {
	got := make(chan string, 1)
	r := throughH2(t, nil, func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(200)
		_, _ = io.WriteString(w, "bye")
		_ = http.NewResponseController(w).Flush()
		b, _ := io.ReadAll(q.Body)
		got <- string(b)
	})
	c := r.dial()
	_, _ = io.ReadFull(c, make([]byte, 3))
	_, _ = io.WriteString(c, "more")
	_ = c.CloseWrite()
	if s := <-got; s != "more" {
		t.Error(s)
	}
	readAll(t, c)
	r.idle()
}

func TestStream_WhenReset_ThenTheOtherSideLearnsIt(t *testing.T) {
	got := make(chan error, 1)
	r := throughH2(t, nil, func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		b := make([]byte, 1)
		_, _ = io.ReadFull(q.Body, b)
		if b[0] == 'r' {
			panic(http.ErrAbortHandler)
		}
		_, err := io.ReadFull(q.Body, b)
		got <- err
	})
	c := r.dial()
	_, _ = io.WriteString(c, "r")
	if s := readAll(t, c); s != "<connection reset by peer>" {
		t.Errorf("client saw %q", s)
	}
	c = r.dial()
	_, _ = io.WriteString(c, "c")
	r.log(1)
	_ = c.SetLinger(0)
	c.Close()
	if err := <-got; err == nil {
		t.Error("the backend saw an end of its own")
	}
	r.idle()
}

func TestStream_WhenTheClientDoesNotRead_ThenTheBackendIsHeld(t *testing.T) {
	sent := make(chan int, 1)
	stop := make(chan struct{})
	r := throughH2(t, nil, func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(200)
		n := 0
		b := make([]byte, 64<<10)
		for {
			if _, err := w.Write(b); err != nil {
				break
			}
			n += len(b)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
		}
		sent <- n
	})
	c := r.dial()
	_ = c.SetReadBuffer(4 << 10)
	for last := -1; ; { // until nothing moves any more
		var held int
		r.call(func() { held = r.l.Bufs.Outstanding() })
		if held > 3<<20 {
			t.Fatalf("%d bytes are held", held)
		}
		if held > 0 && held == last {
			break
		}
		last = held
	}
	close(stop)
	_ = c.SetLinger(0)
	c.Close()
	<-sent
	r.idle()
}

func TestStream_WhenPostToHTTP1_ThenRefused(t *testing.T) {
	r := through(t, "t.test:443", func(p *snapshot.TCPProxy) { p.Tunneling.PostPath = "/" })
	r.cluster("c", 1<<20, 10, r.backend(func(c *net.TCPConn) { t.Error("connected") }))
	r.start()
	readAll(t, r.dial())
	if got := r.log(1); !strings.HasSuffix(got, "fail="+needsHTTP2) {
		t.Error(got)
	}
	r.empty()
}
