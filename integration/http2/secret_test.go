// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	cachetypes "github.com/envoyproxy/go-control-plane/pkg/cache/types"

	"sidecar/internal/testctl"
)

// node is the id of the process towards its control plane.
const node = "node"

// secretListener adds a listener h whose certificate and authorities are the secrets workload and roots.
func secretListener(c *config, t *testing.T, source string) {
	c.cluster("b", backend(t, nil), "", "")
	c.listener("h", "b", fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {
    tls_certificate_sds_secret_configs: [{name: workload, sds_config: {resource_api_version: V3, %s}}],
    validation_context_sds_secret_config: {name: roots, sds_config: {resource_api_version: V3, %s}}}}},`, types, source, source), "")
}

// shows is the serial number of the certificate that the listener shows to a client with that certificate, which must be served.
func shows(t *testing.T, p *proxy, client *tls.Certificate) string {
	t.Helper()
	v := visit(t, p.Addr["h"], &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*client}}) // the serial number is what counts
	if v.err != nil || !strings.HasPrefix(v.answer, "HTTP/1.1 200 OK") {
		t.Fatalf("the listener does not serve: %q, %v", v.answer, v.err)
	}
	return v.state.PeerCertificates[0].SerialNumber.String()
}

func serial(t *testing.T, c *tls.Certificate) string {
	return parse(t, c.Certificate[0]).SerialNumber.String()
}

// brokenPairs are certificates with keys that must not be taken, and what is said about each.
func brokenPairs(t *testing.T, ca *pki) []struct {
	name, why  string
	chain, key []byte
} {
	a, b := ca.leaf(), ca.leaf()
	chain, key := pemOf(t, a)
	_, other := pemOf(t, b)
	weak, weakKey := pemOf(t, ca.leafOf(rsaKey(t, 1024)))
	return []struct {
		name, why  string
		chain, key []byte
	}{
		{"the key of another", "KEY_VALUES_MISMATCH", chain, other},
		{"half a certificate", "Failed to load certificate chain", chain[:len(chain)/2], key},
		{"half a key", "Failed to load private key", chain, key[:len(key)/2]},
		{"half the base64 of a key", "Failed to load private key", chain, bytes.Replace(key, key[60:120], nil, 1)},
		{"rubbish for a certificate", "Failed to load certificate chain", []byte("rubbish"), key},
		{"rubbish for a key", "Failed to load private key", chain, []byte("rubbish")},
		{"certificate and key exchanged", "Failed to load", key, chain},
		{"an RSA key of 1024 bits", "only RSA certificates with 2048-bit or larger keys are supported", weak, weakKey},
	}
}

func secretOf(chain, key []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: "workload", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inlined(chain), PrivateKey: inlined(key)}}}
}

func rootsOf(ca []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: "roots", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inlined(ca)}}}
}

func inlined(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func TestSDS_WhenARotationIsBroken_ThenTheOldPairServesAndTheReasonIsEverywhere(t *testing.T) {
	if envoy {
		t.Skip("/certs?verbose and the texts are ours")
	}
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			ca := newPKI(t, "ca")
			root := pemBlock("CERTIFICATE", ca.cert.Raw)
			ctl, err := testctl.NewServer(testctl.Config{PerType: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(ctl.Close)
			version := 0
			push := func(workload, roots *tlsv3.Secret) {
				t.Helper()
				version++
				if err := ctl.Set(node, fmt.Sprint(version), testctl.Resources{Secrets: []cachetypes.Resource{workload, roots}}); err != nil {
					t.Fatal(err)
				}
			}
			good, client := ca.leaf(), ca.leaf()
			goodSecret := secretOf(pemOf(t, good))
			push(goodSecret, rootsOf(root))
			var c config
			secretListener(&c, t, fmt.Sprintf("api_config_source: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}", api))
			c.cluster("xds", ctl.Addr(), "", "{}")
			p := start(t, fmt.Sprintf("node: {id: %s, cluster: c}\n", node)+c.String())
			friend := newNeighbour(t, p.Addr["h"], &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*client}})
			type broken struct {
				name, why string
				secret    *tlsv3.Secret
			}
			pushes := []broken{{"rubbish for the authorities", "Failed to load trusted CA certificates", rootsOf([]byte("rubbish"))},
				{"a pair for the authorities", "validation_context is expected", &tlsv3.Secret{Name: "roots", Type: goodSecret.Type}}}
			for _, x := range brokenPairs(t, ca) {
				pushes = append(pushes, broken{x.name, x.why, secretOf(x.chain, x.key)})
			}
			for _, x := range pushes {
				t.Run(x.name, func(t *testing.T) {
					p.T, friend.t = t, t
					before, logged := p.Stats(), len(p.Log.String())
					nacks := func() (list []string) {
						for _, r := range ctl.Requests() {
							if r.Nacked {
								list = append(list, r.Error)
							}
						}
						return list
					}
					heard := len(nacks())
					if x.secret.GetName() == "roots" {
						push(goodSecret, x.secret)
					} else {
						push(x.secret, rootsOf(root))
					}
					mark := fmt.Sprintf("SDS %q: ", x.secret.GetName())
					p.Until("a NACK", func() bool { // of several: after one, the SotW server sends the same again
						return slices.ContainsFunc(nacks()[heard:], func(n string) bool { return strings.Contains(n, mark) && strings.Contains(n, x.why) })
					})
					counter := "sds." + x.secret.GetName() + ".update_rejected"
					p.Until(counter, func() bool { return p.Stats()[counter] > before[counter] })
					if strings.Contains(strings.Join(nacks(), ""), "PRIVATE KEY") {
						t.Error("a NACK tells a key")
					}
					if line := p.Log.String()[logged:]; !strings.Contains(line, mark) || !strings.Contains(line, x.why) {
						t.Errorf("the log says %q, want %q", line, x.why)
					}
					if certs := p.Get("/certs?verbose"); !strings.Contains(certs, x.why) || !strings.Contains(certs, "last_error_since") {
						t.Errorf("/certs?verbose does not have %q:\n%s", x.why, certs)
					}
					if got := shows(t, p, client); got != serial(t, good) {
						t.Errorf("certificate %s serves, want %s", got, serial(t, good))
					}
					friend.asks()
					next := ca.leaf()
					goodSecret = secretOf(pemOf(t, next))
					push(goodSecret, rootsOf(root))
					p.Until("the next good one serves", func() bool { return shows(t, p, client) == serial(t, next) })
					good = next
					p.Until("the error is gone", func() bool { return !strings.Contains(p.Get("/certs?verbose"), "last_error") })
				})
			}
			t.Run("a certificate of another authority", func(t *testing.T) { // nothing is broken about it, but peers with these roots refuse it
				p.T, friend.t = t, t
				odd := newPKI(t, "other").leaf(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1000) })
				push(secretOf(pemOf(t, odd)), rootsOf(root))
				p.Until("it serves", func() bool { return shows(t, p, client) == "1000" })
				const why = "unable to get local issuer certificate"
				if certs := p.Get("/certs?verbose"); !strings.Contains(certs, `"warning": "TLS_error`) || !strings.Contains(certs, why) {
					t.Errorf("/certs?verbose does not warn:\n%s", certs)
				}
				if line := `secret "workload" has changed, and now a context's authorities refuse its own certificate`; !strings.Contains(p.Log.String(), line) {
					t.Error("the log does not warn")
				}
				friend.asks()
				push(goodSecret, rootsOf(root))
				p.Until("the warning is gone", func() bool { return !strings.Contains(p.Get("/certs?verbose"), why) })
			})
			p.T = t
			p.Alive(t)
		})
	}
}

