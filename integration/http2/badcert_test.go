// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sslFaults are the counters of which a refused certificate moves exactly one.
var sslFaults = []string{"connection_error", "fail_verify_no_cert", "fail_verify_error", "fail_verify_san", "fail_verify_cert_hash"}

// badCert is a certificate that a peer shows.
type badCert struct {
	name    string
	cert    *tls.Certificate // nil: none
	counter string           // of ssl.; "" when the certificate is good
	reason  string           // in the access log
	by      string           // the validator, "" is standard
}

// badCerts are the certificates that are refused, and those that must not be. The second result are the validators by name.
func badCerts(t *testing.T, ca *pki, client bool) ([]badCert, map[string]string) {
	other, revoked, purpose := newPKI(t, "other"), ca.leaf(), change(onlyClient)
	if client {
		purpose = onlyServer
	}
	const chain = "CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_0:_"
	const list = chain + "certificate_revocation_check_against_provided_CRLs_failed:_"
	certs := []badCert{
		{name: "good", cert: ca.leaf()},
		{name: "good, RSA-2048", cert: ca.leafOf(rsaKey(t, 2048))},
		{name: "good, SPIFFE", cert: ca.leaf(), by: "spiffe"},
		{name: "another authority", cert: other.leaf(), counter: "fail_verify_error", reason: chain + "unable_to_get_local_issuer_certificate"},
		{name: "self-signed leaf", cert: ca.selfSigned(), counter: "fail_verify_error", reason: chain + "unable_to_get_local_issuer_certificate"},
		{name: "self-signed", cert: ca.selfSigned(signing), counter: "fail_verify_error", reason: chain + "self_signed_certificate"},
		{name: "expired", cert: ca.leaf(expired), counter: "fail_verify_error", reason: chain + "certificate_has_expired"},
		{name: "not yet valid", cert: ca.leaf(notYet), counter: "fail_verify_error", reason: chain + "certificate_is_not_yet_valid"},
		{name: "revoked", cert: revoked, counter: "fail_verify_error", reason: list + "certificate_revoked"},
		{name: "list of the revoked is too old", cert: ca.leaf(), by: "stale", counter: "fail_verify_error", reason: list + "CRL_has_expired"},
		{name: "list of the revoked is missing", cert: ca.leaf(), by: "listless", counter: "fail_verify_error", reason: list + "unable_to_get_certificate_CRL"},
		{name: "wrong purpose", cert: ca.leaf(purpose), counter: "fail_verify_error", reason: chain + "unsupported_certificate_purpose"},
		{name: "another workload", cert: ca.leaf(stranger), counter: "fail_verify_san", reason: "CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher"},
		{name: "another trust domain", cert: ca.leaf(foreign), counter: "fail_verify_san", reason: "CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher"},
		{name: "another trust domain, SPIFFE", cert: ca.leaf(foreign), by: "spiffe", counter: "fail_verify_error", reason: "CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_no_trust_bundle_store"},
		{name: "good, RSA-1024", cert: ca.leafOf(rsaKey(t, 1024))}, // of peers; our own have 2048 bits
		{name: "somebody else's", cert: ca.notOwned(ecKey(t), ecKey(t)), counter: "connection_error", reason: "TLS_error:|436207716:ECDSA_routines:OPENSSL_internal:BAD_SIGNATURE|268435570:SSL_routines:OPENSSL_internal:BAD_SIGNATURE:TLS_error_end"},
		{name: "somebody else's, RSA", cert: ca.notOwned(rsaKey(t, 2048), rsaKey(t, 2048)), counter: "connection_error", reason: "BAD_SIGNATURE"},
	}
	if client {
		certs = append(certs, badCert{name: "none", counter: "fail_verify_no_cert",
			reason: "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer_did_not_provide_required_client_certificate:TLS_error_end"})
	}
	standard := func(crl string) string {
		return fmt.Sprintf(`{trusted_ca: {filename: %s}, crl: {filename: %s}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://cluster.local/ns/test/sa/peer"}}]}`,
			ca.ca(), crl)
	}
	return certs, map[string]string{"standard": standard(ca.revoke("crl", time.Hour, revoked)), "stale": standard(ca.revoke("stale", -time.Minute)),
		"listless": standard(other.revoke("crl", time.Hour)),
		"spiffe": fmt.Sprintf(`{custom_validator_config: {name: envoy.tls.cert_validator.spiffe, typed_config: {"@type": %stransport_sockets.tls.v3.SPIFFECertValidatorConfig,
    trust_domains: [{name: cluster.local, trust_bundle: {filename: %s}}]}}}`, types, ca.ca())}
}

