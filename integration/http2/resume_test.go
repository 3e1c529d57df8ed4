// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// jar is a client that keeps the last session and offers it to whoever it talks to.
type jar struct{ last *tls.ClientSessionState }

func (j *jar) Get(string) (*tls.ClientSessionState, bool) { return j.last, j.last != nil }
func (j *jar) Put(_ string, cs *tls.ClientSessionState)   { j.last = cs }

// TestSession_WhenOfferedElsewhere_ThenNothingResumes takes a ticket of every context to every other one. All have the same certificate and the same
// session_ticket_keys, so that each could open the tickets of the others.
func TestSession_WhenOfferedElsewhere_ThenNothingResumes(t *testing.T) {
	ca, other := newPKI(t, "ca"), newPKI(t, "other")
	ca.save("server", ca.leaf())
	both := ca.write("both.pem", append(pemBlock("CERTIFICATE", ca.cert.Raw), pemBlock("CERTIFICATE", other.cert.Raw)...))
	spiffe := func(domains ...string) string {
		var list []string
		for _, d := range domains {
			list = append(list, fmt.Sprintf("{name: %s, trust_bundle: {filename: %s}}", d, ca.ca()))
		}
		return fmt.Sprintf(`custom_validator_config: {name: envoy.tls.cert_validator.spiffe, typed_config: {"@type": %stransport_sockets.tls.v3.SPIFFECertValidatorConfig, trust_domains: [%s]}}`,
			types, strings.Join(list, ", "))
	}
	names := func(uri string) string {
		return fmt.Sprintf("trusted_ca: {filename: %s}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: %q}}]", ca.ca(), uri)
	}
	contexts := []struct {
		name, listener, validation string
		require, refuses           bool
	}{
		{name: "a", listener: "h", validation: names("spiffe://cluster.local/ns/test/sa/peer"), require: true},
		{name: "chain", listener: "h", validation: names("spiffe://cluster.local/ns/test/sa/peer"), require: true},
		{name: "listener", listener: "i", validation: names("spiffe://cluster.local/ns/test/sa/peer"), require: true},
		{name: "names", listener: "h", validation: names("spiffe://cluster.local/ns/test/sa/admin"), require: true, refuses: true},
		{name: "authorities", listener: "h", validation: "trusted_ca: {filename: " + both + "}", require: true},
		{name: "revoked", listener: "h", validation: "trusted_ca: {filename: " + ca.ca() + "}, crl: {filename: " + other.revoke("crl", 0) + "}", require: true, refuses: true},
		{name: "optional", listener: "h", validation: names("spiffe://cluster.local/ns/test/sa/peer")},
		{name: "domain", listener: "h", validation: spiffe("cluster.local"), require: true},
		{name: "domains", listener: "h", validation: spiffe("cluster.local", "elsewhere.example"), require: true},
		{name: "elsewhere", listener: "h", validation: spiffe("elsewhere.example"), require: true, refuses: true},
	}
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 80))
	var c config
	c.cluster("b", backend(t, nil), "", "")
	for _, listener := range []string{"h", "i"} {
		var chains []string
		for _, x := range contexts {
			if x.listener != listener {
				continue
			}
			socket := fmt.Sprintf(`filter_chain_match: {server_names: [%s.test]}, transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.DownstreamTlsContext,
    require_client_certificate: %v, session_ticket_keys: {keys: [{inline_bytes: %s}]}, common_tls_context: {
    tls_certificates: [{certificate_chain: {filename: %s/server.pem}, private_key: {filename: %s/server.key}}], validation_context: {%s}}}},`,
				x.name, types, x.require, key, ca.dir, ca.dir, x.validation)
			chains = append(chains, chain("h", "b", socket, ""))
		}
		c.listeners = append(c.listeners, fmt.Sprintf(`{name: %s, stat_prefix: %s, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, listener_filters: [{name: i, typed_config: {
    "@type": %sfilters.listener.tls_inspector.v3.TlsInspector}}], filter_chains: [%s]}`, listener, listener, types, strings.Join(chains, ",\n")))
	}
	p := start(t, c.String())
	own := ca.leaf()
	for _, version := range tlsVersions {
		for _, from := range contexts {
			if from.refuses {
				continue // nobody gets a ticket there
			}
			ticket := &jar{}
			conf := func(name string) *tls.Config {
				return &tls.Config{InsecureSkipVerify: true, MaxVersion: version.id, ServerName: name + ".test", ClientSessionCache: ticket, // only the proxy checks
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }}
			}
			for _, to := range contexts {
				t.Run(version.name+"/"+from.name+" to "+to.name, func(t *testing.T) {
					p.T = t
					ticket.last = nil
					if v := visit(t, p.Addr[from.listener], conf(from.name)); v.err != nil || v.state.DidResume || ticket.last == nil {
						t.Fatalf("the first visit: resumed %v, ticket %v, %v", v.state.DidResume, ticket.last != nil, v.err)
					}
					reused := "listener." + to.listener + ".ssl.session_reused"
					before := p.Stats()[reused]
					v := visit(t, p.Addr[to.listener], conf(to.name))
					if to.refuses != (v.err != nil) || to.refuses == strings.HasPrefix(v.answer, "HTTP/1.1 200 OK") {
						t.Errorf("the second visit: %q, %v", v.answer, v.err)
					}
					same := from.name == to.name
					if v.state.DidResume != same {
						t.Errorf("resumed %v", v.state.DidResume)
					}
					if n := p.Stats()[reused] - before; (n == 1) != same {
						t.Errorf("%s +%d", reused, n)
					}
				})
			}
		}
	}
	p.T = t
	p.Alive(t)
}
