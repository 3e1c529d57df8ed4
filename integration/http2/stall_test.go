// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// shakeTimeout is how long a handshake may take in these tests, and tooLate when it should have ended on any machine.
const (
	shakeTimeout = 300 * time.Millisecond
	tooLate      = 5 * time.Second
)

// firstFlight records what a client or a server sends first.
type firstFlight struct {
	net.Conn
	mu sync.Mutex
	b  bytes.Buffer
}

func (f *firstFlight) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.Write(p)
}

// hello is a ClientHello that a server takes.
func hello() []byte {
	near, far := net.Pipe()
	f := &firstFlight{Conn: near}
	_ = far.Close()
	_ = tls.Client(f, &tls.Config{ServerName: serverName}).Handshake()
	return f.b.Bytes()
}

// drip sends b an octet at a time until the connection ends.
func drip(c net.Conn, b []byte) {
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestHandshake_WhenAClientStallsOrTrickles_ThenItIsCutOffAndCounted(t *testing.T) {
	hello := hello()
	if len(hello) == 0 {
		t.Fatal("no ClientHello")
	}
	endless := []byte{22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff} // a ClientHello of 16 MiB, in records of 16 KiB
	endless = append(endless, make([]byte, 0x4000-4)...)
	for range 15 {
		endless = append(append(endless, 22, 3, 1, 0x40, 0), make([]byte, 0x4000)...)
	}
	file := filepath.Join(t.TempDir(), "access.log")
	var c config
	c.cluster("b", backend(t, nil), "", "")
	c.listener("h", "b", fmt.Sprintf("transport_socket_connect_timeout: %.1fs, ", shakeTimeout.Seconds())+downstreamTLS(true), "")
	c.listeners[0] = strings.Replace(c.listeners[0], "{", "{stat_prefix: h, "+lines(file, "%DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %CONNECTION_TERMINATION_DETAILS%")+" ", 1)
	p := start(t, c.String())
	friend := newNeighbour(t, p.Addr["h"], endTLS(t, "client", "http/1.1"))
	const timeout = "listener.h.downstream_cx_transport_socket_connect_timeout"
	for _, x := range []struct {
		name    string
		run     func(c net.Conn)
		counter string
		log     string
	}{
		{"says nothing", func(net.Conn) {}, timeout, "- transport socket timeout was reached"},
		{"stops inside the ClientHello", func(c net.Conn) { _, _ = c.Write(hello[:len(hello)/2]) }, timeout, "- transport socket timeout was reached"},
		{"trickles the ClientHello", func(c net.Conn) { drip(c, hello) }, timeout, "- transport socket timeout was reached"},
		{"stops behind the ClientHello", func(c net.Conn) { _, _ = c.Write(hello) }, timeout, "- transport socket timeout was reached"},
		{"sends a ClientHello without end", func(c net.Conn) { _, _ = c.Write(endless) }, "listener.h.ssl.connection_error", "TLS_error:"},
		{"sends garbage", func(c net.Conn) { _, _ = c.Write([]byte("EHLO mail.example\r\n")) }, "listener.h.ssl.connection_error", "TLS_error:"},
	} {
		t.Run(x.name, func(t *testing.T) {
			p.T, friend.t = t, t
			before := p.Stats()
			conn, err := net.Dial("tcp", p.Addr["h"])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			began := time.Now()
			_ = conn.SetDeadline(began.Add(tooLate))
			go x.run(conn)
			_, err = io.Copy(io.Discard, conn)
			if took := time.Since(began); timedOut(err) {
				t.Error("it was not cut off")
			} else if x.counter == timeout && took < shakeTimeout*9/10 {
				t.Errorf("it was cut off after %v", took)
			}
			p.Until(x.counter, func() bool { return p.Stats()[x.counter] == before[x.counter]+1 })
			_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
			if line := p.logged(file, port); !strings.Contains(line, x.log) {
				t.Errorf("the log says %q, want %q", line, x.log)
			}
			friend.asks()
		})
	}
	p.T = t
	p.Alive(t)
}

func TestHandshake_WhenAServerStallsOrTrickles_ThenConnectTimeoutEndsIt(t *testing.T) {
	stalls := map[string]func(c net.Conn){
		"says nothing":                func(net.Conn) {},
		"trickles what is no end":     func(c net.Conn) { drip(c, append([]byte{22, 3, 3, 0x10, 0, 2, 0, 0x0f, 0xfc}, make([]byte, 1000)...)) },
		"stops inside a ServerHello":  func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3}) },
		"sends warnings without end":  func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte{21, 3, 3, 0, 2, 1, 90}, 1000)) },
		"takes everything, says HTTP": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
	}
	file := filepath.Join(t.TempDir(), "access.log")
	var c config
	index := map[string]string{}
	for name, stall := range stalls {
		addr := serve(t, func(c net.Conn) { go stall(c); _, _ = io.Copy(io.Discard, c) })
		id := fmt.Sprintf("c%d", len(index))
		index[name] = id
		c.cluster(id, addr, upstreamTLS(), "")
		c.clusters[len(c.clusters)-1] = strings.Replace(c.clusters[len(c.clusters)-1], "connect_timeout: 2s", fmt.Sprintf("connect_timeout: %.1fs", shakeTimeout.Seconds()), 1)
		c.listener(id, id, "", lines(file, "%UPSTREAM_CLUSTER% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"))
	}
	c.cluster("good", backend(t, endTLS(t, "server", "http/1.1")), upstreamTLS(), "")
	c.listener("good", "good", "", "")
	p := start(t, c.String())
	friend := newNeighbour(t, p.Addr["good"], nil)
	for name, id := range index {
		t.Run(name, func(t *testing.T) {
			p.T, friend.t = t, t
			began := time.Now()
			resp, err := (&http.Client{Timeout: tooLate, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + p.Addr[id] + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			line := p.logged(file, id)
			counter, details := "cluster."+id+".upstream_cx_connect_timeout", "503 UF upstream_reset_before_response_started{connection_timeout"
			switch {
			case strings.HasPrefix(name, "takes"), strings.HasPrefix(name, "sends"): // no time needed
				counter, details = "cluster."+id+".ssl.connection_error", "503 UF upstream_reset_before_response_started{remote_connection_failure"
			case time.Since(began) < shakeTimeout*9/10:
				t.Errorf("it ended after %v", time.Since(began))
			}
			if resp.StatusCode != 503 || !strings.Contains(line, details) {
				t.Errorf("status %d, the log says %q, want %q", resp.StatusCode, line, details)
			}
			if n := p.Stats()[counter]; n != 1 {
				t.Errorf("%s is %d", counter, n)
			}
			friend.asks()
		})
	}
	p.T = t
	p.Alive(t)
}
