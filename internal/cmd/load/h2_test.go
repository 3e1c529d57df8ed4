// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// echoCalls is the gRPC backend written with net/http.
func echoCalls(w http.ResponseWriter, r *http.Request) {
	if r.Method == "GET" {
		io.WriteString(w, "hello")
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	for b := make([]byte, messageSize); ; {
		if _, err := io.ReadFull(r.Body, b); err != nil {
			break
		}
		w.Write(b)
		w.(http.Flusher).Flush()
	}
	w.Header().Set("Grpc-Status", r.Header.Get("x-bench-status")+"0")
}

// h2cServer serves HTTP/2 without TLS with net/http.
func h2cServer(t *testing.T, h http.Handler) options {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.CloseClientConnections) // Streams never end: Close would wait for them.
	return options{addr: srv.Listener.Addr().String(), host: "example.com", path: "/", conns: 2, streams: 3, count: 50}
}

func TestH2Client_WhenAnotherServerAnswers_ThenEveryRequestCompletes(t *testing.T) {
	plain := h2cServer(t, http.HandlerFunc(echoCalls))
	secure := tlsServer(t, http.HandlerFunc(echoCalls), nil)
	secure.streams, secure.count = 3, 50
	for name, tt := range map[string]struct {
		o            options
		grpc, stream bool
	}{"GET": {o: plain}, "unary": {plain, true, false}, "streaming": {plain, true, true}, "GET over TLS": {o: secure}, "unary over TLS": {secure, true, false}} {
		o := tt.o
		o.grpc, o.stream = tt.grpc, tt.stream
		if err := runH2(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestH2Client_WhenAnswerIsWrong_ThenRunEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		grpc   bool
		want   string
	}{
		"status":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, false, "status 503"},
		"reset":    {func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, false, "INTERNAL_ERROR"},
		"no calls": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, true, "not expected"},
		"trailers": {func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("x-bench-status", "1")
			echoCalls(w, r)
		}, true, "grpc-status 10"},
	} {
		o := h2cServer(t, tt.answer)
		o.grpc = tt.grpc
		if err := runH2(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// serveBackend runs the gRPC backend until the test ends and returns its address.
func serveBackend(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				p := &peer{}
				b := make([]byte, 4<<10)
				for out, keep := (grpcBackend{}).open(p), true; keep; {
					nc.Write(out)
					n, err := nc.Read(b)
					if err != nil {
						return
					}
					out, keep = (grpcBackend{}).data(p, b[:n])
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func TestH2Backend_WhenAnotherClientCalls_ThenMessagesComeBackWithTrailers(t *testing.T) {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	addr := serveBackend(t)
	for messages := 1; messages <= 1000; messages *= 10 { // The last is more than one window of 64 KiB.
		body := bytes.Repeat(message, messages)
		resp, err := client.Post("http://"+addr+"/", "application/grpc", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !bytes.Equal(got, body) || resp.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%d messages: status %d, %d bytes, trailers %v, %v", messages, resp.StatusCode, len(got), resp.Trailer, err)
		}
	}
}

// script is what a client sends for one call with two messages.
func script() []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range requestFields(options{grpc: true, host: "a"}) {
		enc.WriteField(f)
	}
	b := appendFrame([]byte(http2.ClientPreface), http2.FrameSettings, 0, 0, 0)
	b = append(appendFrame(b, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, block.Len()), block.Bytes()...)
	b = append(appendFrame(b, http2.FramePing, 0, 0, 8), "12345678"...)
	b = append(append(appendFrame(b, http2.FrameData, 0, 1, messageSize+50), message...), message[:50]...)
	return append(appendFrame(b, http2.FrameData, http2.FlagDataEndStream, 1, messageSize-50), message[50:]...)
}

func TestH2_WhenInputIsCutAnywhere_ThenOutputIsTheSame(t *testing.T) {
	in := script()
	feed := func(parts ...[]byte) []byte {
		p := &peer{}
		out := bytes.Clone((grpcBackend{}).open(p))
		for _, part := range parts {
			o, keep := (grpcBackend{}).data(p, part)
			if !keep {
				t.Fatalf("connection given up after %d bytes", len(part))
			}
			out = append(out, o...)
		}
		return out
	}
	want := feed(in)
	if n := bytes.Count(want, message); n != 2 {
		t.Fatalf("%d messages came back", n)
	}
	for cut := range in {
		if got := feed(in[:cut], in[cut:]); !bytes.Equal(got, want) {
			t.Errorf("cut at %d: %d bytes out, want %d", cut, len(got), len(want))
		}
	}
}

func TestH2_WhenWindowIsClosed_ThenMessagesWait(t *testing.T) {
	p := &peer{}
	(grpcBackend{}).open(p)
	in := script()
	closed := appendFrame(nil, http2.FrameSettings, 0, 0, 6)
	closed = binary.BigEndian.AppendUint16(closed, uint16(http2.SettingInitialWindowSize))
	closed = binary.BigEndian.AppendUint32(closed, messageSize+10)
	out, keep := (grpcBackend{}).data(p, append(append(append([]byte{}, in[:len(http2.ClientPreface)]...), closed...), in[len(http2.ClientPreface):]...))
	if n := bytes.Count(out, message); !keep || n != 1 {
		t.Fatalf("%d messages in a window of one", n)
	}
	out, keep = (grpcBackend{}).data(p, binary.BigEndian.AppendUint32(appendFrame(nil, http2.FrameWindowUpdate, 0, 1, 4), messageSize))
	if n := bytes.Count(out, message); !keep || n != 1 || len(p.h2.streams) != 0 {
		t.Errorf("%d messages once the window opened, %d streams left", n, len(p.h2.streams))
	}
}

func TestIndexed_WhenAnyFieldIsLiteral_ThenFalse(t *testing.T) {
	for raw, want := range map[string]bool{"\x88\xbe": true, "\xff\x81\x01\x88": true, "\xff": true, "\x88\x40\x01a\x01b": false, "\x20\x88": false, "\x88\x01": false} {
		if indexed([]byte(raw)) != want {
			t.Errorf("%x: not %t", raw, want)
		}
	}
}

func TestH2Client_WhenSteady_ThenNothingIsAllocated(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	o := options{host: "a", grpc: true, streams: 10}
	k := &h2Conn{client: &h2Client{o: o, hist: newHistogram()}, nextID: 1, request: block{list: requestFields(o)}, wire: &wire{fd: fds[0], open: true}}
	k.h2 = newH2(k)
	k.out = append(k.out, http2.ClientPreface...)
	k.begin()
	p, scratch := &peer{}, make([]byte, 64<<10)
	unix.Write(fds[1], (grpcBackend{}).open(p))
	if err := k.flush(); err != nil {
		t.Fatal(err)
	}
	turn := func() {
		if err := k.turn(scratch); err != nil {
			t.Fatal(err)
		}
		n, err := unix.Read(fds[1], scratch)
		if err != nil {
			t.Fatal(err)
		}
		out, keep := (grpcBackend{}).data(p, scratch[:n])
		if _, err := unix.Write(fds[1], out); !keep || err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		turn()
	}
	before := k.client.res.Requests
	if n := testing.AllocsPerRun(100, turn); n > 0 {
		t.Errorf("%v allocations per turn of %d requests", n, o.streams)
	}
	if k.client.res.Requests == before {
		t.Error("nothing was requested")
	}
}