func TestSecretFiles_WhenASPIFFEBundleMapChanges_ThenItIsReadAgain(t *testing.T) {
	if envoy {
		t.Skip("looks at files that are moved only")
	}
	ca, next := newPKI(t, "ca"), newPKI(t, "next")
	ca.save("workload", ca.leaf())
	bundles := func(p *pki) []byte {
		return fmt.Appendf(nil, `{"trust_domains": {"cluster.local": {"keys": [{"use": "x509-svid", "x5c": [%q]}]}}}`, base64.StdEncoding.EncodeToString(p.cert.Raw))
	}
	file := ca.write("bundles.json", bundles(ca))
	sources := ca.write("secrets.yaml", fmt.Appendf(nil, `resources:
- {"@type": %stransport_sockets.tls.v3.Secret, name: workload, tls_certificate: {certificate_chain: {filename: %s/workload.pem}, private_key: {filename: %s/workload.key}}}
- {"@type": %stransport_sockets.tls.v3.Secret, name: roots, validation_context: {custom_validator_config: {name: envoy.tls.cert_validator.spiffe, typed_config: {
    "@type": %stransport_sockets.tls.v3.SPIFFECertValidatorConfig, trust_domains: [{name: ignored.test}], trust_bundles: {filename: %s}}}}}
`, types, ca.dir, ca.dir, types, types, file))
	var c config
	secretListener(&c, t, "path_config_source: {path: "+sources+"}")
	p := start(t, c.String())
	served := func(client *tls.Certificate) bool {
		v := visit(t, p.Addr["h"], &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*client}}) // only the proxy checks
		return strings.HasPrefix(v.answer, "HTTP/1.1 200 OK")
	}
	old, young := ca.leaf(), next.leaf()
	if !served(old) || served(young) {
		t.Fatalf("before: %v %v", served(old), served(young))
	}
	ca.write("bundles.json", bundles(next))
	p.Until("the new authority counts", func() bool { return served(young) })
	if served(old) {
		t.Error("the old authority still counts")
	}
	ca.write("bundles.json", []byte(`{"trust_domains": {}}`))
	p.Until("a broken map is refused", func() bool {
		return strings.Contains(p.Get("/certs?verbose"), "no trust domains found in SPIFFE bundle")
	})
	if !served(young) || served(old) {
		t.Error("a broken map changed something")
	}
	p.Alive(t)
}

