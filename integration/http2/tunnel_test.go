// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Tunnels of every kind over every pair of codecs, from plain and TLS listeners whose codec is found by preface and by ALPN.

// echoHTTP1 is a backend that takes every Upgrade and CONNECT and sends back what comes.
func echoHTTP1(t *testing.T) string {
	return serve(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		key := req.Header.Get("Sec-Websocket-Key")
		switch {
		case req.Method == http.MethodConnect:
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		case key == "" || req.Header.Get("Upgrade") != "websocket":
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
			return
		default:
			_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %s\r\n\r\n", wsAccept(key))
		}
		_, _ = io.Copy(c, in)
	})
}

// echoRaw sends back what comes.
func echoRaw(t *testing.T) string { return serve(t, func(c net.Conn) { _, _ = io.Copy(c, c) }) }

// echoHTTP2 is echoHTTP1 over HTTP/2.
func echoHTTP2(t *testing.T) string {
	return serve(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(xh2.ClientPreface))); err != nil {
			return
		}
		f := newFramer(c)
		_ = f.WriteSettings(xh2.Setting{ID: xh2.SettingEnableConnectProtocol, Val: 1})
		for {
			switch fr := f.next().(type) {
			case nil:
				return
			case *xh2.MetaHeadersFrame:
				if fr.PseudoValue("method") != http.MethodConnect {
					_ = f.headers(fr.StreamID, true, ":status", "400")
					continue
				}
				_ = f.headers(fr.StreamID, false, ":status", "200")
			case *xh2.DataFrame:
				_ = f.WriteData(fr.StreamID, fr.StreamEnded(), fr.Data())
			}
		}
	})
}

// serve runs a backend; each connection is closed when f returns.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	return accept(t, func(c net.Conn) { defer c.Close(); f(c) })
}

// accept runs f on a goroutine of its own for each connection to the address that it returns.
func accept(t *testing.T, f func(net.Conn)) string {
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
			go f(c)
		}
	}()
	return ln.Addr().String()
}

// framer writes and reads frames of golang.org/x/net.
type framer struct {
	*xh2.Framer
	hb  bytes.Buffer
	enc *hpack.Encoder
}

func newFramer(c net.Conn) *framer {
	f := &framer{Framer: xh2.NewFramer(c, c)}
	f.enc = hpack.NewEncoder(&f.hb)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return f
}

func (f *framer) headers(id uint32, end bool, kv ...string) error {
	f.hb.Reset()
	for i := 0; i < len(kv); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: f.hb.Bytes(), EndHeaders: true, EndStream: end})
}

// next is the next frame of a stream, nil at the end.
func (f *framer) next() xh2.Frame {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return nil
		}
		switch s := fr.(type) {
		case *xh2.SettingsFrame:
			if !s.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *xh2.PingFrame:
			if !s.IsAck() {
				_ = f.WritePing(true, s.Data)
			}
		case *xh2.WindowUpdateFrame:
		default:
			return fr
		}
	}
}

// through opens a tunnel on c, says ping, hears it, ends its half and tells what came, as one line.
func through(c net.Conn, h2, connect bool) string {
	_ = c.SetDeadline(time.Now().Add(patience))
	if h2 {
		return throughHTTP2(c, connect)
	}
	const key = wsKey
	ask, method := "GET /ws HTTP/1.1\r\nhost: t.test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: "+key+"\r\n\r\n", http.MethodGet
	if connect {
		ask, method = "CONNECT t.test:80 HTTP/1.1\r\nhost: t.test:80\r\n\r\n", http.MethodConnect
	}
	_, _ = io.WriteString(c, ask)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return err.Error()
	}
	out := fmt.Sprint(resp.StatusCode)
	if resp.StatusCode == http.StatusSwitchingProtocols && resp.Header.Get("Sec-Websocket-Accept") != wsAccept(key) {
		out += " accept=" + resp.Header.Get("Sec-Websocket-Accept")
	}
	_, _ = io.WriteString(c, "ping")
	b := make([]byte, 4)
	n, _ := io.ReadFull(in, b)
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	rest, err := io.ReadAll(in)
	return fmt.Sprintf("%s %s%s %v", out, b[:n], rest, err)
}

