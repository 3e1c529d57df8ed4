// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	cachetypes "github.com/envoyproxy/go-control-plane/pkg/cache/types"

	"sidecar/internal/testctl"
)

// TestSession_WhenTheAuthoritiesRotate_ThenNobodyTheyDoNotTrustResumes makes sessions in both directions under one authority, and offers them under another
// one, which comes by SDS: what was verified then is not trusted now.
func TestSession_WhenTheAuthoritiesRotate_ThenNobodyTheyDoNotTrustResumes(t *testing.T) {
	for _, version := range tlsVersions {
		t.Run(version.name, func(t *testing.T) {
			a, b := newPKI(t, "a"), newPKI(t, "b")
			ctl, err := testctl.NewServer(testctl.Config{PerType: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(ctl.Close)
			pair, pushed := secretOf(pemOf(t, a.leaf())), 0
			trust := func(ca *pki) {
				t.Helper()
				pushed++
				if err := ctl.Set(node, fmt.Sprint(pushed), testctl.Resources{Secrets: []cachetypes.Resource{pair, rootsOf(pemBlock("CERTIFICATE", ca.cert.Raw))}}); err != nil {
					t.Fatal(err)
				}
			}
			trust(a)
			const source = "api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}"
			var resumed atomic.Bool
			var c config
			secretListener(&c, t, source)
			c.cluster("xds", ctl.Addr(), "", "{}")
			c.clusterWith("up", fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.UpstreamTlsContext, sni: a.test, common_tls_context: {
    tls_params: {tls_maximum_protocol_version: TLSv1_3}, validation_context_sds_secret_config: {name: roots, sds_config: {resource_api_version: V3, %s}}}}},
    `, types, source)+protocol("common_http_protocol_options: {max_requests_per_connection: 1}, explicit_http_config: {http_protocol_options: {}}"),
				backend(t, &tls.Config{Certificates: []tls.Certificate{*a.leaf()}, MaxVersion: version.id, NextProtos: []string{"http/1.1"},
					VerifyConnection: func(cs tls.ConnectionState) error { resumed.Store(cs.DidResume); return nil }}))
			c.listener("u", "up", "", "")
			p := start(t, fmt.Sprintf("node: {id: %s, cluster: c}\n", node)+c.String())

			ticket := &jar{}
			client := func(own *tls.Certificate, cache tls.ClientSessionCache) visited {
				t.Helper()
				return visit(t, p.Addr["h"], &tls.Config{InsecureSkipVerify: true, MaxVersion: version.id, ServerName: "a.test", ClientSessionCache: cache, // only the proxy checks
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }})
			}
			served := func(v visited) bool { return v.err == nil && strings.HasPrefix(v.answer, "HTTP/1.1 200 OK") }
			upstream := func() int {
				t.Helper()
				r, err := http.Get("http://" + p.Addr["u"] + "/")
				if err != nil {
					t.Fatal(err)
				}
				_ = r.Body.Close()
				return r.StatusCode
			}
			ofA, ofB := a.leaf(), b.leaf()
			if v := client(ofA, ticket); !served(v) || ticket.last == nil {
				t.Fatalf("the first visit: %q, %v", v.answer, v.err)
			}
			kept := ticket.last
			if v := client(ofA, ticket); !served(v) || !v.state.DidResume {
				t.Fatalf("the second visit: resumed %v, %v", v.state.DidResume, v.err)
			}
			p.Until("a session resumes upstream", func() bool { return upstream() == 200 && resumed.Load() }) // each worker keeps its own

			trust(b)
			p.Until("the other authority counts", func() bool { return served(client(ofB, nil)) })
			for _, s := range []*tls.ClientSessionState{ticket.last, kept} {
				if v := client(ofA, &jar{s}); served(v) {
					t.Errorf("served without trust, resumed %v", v.state.DidResume)
				}
			}
			if v := client(ofB, &jar{kept}); v.state.DidResume {
				t.Error("the session of another authority's client resumes")
			}
			for range 8 { // on both workers
				if n := upstream(); n != 503 {
					t.Errorf("upstream without trust: %d, resumed %v", n, resumed.Load())
				}
			}

			trust(a)
			p.Until("the first authority counts again", func() bool { return served(client(ofA, nil)) })
			if v := client(ofA, &jar{kept}); !served(v) {
				t.Errorf("the client that is trusted again: %q, %v", v.answer, v.err)
			}
			if v := client(ofB, nil); served(v) {
				t.Error("the other authority still counts")
			}
			if n := upstream(); n != 200 {
				t.Errorf("upstream, trusted again: %d", n)
			}
			p.Alive(t)
		})
	}
}