func TestSecretFiles_WhenAPairIsBrokenOrHalfWritten_ThenTheOldOneServesUntilItIsWhole(t *testing.T) {
	if envoy {
		t.Skip("looks at files that are moved only")
	}
	ca := newPKI(t, "ca")
	good, client := ca.leaf(), ca.leaf()
	ca.save("workload", good)
	sources := ca.write("secrets.yaml", []byte(fmt.Sprintf(`resources:
- {"@type": %stransport_sockets.tls.v3.Secret, name: workload, tls_certificate: {certificate_chain: {filename: %s/workload.pem}, private_key: {filename: %s/workload.key}}}
- {"@type": %stransport_sockets.tls.v3.Secret, name: roots, validation_context: {trusted_ca: {filename: %s}}}
`, types, ca.dir, ca.dir, types, ca.ca())))
	var c config
	secretListener(&c, t, "path_config_source: {path: "+sources+"}")
	p := start(t, c.String())
	friend := newNeighbour(t, p.Addr["h"], &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*client}})
	const failed = "sds.workload.key_rotation_failed"
	// half checks that the files of the moment are refused for a reason, and good serves.
	half := func(t *testing.T, before map[string]int64, why string) {
		t.Helper()
		p.Until("the files are refused", func() bool {
			return p.Stats()[failed] > before[failed] && strings.Contains(p.Get("/certs?verbose"), why)
		})
		if !strings.Contains(p.Log.String(), why) {
			t.Errorf("the log does not have %q", why)
		}
		if got := shows(t, p, client); got != serial(t, good) {
			t.Errorf("certificate %s serves, want %s", got, serial(t, good))
		}
		friend.asks()
	}
	// repair writes a pair whose halves the process may see one after the other.
	repair := func(t *testing.T) {
		t.Helper()
		good = ca.leaf()
		ca.save("workload", good)
		p.Until("the whole pair serves", func() bool { return shows(t, p, client) == serial(t, good) })
		p.Until("the error is gone", func() bool { return !strings.Contains(p.Get("/certs?verbose"), "last_error") })
		friend.asks()
	}
	for _, x := range brokenPairs(t, ca) {
		t.Run(x.name, func(t *testing.T) {
			p.T, friend.t = t, t
			before := p.Stats()
			ca.write("workload.key", x.key)
			ca.write("workload.pem", x.chain)
			half(t, before, x.why)
			repair(t)
		})
	}
	t.Run("written in place, half by half", func(t *testing.T) {
		p.T, friend.t = t, t
		next := ca.leaf()
		chain, key := pemOf(t, next)
		before := p.Stats()
		put := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(ca.dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put("workload.pem", chain[:len(chain)/2])
		half(t, before, "Failed to load certificate chain")
		before = p.Stats()
		put("workload.pem", chain)
		half(t, before, "KEY_VALUES_MISMATCH")
		before = p.Stats()
		put("workload.key", key[:len(key)/3])
		half(t, before, "Failed to load private key")
		put("workload.key", key)
		good = next
		p.Until("the whole pair serves", func() bool { return shows(t, p, client) == serial(t, good) })
		friend.asks()
	})
	t.Run("removed", func(t *testing.T) {
		p.T, friend.t = t, t
		before := p.Stats()
		if err := os.Remove(filepath.Join(ca.dir, "workload.key")); err != nil {
			t.Fatal(err)
		}
		half(t, before, "no such file")
		repair(t)
	})
	t.Run("authorities", func(t *testing.T) {
		p.T, friend.t = t, t
		ca.write("ca.pem", []byte("rubbish"))
		p.Until("the file is refused", func() bool {
			return p.Stats()["sds.roots.key_rotation_failed"] > 0 && strings.Contains(p.Get("/certs?verbose"), "Failed to load trusted CA certificates")
		})
		if got := shows(t, p, client); got != serial(t, good) {
			t.Errorf("certificate %s serves, want %s", got, serial(t, good))
		}
		friend.asks()
	})
	p.T = t
	p.Alive(t)
}
