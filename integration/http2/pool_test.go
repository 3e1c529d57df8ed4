// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// teller is a backend behind TLS that answers with its protocol, and remembers how it was called.
type teller struct {
	addr string
	mu   sync.Mutex
	sni  []string // different ones of the handshakes
}

// tell starts a teller that knows protocols for ALPN.
func tell(t *testing.T, protocols ...string) *teller {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &teller{addr: ln.Addr().String()}
	conf := endTLS(t, "server", protocols...)
	conf.ClientAuth = tls.NoClientCert
	conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !slices.Contains(x.sni, h.ServerName) {
			x.sni = append(x.sni, h.ServerName)
		}
		return nil, nil
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	go func() { _ = srv.Serve(tls.NewListener(ln, conf)) }()
	t.Cleanup(func() { srv.Close() })
	return x
}

// names are the different server names of the handshakes so far.
func (x *teller) names() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fmt.Sprintf("%q", x.sni)
}

// upstreamOf is a transport socket for tellers: TLS with the given fields, each followed by a comma, that trusts the CA.
func upstreamOf(fields string) string {
	return fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.UpstreamTlsContext, %s
    common_tls_context: {validation_context: {trusted_ca: {filename: %s}}}}},`, types, fields, filepath.Join(certs, "ca.pem"))
}

// ask sends one request to a listener and returns status and body.
func (p *proxy) ask(t *testing.T, listener, host string, header ...string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+p.Addr[listener]+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, b)
}

func TestPool_WhenTheClusterHasAutoConfig_ThenALPNDecides(t *testing.T) {
	var c config
	cases := []struct {
		name    string
		backend *teller
		fields  string
		want    string
		codec   string
	}{
		{"both", tell(t, "h2", "http/1.1"), upstreamOf(""), "200 HTTP/2.0", "http2"},
		{"old", tell(t, "http/1.1"), upstreamOf(""), "200 HTTP/1.1", "http1"},
		{"none", tell(t), upstreamOf(""), "200 HTTP/1.1", "http1"},
		{"asked", tell(t, "h2", "http/1.1"), strings.Replace(upstreamOf(""), "common_tls_context: {", "common_tls_context: {alpn_protocols: [http/1.1], ", 1),
			"200 HTTP/1.1", "http1"},
	}
	for _, x := range cases {
		c.clusterWith(x.name, x.fields+protocol("auto_config: {}"), x.backend.addr)
		c.listener(x.name, x.name, "", "")
	}
	p := start(t, c.String())
	for _, x := range cases {
		for range 3 {
			if got := p.ask(t, x.name, "a.test"); got != x.want {
				t.Errorf("%s: %s", x.name, got)
			}
		}
		s := p.Stats()
		n := s["cluster."+x.name+".upstream_cx_http1_total"] + s["cluster."+x.name+".upstream_cx_http2_total"]
		if got := s["cluster."+x.name+".upstream_cx_"+x.codec+"_total"]; got != n || n < 1 || n > 2 { // one for each worker that had a request
			t.Errorf("%s: %d connections, %d of them of %s", x.name, n, got, x.codec)
		}
	}
	p.Alive(t)
}

func TestPool_WhenTheClusterTakesNamesFromRequests_ThenAConnectionForEachName(t *testing.T) {
	const h1 = "explicit_http_config: {http_protocol_options: {}}"
	names := func(fields string) string {
		return protocol(h1 + ", upstream_http_protocol_options: {" + fields + "}")
	}
	const ok, wrong = "200 HTTP/1.1", "503 upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
	type request struct{ host, header, want string }
	var c config
	cases := []struct {
		name     string
		backend  *teller
		fields   string
		requests []request
		sni      string // different ones of the handshakes
	}{
		{"sni", tell(t, "http/1.1"), upstreamOf("sni: context.test,") + names("auto_sni: true"),
			[]request{{"A.test:8080", "", ok}, {"b.test", "", ok}, {"1.2.3.4", "", ok}, {"[::1]:80", "", ok}}, `["A.test" "b.test" "context.test"]`},
		{"header", tell(t, "http/1.1"), upstreamOf("") + names("auto_sni: true, override_auto_sni_header: x-sni"),
			[]request{{"a.test", "b.test:1", ok}, {"a.test", "", ok}, {"a.test", "1.1.1.1", ok}}, `["b.test" "a.test" ""]`},
		{"san", tell(t, "http/1.1"), upstreamOf("") + names("auto_sni: true, auto_san_validation: true"),
			[]request{{serverName, "", ok}, {"other.test", "", wrong}, {"1.2.3.4", "", wrong}}, `["server.test" "other.test" ""]`},
		{"san-alone", tell(t, "http/1.1"), upstreamOf("") + names("auto_san_validation: true"),
			[]request{{serverName, "", ok}, {"other.test", "", wrong}}, `[""]`},
		{"checked", tell(t, "http/1.1"), upstreamOf("auto_sni_san_validation: true,") + names("auto_sni: true"),
			[]request{{serverName, "", ok}, {"other.test", "", wrong}}, `["server.test" "other.test"]`},
	}
	for _, x := range cases {
		c.clusterWith(x.name, x.fields, x.backend.addr)
		c.listener(x.name, x.name, "", "")
	}
	p := start(t, c.String())
	for _, x := range cases {
		for i, q := range x.requests {
			var header []string
			if q.header != "" {
				header = []string{"x-sni", q.header}
			}
			for range 3 {
				if got := p.ask(t, x.name, q.host, header...); got != q.want {
					t.Errorf("%s, request %d: %s", x.name, i, got)
				}
			}
		}
		if got := x.backend.names(); got != x.sni {
			t.Errorf("%s: server names %s, want %s", x.name, got, x.sni)
		}
	}
	p.Alive(t)
}

func TestPool_WhenTheClusterHasAPreconnectPolicy_ThenConnectionsBeforeTheyAreNeeded(t *testing.T) {
	var c config
	hosts := func() []string { return []string{tell(t).addr, tell(t).addr, tell(t).addr} }
	cases := []struct {
		name   string
		fields string
		hosts  []string
		want   int64 // connections after the first request
	}{
		{"predictive", "preconnect_policy: {predictive_preconnect_ratio: 1.5},", hosts(), 3}, // the first one: for Envoy the connections of all clusters count
		{"none", "", hosts()[:1], 1},
		{"per-host", "preconnect_policy: {per_upstream_preconnect_ratio: 2.5},", hosts()[:1], 3},
		{"least-request", "lb_policy: LEAST_REQUEST, preconnect_policy: {predictive_preconnect_ratio: 1.5},", hosts(), 1},
		{"not-these", "preconnect_policy: {per_upstream_preconnect_ratio: 2.5, preconnect_enabled_metadata: {filter: f, path: [{key: k}], value: {present_match: true}}},",
			hosts()[:1], 1},
	}
	for _, x := range cases {
		c.clusterWith(x.name, upstreamOf("")+x.fields, x.hosts...)
		c.listener(x.name, x.name, "", "")
	}
	p := start(t, c.String())
	for _, x := range cases {
		if got := p.ask(t, x.name, "a.test"); got != "200 HTTP/1.1" {
			t.Errorf("%s: %s", x.name, got)
		}
		s := p.Stats()
		if n := s["cluster."+x.name+".upstream_cx_total"]; n != x.want {
			t.Errorf("%s: %d connections, want %d", x.name, n, x.want)
		}
		if n := s["cluster."+x.name+".upstream_cx_preconnect_skipped"]; (n > 0) != (x.name == "not-these") {
			t.Errorf("%s: %d skipped", x.name, n)
		}
	}
	p.Alive(t)
}