func throughHTTP2(c net.Conn, connect bool) string {
	_, _ = io.WriteString(c, xh2.ClientPreface)
	f := newFramer(c)
	_ = f.WriteSettings()
	if connect {
		_ = f.headers(1, false, ":method", "CONNECT", ":authority", "t.test:80")
	} else {
		_ = f.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "t.test", ":path", "/ws", "sec-websocket-version", "13")
	}
	var out []string
	for {
		switch fr := f.next().(type) {
		case nil:
			return strings.Join(append(out, "EOF"), " ")
		case *xh2.MetaHeadersFrame:
			out = append(out, fr.PseudoValue("status"))
			_ = f.WriteData(1, false, []byte("ping"))
		case *xh2.DataFrame:
			if out = append(out, string(fr.Data())); fr.StreamEnded() {
				return strings.Join(append(out, "end"), " ")
			}
			_ = f.WriteData(1, true, nil)
		case *xh2.RSTStreamFrame:
			return strings.Join(append(out, "RST "+fr.ErrCode.String()), " ")
		case *xh2.GoAwayFrame:
			return strings.Join(append(out, "GOAWAY "+fr.ErrCode.String()), " ")
		}
	}
}

const tunnelHCM = `http2_protocol_options: {allow_connect: true}, upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}], `

func TestTunnels_WhenAnyPairOfCodecsOverPlainOrTLS_ThenBytesPassBothWays(t *testing.T) {
	var c config
	backends := []string{"h1", "h2", "raw"}
	c.cluster("h1", echoHTTP1(t), "", "")
	c.cluster("h2", echoHTTP2(t), "", "{}")
	c.cluster("raw", echoRaw(t), "", "")
	for _, b := range backends {
		c.listener("plain_"+b, b, "", tunnelHCM)
		c.listener("tls_"+b, b, downstreamTLS(false), tunnelHCM)
	}
	for i, l := range c.listeners {
		b := backends[i/2]
		terminate := ""
		if b == "raw" {
			terminate = ", upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]"
		}
		connect := fmt.Sprintf("routes: [{match: {connect_matcher: {}}, route: {cluster: %s, timeout: 0s%s}}, ", b, terminate)
		c.listeners[i] = strings.Replace(l, "routes: [", connect, 1)
	}
	p := start(t, c.String())
	for _, x := range []struct {
		backend     string
		h2, connect bool
		want        string
	}{
		{"h1", false, false, "101 pingEND"}, {"h1", true, false, "200 ping  end"}, {"h2", false, false, "101 pingEND"}, {"h2", true, false, "200 ping  end"},
		{"h1", false, true, "200 pingEND"}, {"h1", true, true, "200 ping  end"}, {"h2", false, true, "200 pingEND"}, {"h2", true, true, "200 ping  end"},
		{"raw", false, true, "200 pingEND"}, {"raw", true, true, "200 ping  end"},
	} {
		for _, secure := range []bool{false, true} {
			name, down := "plain", "h1"
			if x.h2 {
				down = "h2"
			}
			if secure {
				name = "tls"
			}
			kind := map[bool]string{false: "websocket", true: "connect"}[x.connect]
			t.Run(fmt.Sprintf("%s-%s-%s-%s", kind, down, x.backend, name), func(t *testing.T) {
				conn, err := net.Dial("tcp", p.Addr[name+"_"+x.backend])
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if secure {
					alpn := "http/1.1"
					if x.h2 {
						alpn = "h2"
					}
					conn = tls.Client(conn, endTLS(t, "client", alpn))
				}
				got := through(conn, x.h2, x.connect)
				if want := strings.Replace(x.want, "END", " <nil>", 1); got != want && !envoy {
					t.Errorf("got %q, want %q", got, want)
				}
				t.Log(got)
			})
		}
	}
	p.Alive(t)
}