// lines is an access log that tells what line says.
func lines(file, line string) string {
	return fmt.Sprintf(`access_log: [{name: f, typed_config: {"@type": %saccess_loggers.file.v3.FileAccessLog, path: %s, log_format: {text_format_source: {inline_string: "%s\n"}}}}],`,
		types, file, line)
}

// logged waits for the line of the access log that begins with key and that no call has returned yet: ports, which make good keys, are used again.
func (p *proxy) logged(file, key string) (line string) {
	p.T.Helper()
	if p.told == nil {
		p.told = map[string]int{}
	}
	p.Until("the access log has "+key, func() bool {
		b, _ := os.ReadFile(file)
		n := p.told[file+key]
		for _, l := range strings.Split(string(b), "\n") {
			if !strings.HasPrefix(l, key+" ") {
				continue
			}
			if n--; n < 0 {
				line = l
				return true
			}
		}
		return false
	})
	p.told[file+key]++
	return line
}

// moves waits until the counters below prefix differ from before by exactly one of counter, or by none when it is "".
func (p *proxy) moves(before map[string]int64, prefix, counter string) {
	p.T.Helper()
	moved := func() (list []string) {
		now := p.Stats()
		for _, c := range sslFaults {
			if n := now[prefix+c] - before[prefix+c]; n != 0 {
				list = append(list, fmt.Sprintf("%s +%d", c, n))
			}
		}
		return list
	}
	if counter != "" {
		p.Until("a counter of "+prefix+" moves", func() bool { return len(moved()) > 0 })
		counter += " +1"
	}
	if got := strings.Join(moved(), ", "); got != counter {
		p.T.Errorf("counters %q, want %q", got, counter)
	}
}

// neighbour is a client whose one connection must outlive what others suffer.
type neighbour struct {
	t     *testing.T
	url   string
	cl    *http.Client
	dials int
}

func newNeighbour(t *testing.T, addr string, conf *tls.Config) *neighbour {
	n := &neighbour{t: t, url: "http://" + addr + "/"}
	tr := &http.Transport{TLSClientConfig: conf}
	tr.Dial = func(network, addr string) (net.Conn, error) { n.dials++; return net.Dial(network, addr) }
	if conf != nil {
		n.url = "https://" + addr + "/"
	}
	n.cl = &http.Client{Transport: tr, Timeout: patience}
	t.Cleanup(tr.CloseIdleConnections)
	n.asks()
	return n
}

