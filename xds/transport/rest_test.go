// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// gateway is a control plane over REST: it answers each request with the next of its answers, the last one for ever; "" is 304.
type gateway struct {
	mu      sync.Mutex
	seen    []map[string]any
	where   []string
	answers []string
	status  int
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	m := map[string]any{}
	_ = json.Unmarshal(body, &m)
	g.seen = append(g.seen, m)
	g.where = append(g.where, r.Proto+" "+r.Method+" "+r.Host+" "+r.URL.Path+" "+r.Header.Get("content-type"))
	a := ""
	if len(g.answers) > 0 {
		if a = g.answers[0]; len(g.answers) > 1 {
			g.answers = g.answers[1:]
		}
	}
	switch {
	case g.status != 0:
		w.WriteHeader(g.status)
	case a == "":
		w.WriteHeader(http.StatusNotModified)
	default:
		_, _ = io.WriteString(w, a)
	}
}

func (g *gateway) answer(a ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers = a
}

func (g *gateway) last() (map[string]any, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.seen) == 0 {
		return nil, 0
	}
	return g.seen[len(g.seen)-1], len(g.seen)
}

func restOf(t *testing.T, g http.Handler, typ resource.Type, http2 bool, sink Sink, st Stats) *Rest {
	t.Helper()
	srv := httptest.NewUnstartedServer(g)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(!http2)
	srv.Config.Protocols.SetUnencryptedHTTP2(http2)
	srv.Start()
	t.Cleanup(srv.Close)
	target := &Target{Name: "xds", Authority: "xds", ConnectTimeout: time.Second, HTTP2: http2,
		Endpoints: []Endpoint{{Network: "tcp", Address: srv.Listener.Addr().String()}}}
	r, err := NewRest(RestConfig{Target: target, Type: typ, Node: &corev3.Node{Id: "n"}, RefreshDelay: 10 * time.Millisecond, RequestTimeout: 5 * time.Second,
		Sink: sink, Stats: st})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

const oneCluster = `{"version_info": "V", "resources": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a"}]}`

func TestRest_WhenPolled_ThenVersionsAndNamesAreAskedForAndOnlyNewsIsDelivered(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		g := &gateway{answers: []string{strings.ReplaceAll(oneCluster, "V", "1"), ""}}
		d := newDriver(t, ads.SotW, resource.ClusterURL)
		r := restOf(t, g, resource.Cluster, http2, d.sink, nil)
		d.run(r, ads.Subscribe{TypeURL: resource.ClusterURL, Wildcard: true})
		soon(t, "no request says that version 1 was taken", func() bool { m, _ := g.last(); return m["version_info"] == "1" })
		_, n := g.last()
		soon(t, "it does not poll on", func() bool { _, now := g.last(); return now > n+3 })
		d.mu.Lock()
		if d.batches != 1 || len(d.have[resource.ClusterURL]) != 1 {
			t.Errorf("%d batches, %v", d.batches, d.have)
		}
		d.mu.Unlock()
		g.answer(strings.ReplaceAll(oneCluster, "V", "2"), "")
		soon(t, "no request says that version 2 was taken", func() bool { m, _ := g.last(); return m["version_info"] == "2" })
		g.mu.Lock()
		first, later, where := g.seen[0], g.seen[1], g.where[0]
		g.mu.Unlock()
		proto := "HTTP/1.1"
		if http2 {
			proto = "HTTP/2.0"
		}
		if where != proto+" POST xds /v3/discovery:clusters application/json" {
			t.Error(where)
		}
		if node, _ := first["node"].(map[string]any); node["id"] != "n" || first["type_url"] != resource.ClusterURL || first["version_info"] != nil {
			t.Errorf("first request %v", first)
		}
		if node, _ := later["node"].(map[string]any); node["id"] != "n" {
			t.Errorf("second request %v", later)
		}
	}
}

func TestRest_WhenNamesChange_ThenItAsksAtOnceAndNoNamesAreNobody(t *testing.T) {
	g := &gateway{answers: []string{`{"version_info": "1", "resources": [{"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "a"}]}`, ""}}
	d := newDriver(t, ads.SotW, resource.EndpointsURL)
	r := restOf(t, g, resource.Endpoints, false, d.sink, nil)
	d.run(r, ads.Subscribe{TypeURL: resource.EndpointsURL, Names: []string{"a"}})
	soon(t, "a is not taken", func() bool { m, _ := g.last(); return m["version_info"] == "1" })
	d.order(func() {
		d.session.Step(ads.Subscribe{TypeURL: resource.EndpointsURL, Names: []string{"b"}}, nil)
		d.step(ads.Flush{})
	})
	soon(t, "b is not asked for", func() bool { m, _ := g.last(); l, _ := m["resource_names"].([]any); return len(l) == 2 })
	if m, _ := g.last(); m["version_info"] != nil {
		t.Errorf("version %v of another list of names is told: the server would answer that nothing is new", m["version_info"])
	}
	d.order(func() {
		d.session.Step(ads.Unsubscribe{TypeURL: resource.EndpointsURL, Names: []string{"a", "b"}}, nil)
		d.step(ads.Flush{})
	})
	time.Sleep(50 * time.Millisecond) // a request may be on its way
	_, n := g.last()
	time.Sleep(100 * time.Millisecond)
	if m, now := g.last(); now != n {
		t.Errorf("%d requests although nothing is wanted: %v", now-n, m)
	}
}

