// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tlsServer serves TLS with net/http and returns the client's options; tune changes its parameters.
func tlsServer(t *testing.T, h http.Handler, tune func(*httptest.Server)) options {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	if tune != nil {
		srv.TLS = &tls.Config{}
		tune(srv)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "server-rsa.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return options{addr: srv.Listener.Addr().String(), host: "example.com", path: "/", conns: 1, count: 3,
		tls: tlsOptions{dir: dir, key: "rsa", serverName: "example.com"}}
}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }

// roundTrip makes one request on one TLS connection of the client.
func roundTrip(o options) (Result, error) {
	c, err := newClient(o)
	if err != nil {
		return Result{}, err
	}
	c.interval = 1 // finish must not send again.
	k := c.conns[0]
	c.send(k, c.begin)
	for k.busy && c.res.Errors == 0 {
		if _, err := c.p.wait(5000); err != nil {
			return c.res, err
		}
		if c.receive(k) {
			c.finish(k)
		}
	}
	return c.res, nil
}

func TestHTTPClient_WhenTLS_ThenWholeAnswersArrive(t *testing.T) {
	for _, size := range []int{5, 100 << 10} { // One record, and many.
		o := tlsServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			w.Write(make([]byte, size))
		}), nil)
		res, err := roundTrip(o)
		if err != nil || res.Errors > 0 || res.Requests != 1 || res.Bytes < int64(size) {
			t.Errorf("%d bytes: %+v, %v", size, res, err)
		}
	}
}

func TestTLSClient_WhenServerAgreesOnSomethingElse_ThenRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		tune func(*httptest.Server)
		want string
	}{
		"group":   {func(s *httptest.Server) { s.TLS.CurvePreferences = []tls.CurveID{tls.CurveP256} }, "handshake"},
		"version": {func(s *httptest.Server) { s.TLS.MaxVersion = tls.VersionTLS12 }, "version"},
	} {
		o := tlsServer(t, http.HandlerFunc(hello), tt.tune)
		if _, err := newClient(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := tlsServer(t, http.HandlerFunc(hello), nil)
	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("another")})
	if err := os.WriteFile(filepath.Join(o.tls.dir, "server-rsa.pem"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(o); err == nil || !strings.Contains(err.Error(), "another certificate") {
		t.Errorf("another certificate: %v", err)
	}
}

func TestHandshakes_WhenSessionsAreKept_ThenOnlyThoseResume(t *testing.T) {
	o := tlsServer(t, http.HandlerFunc(hello), nil)
	for _, keep := range []bool{false, true} {
		own := o.tls
		if keep {
			own.sessions = tls.NewLRUClientSessionCache(4)
		}
		c, err := own.config()
		if err != nil {
			t.Fatal(err)
		}
		h := &handshaker{o: o, request: httpRequest(o)}
		for i := range 3 {
			n, resumed, err := h.once(c)
			if err != nil || n == 0 || resumed != (keep && i > 0) {
				t.Errorf("keep %t, connection %d: %d bytes, resumed %t, %v", keep, i, n, resumed, err)
			}
		}
	}
}

// serveTLS runs the gRPC backend with mutual TLS until its first client goes, and returns the client's options.
func serveTLS(t *testing.T) options {
	t.Helper()
	o := tlsServer(t, http.HandlerFunc(hello), nil) // For its certificate.
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	key, err := x509.MarshalPKCS8PrivateKey(srv.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, text := range map[string][]byte{"server-rsa.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), "client-rsa.pem": cert} {
		if err := os.WriteFile(filepath.Join(o.tls.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(o.tls.dir, "server-rsa.key"), filepath.Join(o.tls.dir, "client-rsa.key")); err != nil {
		t.Fatal(err)
	}
	o.tls.mutual, o.tls.h2, o.grpc, o.streams, o.count = true, true, true, 10, 1000
	tc, err := o.tls.serverConfig()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(ln)
	if err != nil {
		t.Fatal(err)
	}
	o.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port)).String()
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer unix.Close(ln)
		peers, scratch := make([]*peer, 1<<10), make([]byte, 64<<10)
		p.add(ln, -1, unix.EPOLLIN)
		for {
			events, err := p.wait(-1)
			if err != nil {
				return
			}
			for _, e := range events {
				if e.Fd < 0 {
					acceptAll(p, ln, peers, grpcBackend{}, tc)
				} else if c := peers[e.Fd]; c != nil && !c.serve(p, e.Events, scratch, grpcBackend{}) {
					unix.Close(c.fd)
					return
				}
			}
		}
	}()
	return o
}

func TestH2Backend_WhenMutualTLS_ThenOnlyTheKnownClientIsServed(t *testing.T) {
	o := serveTLS(t)
	stranger := o
	stranger.tls.mutual = false
	if err := runH2(stranger); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	if err := runH2(o); err != nil {
		t.Errorf("with its certificate: %v", err)
	}
}