func (n *neighbour) asks() {
	n.t.Helper()
	resp, err := n.cl.Get(n.url)
	if err != nil {
		n.t.Errorf("the neighbour's request: %v", err)
		return
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(b) != "hello, world\n" {
		n.t.Errorf("the neighbour got %d %q, %v", resp.StatusCode, b, err)
	}
	if n.dials != 1 {
		n.t.Errorf("the neighbour needed %d connections", n.dials)
	}
}

var tlsVersions = []struct {
	name string
	id   uint16
}{{"TLSv1.2", tls.VersionTLS12}, {"TLSv1.3", tls.VersionTLS13}}

func TestClientCertificate_WhenItIsWrong_ThenRefusedCountedAndLogged(t *testing.T) {
	ca := newPKI(t, "ca")
	ca.save("server", ca.leaf())
	certs, validators := badCerts(t, ca, true)
	file := filepath.Join(t.TempDir(), "access.log")
	var c config
	c.cluster("b", backend(t, nil), "", "")
	for name, validation := range validators {
		c.listener(name, "b", fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true,
    common_tls_context: {tls_certificates: [{certificate_chain: {filename: %s/server.pem}, private_key: {filename: %s/server.key}}], validation_context: %s}}},`,
			types, ca.dir, ca.dir, validation), "")
		last := len(c.listeners) - 1
		c.listeners[last] = strings.Replace(c.listeners[last], "{", "{stat_prefix: "+name+", "+lines(file, "%DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_TRANSPORT_FAILURE_REASON%")+" ", 1)
	}
	p := start(t, c.String())
	client := func(cert *tls.Certificate, version uint16) *tls.Config {
		conf := &tls.Config{InsecureSkipVerify: true, MaxVersion: version} // only the proxy checks
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		}
		return conf
	}
	friend := newNeighbour(t, p.Addr["standard"], client(ca.leaf(), 0))
	for _, version := range tlsVersions {
		for _, x := range certs {
			t.Run(version.name+"/"+x.name, func(t *testing.T) {
				p.T = t
				listener := cmp.Or(x.by, "standard")
				before := p.Stats()
				v := visit(t, p.Addr[listener], client(x.cert, version.id))
				if good := x.counter == ""; good != (v.err == nil) || good != strings.HasPrefix(v.answer, "HTTP/1.1 200 OK") {
					t.Errorf("got %q, %v", v.answer, v.err)
				}
				p.moves(before, "listener."+listener+".ssl.", x.counter)
				line := p.logged(file, v.port)
				if x.reason == "" && x.counter == "" && line != v.port+" -" || !strings.Contains(line, x.reason) {
					t.Errorf("the log says %q, want %q", line, x.reason)
				}
				friend.t = t
				friend.asks()
			})
		}
	}
	p.T = t
	p.Alive(t)
}

// visited is what came of a visit.
type visited struct {
	port   string // local, as the access log has it
	answer string
	state  tls.ConnectionState
	err    error
}

// visit makes one request on a connection of its own.
func visit(t *testing.T, addr string, conf *tls.Config) (v visited) {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, v.port, _ = net.SplitHostPort(raw.LocalAddr().String())
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, conf)
	if v.err = c.Handshake(); v.err != nil {
		return v
	}
	v.state = c.ConnectionState()
	if _, v.err = io.WriteString(c, "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n"); v.err != nil {
		return v
	}
	b, err := io.ReadAll(c) // with TLS 1.3 a refused client learns of it only here
	v.answer, v.err = string(b), err
	return v
}

func TestServerCertificate_WhenItIsWrong_ThenRefusedCountedAndLogged(t *testing.T) {
	ca := newPKI(t, "ca")
	certs, validators := badCerts(t, ca, false)
	file := filepath.Join(t.TempDir(), "access.log")
	log := lines(file, "%UPSTREAM_CLUSTER% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%")
	var c config
	names := map[string]string{}
	for _, version := range tlsVersions {
		for i, x := range certs {
			name := fmt.Sprintf("%s-%d", strings.ReplaceAll(version.name, ".", ""), i)
			names[version.name+x.name] = name
			validation := validators[cmp.Or(x.by, "standard")]
			addr := backend(t, &tls.Config{Certificates: []tls.Certificate{*x.cert}, MaxVersion: version.id, NextProtos: []string{"http/1.1"}})
			c.cluster(name, addr, fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.UpstreamTlsContext, sni: %s,
    common_tls_context: {tls_params: {tls_maximum_protocol_version: TLSv1_3}, validation_context: %s}}},`, types, serverName, validation), "")
			c.listener(name, name, "", log)
		}
	}
	p := start(t, c.String())
	friend := newNeighbour(t, p.Addr[names["TLSv1.3good"]], nil)
	for _, version := range tlsVersions {
		for _, x := range certs {
			t.Run(version.name+"/"+x.name, func(t *testing.T) {
				p.T = t
				name := names[version.name+x.name]
				before := p.Stats()
				resp, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + p.Addr[name] + "/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				p.moves(before, "cluster."+name+".ssl.", x.counter)
				if x.counter == "" {
					if resp.StatusCode != 200 {
						t.Errorf("status %d %s", resp.StatusCode, body)
					}
					return
				}
				line := p.logged(file, name)
				if want := name + " 503 UF TLS_error:"; resp.StatusCode != 503 || !strings.HasPrefix(line, want) || !strings.Contains(line, x.reason) {
					t.Errorf("status %d, the log says %q, want %q with %q", resp.StatusCode, line, want, x.reason)
				}
				if n := p.Stats()["cluster."+name+".upstream_cx_connect_fail"]; n != 1 {
					t.Errorf("upstream_cx_connect_fail is %d", n)
				}
				friend.t = t
				friend.asks()
			})
		}
	}
	p.T = t
	p.Alive(t)
}
