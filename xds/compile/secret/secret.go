// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"crypto/sha256"
	"errors"
	"os"
	"weak"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/registry"
)

// maxSource bounds what one data source may hold, in bytes; the bundle of all public roots has about 220 KB.
const maxSource = 16 << 20

// Compiler compiles secrets. Control-owned: one goroutine.
type Compiler struct {
	// Immutable
	ReadFile func(path string) ([]byte, error)                 // nil = os.ReadFile
	Environ  func(name string) (string, bool)                  // nil = os.LookupEnv
	bundles  map[[sha256.Size]byte]weak.Pointer[policy.Bundle] // by text: ten thousand contexts with one authority share it
}

// Result is a compiled secret, and what to watch for changes of it.
type Result struct {
	Secret *policy.Secret
	Watch  Watch
}

// Watch is where the content of a secret came from, as far as it can change.
type Watch struct {
	Files     []string // data sources with a filename
	Directory string   // watched_directory.path; "" = the directories of Files
}

// source is one compilation.
type source struct {
	k     *Compiler
	c     *registry.Ctx
	watch Watch
	errs  []error
}

func (k *Compiler) begin(c *registry.Ctx) *source {
	own := *c
	own.Schema = schema
	return &source{k: k, c: &own}
}

func (s *source) fail(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

// Compile compiles a decoded and validated Secret at c.Path. All errors come back at once, each with its path.
func (k *Compiler) Compile(c *registry.Ctx, m *tlsv3.Secret) (*Result, error) {
	s := k.begin(c)
	s.fail(s.c.Check(m))
	out := &policy.Secret{Name: m.GetName()}
	switch t := m.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		out.Certificate = s.certificate("tls_certificate", t.TlsCertificate)
	case *tlsv3.Secret_ValidationContext:
		out.Validation = s.validation("validation_context", t.ValidationContext)
	case *tlsv3.Secret_SessionTicketKeys:
		out.Tickets = s.tickets("session_ticket_keys", t.SessionTicketKeys)
	case *tlsv3.Secret_GenericSecret:
		out.Generic = s.generic("generic_secret", t.GenericSecret)
	default:
		s.fail(s.c.Errorf("", "Secret type not implemented"))
	}
	if err := errors.Join(s.errs...); err != nil {
		return nil, err
	}
	return &Result{out, s.watch}, nil
}

// Certificate compiles a TlsCertificate at c.Path whose fields were checked by the caller's schema.
func (k *Compiler) Certificate(c *registry.Ctx, m *tlsv3.TlsCertificate) (*policy.Certificate, error) {
	s := k.begin(c)
	out := s.certificate("", m)
	return out, errors.Join(s.errs...)
}

// Validation compiles a CertificateValidationContext at c.Path whose fields were checked by the caller's schema.
func (k *Compiler) Validation(c *registry.Ctx, m *tlsv3.CertificateValidationContext) (*policy.Validation, error) {
	s := k.begin(c)
	out := s.validation("", m)
	return out, errors.Join(s.errs...)
}

// Tickets compiles TlsSessionTicketKeys at c.Path whose fields were checked by the caller's schema.
func (k *Compiler) Tickets(c *registry.Ctx, m *tlsv3.TlsSessionTicketKeys) (*policy.TicketKeys, error) {
	s := k.begin(c)
	out := s.tickets("", m)
	return out, errors.Join(s.errs...)
}

// read returns what a data source holds and how Envoy names it in errors; ok is false when it failed. An absent source is empty.
func (s *source) read(at registry.Path, d *corev3.DataSource) (b []byte, where string, ok bool) {
	where = "<inline>"
	if d == nil {
		return nil, where, true
	}
	switch x := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineBytes:
		b = x.InlineBytes
	case *corev3.DataSource_InlineString:
		b = []byte(x.InlineString)
	case *corev3.DataSource_EnvironmentVariable:
		look := s.k.Environ
		if look == nil {
			look = os.LookupEnv
		}
		text, there := look(x.EnvironmentVariable)
		if !there {
			s.fail(s.c.Errorf(at.Field("environment_variable"), "Environment variable doesn't exist: %s", x.EnvironmentVariable))
			return nil, where, false
		}
		b = []byte(text)
	case *corev3.DataSource_Filename:
		where = x.Filename
		s.watch.Files = append(s.watch.Files, where)
		open := s.k.ReadFile
		if open == nil {
			open = os.ReadFile
		}
		var err error
		if b, err = open(where); err != nil {
			s.fail(s.c.Errorf(at.Field("filename"), "%w", err))
			return nil, where, false
		}
	default:
		s.fail(s.c.Errorf(at, "Unexpected DataSource::specifier_case(): %d", 0))
		return nil, where, false
	}
	if len(b) > maxSource {
		s.fail(s.c.Errorf(at, "holds more than %d bytes", maxSource))
		return nil, where, false
	}
	return b, where, true
}

func (s *source) watchDirectory(d *corev3.WatchedDirectory) {
	if d != nil {
		s.watch.Directory = d.GetPath()
	}
}

func (s *source) tickets(at registry.Path, m *tlsv3.TlsSessionTicketKeys) *policy.TicketKeys {
	out := &policy.TicketKeys{}
	for i, d := range m.GetKeys() {
		here := at.Index("keys", i)
		b, _, ok := s.read(here, d)
		switch {
		case !ok:
		case len(b) != policy.TicketKeySize:
			s.fail(s.c.Errorf(here, "Incorrect TLS session ticket key length. Length %d, expected length %d.", len(b), policy.TicketKeySize))
		default:
			out.Keys = append(out.Keys, [policy.TicketKeySize]byte(b))
		}
	}
	if len(m.GetKeys()) == 0 {
		s.fail(s.c.Errorf(at.Field("keys"), "value must contain at least 1 item(s)"))
	}
	return out
}

func (s *source) generic(at registry.Path, m *tlsv3.GenericSecret) *policy.Generic {
	out := &policy.Generic{Secrets: map[string][]byte{}}
	out.Secret, _, _ = s.read(at.Field("secret"), m.GetSecret())
	for name, d := range m.GetSecrets() {
		out.Secrets[name], _, _ = s.read(at.Key("secrets", name), d)
	}
	return out
}