// failures counts what Stats.Failed is told.
type failures struct {
	noStats
	mu    sync.Mutex
	texts []string
}

func (f *failures) Failed(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts = append(f.texts, err.Error())
}

func (f *failures) has(s string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.texts) > 0 && strings.Contains(f.texts[len(f.texts)-1], s)
}

func TestRest_WhenTheAnswerIsBad_ThenItIsAFailureAndPollingGoesOn(t *testing.T) {
	g := &gateway{answers: []string{"{"}}
	st := &failures{}
	d := newDriver(t, ads.SotW, resource.ClusterURL)
	r := restOf(t, g, resource.Cluster, false, d.sink, st)
	d.run(r, ads.Subscribe{TypeURL: resource.ClusterURL, Wildcard: true})
	soon(t, "half an object is no failure", func() bool { return st.has("discovery:clusters.json") })
	g.answer(`{"type_url": "type.googleapis.com/envoy.config.listener.v3.Listener"}`)
	soon(t, "a wrong type is no failure", func() bool { return st.has("expected") })
	g.mu.Lock()
	g.status = 500
	g.mu.Unlock()
	soon(t, "500 is no failure", func() bool { return st.has("answers 500") })
	g.mu.Lock()
	g.status = 0
	g.mu.Unlock()
	g.answer(strings.ReplaceAll(oneCluster, "V", "1"), "")
	soon(t, "polling does not go on", func() bool { m, _ := g.last(); return m["version_info"] == "1" })
}

func TestRest_WhenRequestsFail_ThenTheyAreRepeatedSoonerThanPolls(t *testing.T) {
	g := &gateway{status: 503}
	st := &failures{}
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	target := &Target{Name: "xds", Authority: "xds", ConnectTimeout: time.Second, Endpoints: []Endpoint{{Network: "tcp", Address: srv.Listener.Addr().String()}}}
	d := newDriver(t, ads.SotW, resource.ClusterURL)
	r, err := NewRest(RestConfig{Target: target, Type: resource.Cluster, RefreshDelay: time.Hour, RequestTimeout: 5 * time.Second, Sink: d.sink, Stats: st})
	if err != nil {
		t.Fatal(err)
	}
	d.run(r, ads.Subscribe{TypeURL: resource.ClusterURL, Wildcard: true})
	soon(t, "a request that failed waits for the next poll", func() bool { _, n := g.last(); return n >= 4 })
	g.mu.Lock()
	g.status = 0
	g.mu.Unlock()
	g.answer(strings.ReplaceAll(oneCluster, "V", "1"))
	soon(t, "nothing is delivered", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.batches == 1 })
	_, n := g.last()
	time.Sleep(50 * time.Millisecond)
	if _, now := g.last(); now != n {
		t.Errorf("%d requests after one that succeeded", now-n)
	}
}

func TestRest_WhenTheClusterHasTLS_ThenTheServerIsVerified(t *testing.T) {
	a := newAuthority(t)
	for name, good := range map[string]bool{"control.test": true, "other.test": false} {
		cert, key := a.issue(name)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway{}
		srv := httptest.NewUnstartedServer(g)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		target, err := secureTarget(t, srv.Listener.Addr().String(), `sni: control.test, common_tls_context: {validation_context: {trusted_ca: {inline_string: "`+
			strings.ReplaceAll(string(a.pem()), "\n", "\\n")+`"}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: control.test}}]}}`)
		if err != nil {
			t.Fatal(err)
		}
		target.HTTP2 = false
		st := &failures{}
		d := newDriver(t, ads.SotW, resource.ClusterURL)
		r, err := NewRest(RestConfig{Target: target, Type: resource.Cluster, RefreshDelay: 10 * time.Millisecond, RequestTimeout: 5 * time.Second, Sink: d.sink, Stats: st})
		if err != nil {
			t.Fatal(err)
		}
		d.run(r, ads.Subscribe{TypeURL: resource.ClusterURL, Wildcard: true})
		if good {
			soon(t, "no request arrives over TLS", func() bool { _, n := g.last(); return n > 0 })
			continue
		}
		soon(t, "a wrong certificate is no failure", func() bool { return st.has("TLS handshake") })
		if _, n := g.last(); n > 0 {
			t.Error("a request went to a server that was not verified")
		}
	}
}
