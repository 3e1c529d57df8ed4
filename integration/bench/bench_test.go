// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestStraceTotal_WhenErrorsColumnVaries_ThenCallsAreSummed(t *testing.T) {
	const text = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.010000           5      2000           sendto
 40.00    0.008000           4      2100        12 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.018000           4      4100        12 total
`
	if n, err := straceTotal(text); err != nil || n != 4100 {
		t.Errorf("straceTotal = %d, %v", n, err)
	}
	if _, err := straceTotal("strace: attach: denied"); err == nil {
		t.Error("nothing counted is not an error")
	}
}

func TestConfig_WhenManyRoutes_ThenEveryProxyHasThemAll(t *testing.T) {
	for _, kind := range []string{"prefix", "exact", "mixed", "regex"} {
		c := &config{routes: kind, log: true, dir: "d", port: 1, admin: 2, upstream: 3}
		n := c.routeCount()
		if got := strings.Count(c.envoy(), "route: {cluster: backend}"); got != n {
			t.Errorf("%s: envoy has %d routes of %d", kind, got, n)
		}
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(c.envoy()), &doc); err != nil {
			t.Errorf("%s: the bootstrap is not YAML: %v", kind, err)
		}
		if got := strings.Count(c.nginx("none"), "    location "); got != n {
			t.Errorf("%s: nginx has %d locations of %d", kind, got, n)
		}
		lines := 0
		_, maps := c.haproxy()
		for _, m := range maps {
			lines += strings.Count(m, "\n")
		}
		if lines != n {
			t.Errorf("%s: haproxy has %d map entries of %d", kind, lines, n)
		}
	}
}

func TestConfig_WhenMeshProtocols_ThenEveryProxyIsToldTheSame(t *testing.T) {
	for _, tt := range []struct {
		name                    string
		cfg                     config
		envoy, nginx, haproxy   []string
		envoyNo, nginxNo, hapNo string
	}{
		{"TLS", config{key: "rsa"}, []string{"server-rsa.key", "require_client_certificate: false", "ecdh_curves: [X25519]"},
			[]string{"listen 127.0.0.1:1 backlog=4096 ssl;", "server-rsa.key", "ssl_ecdh_curve X25519"},
			[]string{"bind 127.0.0.1:1 ssl crt certs/server-rsa.both", "X-Forwarded-Proto https"}, "trusted_ca", "ssl_verify_client", "verify"},
		{"mutual TLS", config{key: "ecdsa", mutual: true}, []string{"require_client_certificate: true", "trusted_ca: {filename: certs/ca-ecdsa.pem}"},
			[]string{"ssl_verify_client on", "ssl_client_certificate certs/ca-ecdsa.pem"}, []string{"ca-file certs/ca-ecdsa.pem verify required"}, "alpn", "http2", "alpn"},
		{"two listeners", config{key: "rsa", plain: true}, []string{"port_value: 1}", "port_value: 3}"}, []string{"127.0.0.1:3 backlog=4096;"},
			[]string{"bind 127.0.0.1:3\n"}, "HTTP2", "http2", "proto h2"},
		{"h2c to h1", config{h2: true}, []string{"codec_type: HTTP2"}, []string{"backlog=4096 http2;", "proxy_pass http://backend"}, []string{"127.0.0.1:1 proto h2"},
			"http2_protocol_options", "grpc", "-1 proto h2"},
		{"TLS h2 to h2c", config{key: "ecdsa", h2: true, grpc: true}, []string{"alpn_protocols: [h2]", "http2_protocol_options"}, []string{"ssl http2;", "grpc_pass grpc://backend"},
			[]string{"alpn h2", "-1 proto h2"}, "require_client_certificate: true", "proxy_pass", "127.0.0.1:1 proto h2"},
		{"mutual TLS to the backend", config{key: "ecdsa", h2: true, grpc: true, upstreamTLS: true}, []string{"UpstreamTlsContext", "certs/client-ecdsa.key", "exact: bench.test"},
			[]string{"grpcs://backend", "grpc_ssl_certificate_key certs/client-ecdsa.key", "grpc_ssl_verify on"}, []string{"crt certs/client-ecdsa.both", "verifyhost bench.test"},
			"require_client_certificate: true", "ssl_verify_client", "proto h2"},
	} {
		c := tt.cfg
		c.dir, c.certs, c.port, c.admin, c.plainPort, c.upstream = "d", "certs", 1, 2, 3, 4
		haproxy, _ := c.haproxy()
		for _, p := range []struct {
			peer, text, without string
			with                []string
		}{{"envoy", c.envoy(), tt.envoyNo, tt.envoy}, {"nginx", c.nginx("none"), tt.nginxNo, tt.nginx}, {"haproxy", haproxy, tt.hapNo, tt.haproxy}} {
			for _, want := range p.with {
				if !strings.Contains(p.text, want) {
					t.Errorf("%s: %s lacks %q:\n%s", tt.name, p.peer, want, p.text)
				}
			}
			if strings.Contains(p.text, p.without) {
				t.Errorf("%s: %s has %q:\n%s", tt.name, p.peer, p.without, p.text)
			}
		}
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(c.envoy()), &doc); err != nil {
			t.Errorf("%s: the bootstrap is not YAML: %v", tt.name, err)
		}
	}
}

func TestCertificates_WhenMade_ThenKeysMatchAndChainsVerify(t *testing.T) {
	dir := t.TempDir()
	if err := makeCertificates(dir); err != nil {
		t.Fatal(err)
	}
	usage := map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth}
	for _, kind := range keyKinds {
		ca, err := os.ReadFile(filepath.Join(dir, "ca-"+kind+".pem"))
		roots := x509.NewCertPool()
		if err != nil || !roots.AppendCertsFromPEM(ca) {
			t.Fatalf("CA %s: %v", kind, err)
		}
		for role, eku := range usage {
			base := filepath.Join(dir, role+"-"+kind)
			pair, err := tls.LoadX509KeyPair(base+".pem", base+".key")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{eku}}); err != nil {
				t.Errorf("%s %s: %v", role, kind, err)
			}
			if _, err := tls.LoadX509KeyPair(base+".both", base+".both"); err != nil {
				t.Errorf("%s %s: both in one file: %v", role, kind, err)
			}
		}
	}
}

func TestReport_WhenRoundsAreIncomplete_ThenRatiosPairWithinRounds(t *testing.T) {
	r := &report{Environment: map[string]string{"rounds": "3", "command": "a <b> & c"}, Ratios: map[string]map[string]map[string]spread{}}
	add := func(round int, peer string, v float64) {
		r.add(sample{Scenario: "h1-sat-log", Round: round, Peer: peer, Metrics: map[string]float64{"cpu_us": v}})
	}
	add(1, "sidecar", 10)
	add(1, "nginx", 20)
	add(2, "sidecar", 30)
	add(3, "sidecar", 12)
	add(3, "nginx", 16)
	r.skip("h1-sat-log", "envoy", errors.New("not there"))
	var out strings.Builder
	r.print(&out, scenarios[0])
	q := r.Ratios["h1-sat-log"]["cpu_us"]["nginx"]
	if q.N != 2 || q.Min != 0.5 || q.Max != 0.75 || q.Median != 0.625 {
		t.Errorf("ratio = %+v", q)
	}
	if !strings.Contains(out.String(), "left out: h1-sat-log envoy: not there") {
		t.Errorf("the table does not say what is missing:\n%s", out.String())
	}
	d := xml.NewDecoder(strings.NewReader(r.svg()))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the plot is not XML: %v", err)
		}
	}
}
