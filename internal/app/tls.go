// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/x509"
	"errors"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/cluster"
	"sidecar/xds/compile/listener"
	"sidecar/xds/compile/secret"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/controller"
	"sidecar/xds/registry"
)

// tlsContext shows a context of the model to the controller, which brings it its secrets.
type tlsContext struct {
	context interface {
		Update(policy.Lookup) error
		Materials() ([]*policy.Certificate, *policy.Validation)
	}
	refs   []transportsocket.SecretRef
	server bool
	doubts *policy.Doubts // of all contexts
}

// Secrets implements controller.TLSContext.
func (x *tlsContext) Secrets() []controller.SecretRef {
	out := make([]controller.SecretRef, len(x.refs))
	for i, r := range x.refs {
		out[i] = controller.SecretRef{Key: r.Key, Name: r.Name, Source: r.Source, Path: r.Path, Fits: func(content any) error { return fits(r.Kind, content) }}
	}
	return out
}

// fits tells whether a secret is of the kind that a context asks for.
func fits(k transportsocket.Kind, content any) error {
	s, _ := content.(*policy.Secret)
	switch {
	case s == nil:
		return errors.New("has no content")
	case k == transportsocket.KindCertificate && s.Certificate == nil:
		return errors.New("tls_certificate is expected: a context uses it as its certificate")
	case k == transportsocket.KindValidation && s.Validation == nil:
		return errors.New("validation_context is expected: a context validates its peers with it")
	case k == transportsocket.KindTickets && s.Tickets == nil:
		return errors.New("session_ticket_keys are expected: a context seals its tickets with them")
	}
	return nil
}

// Update implements controller.TLSContext.
func (x *tlsContext) Update(find func(key string) any) error {
	return x.context.Update(func(key string) *policy.Secret {
		s, _ := find(key).(*policy.Secret)
		return s
	})
}

// Doubt implements controller.TLSContext.
func (x *tlsContext) Doubt() error {
	certs, v := x.context.Materials()
	return x.doubts.Of(time.Now, certs, v, x.server)
}

// Materials implements controller.TLSContext.
func (x *tlsContext) Materials() (own, authorities []controller.Material) {
	certs, v := x.context.Materials()
	for _, c := range certs {
		m := controller.Material{Certificate: c.Leaf, Path: c.Path}
		if s := c.Staple; s != nil {
			m.OCSPFrom = time.Unix(s.ThisUpdate, 0)
			if s.NextUpdate != 0 {
				m.OCSPUntil = time.Unix(s.NextUpdate, 0)
			}
		}
		own = append(own, m)
	}
	add := func(list []*x509.Certificate, path string) {
		for _, c := range list {
			authorities = append(authorities, controller.Material{Certificate: c, Path: path})
		}
	}
	switch {
	case v == nil:
	case v.SPIFFE != nil:
		for _, b := range v.SPIFFE {
			add(b.Certs, "<inline>")
		}
	case v.CA != nil:
		add(v.CA.Certs, v.CAPath)
	}
	return own, authorities
}

// plugTLS lets the controller bring secrets to the contexts of listeners and clusters.
func plugTLS(k *controller.Compilers, compiler *secret.Compiler) {
	k.Secrets = compiler
	k.Secret = func(ctx *registry.Ctx, s *tlsv3.Secret) (any, error) {
		r, err := compiler.Compile(ctx, s)
		if err != nil {
			return nil, err
		}
		return r.Secret, nil
	}
	doubts := &policy.Doubts{}
	k.ListenerTLS = func(r *listener.Result) (out []controller.TLSContext) {
		for _, x := range r.TLS {
			out = append(out, &tlsContext{x.TLS, x.Secrets, true, doubts})
		}
		return out
	}
	k.ClusterTLS = func(r *cluster.Result) (out []controller.TLSContext) {
		for _, x := range r.TLS {
			out = append(out, &tlsContext{x.TLS, x.Secrets, false, doubts})
		}
		return out
	}
}
