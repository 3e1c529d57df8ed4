// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sidecar/xds/resource"
)

// Material is one certificate in force.
type Material struct {
	Certificate *x509.Certificate
	Path        string // of its file; "<inline>" otherwise
	// OCSP validity of a stapled response; zero without one.
	OCSPFrom, OCSPUntil time.Time
}

// expiresSoon is how long before its end a certificate of a secret is warned about: a rotation at half or two thirds of any usual lifetime is overdue then.
const expiresSoon = time.Hour

// redactedSecret is a secret as dumps may show it.
func redactedSecret(m *tlsv3.Secret) *anypb.Any {
	a, err := anypb.New(resource.Redacted(m))
	if err != nil {
		return nil // it was decoded, so it encodes
	}
	return a
}

// eachContext calls fn for every TLS context there is, of active and warming versions.
func (c *Controller) eachContext(fn func(TLSContext)) {
	each := func(u *tlsUse) {
		if u != nil {
			for _, b := range u.contexts {
				fn(b.TLSContext)
			}
		}
	}
	for _, s := range c.order {
		for _, v := range []*listenerVersion{s.active, s.warming} {
			if v != nil {
				each(v.tls)
			}
		}
	}
	for _, n := range sortedKeys(c.clusters) {
		s := c.clusters[n]
		for _, v := range []*clusterVersion{s.serving, s.warming} {
			if v != nil {
				each(v.tls)
			}
		}
	}
}

// Certificates is /certs: what every TLS context uses now. Any goroutine.
func (c *Controller) Certificates() *adminv3.Certificates {
	out := &adminv3.Certificates{}
	c.Call(dumpTimeout, func() {
		now := time.Now()
		c.eachContext(func(x TLSContext) {
			own, authorities := x.Materials()
			if len(own)+len(authorities) == 0 {
				return
			}
			cert := &adminv3.Certificate{}
			for i := range authorities {
				cert.CaCert = append(cert.CaCert, certificateDetails(&authorities[i], now))
			}
			for i := range own {
				cert.CertChain = append(cert.CertChain, certificateDetails(&own[i], now))
			}
			out.Certificates = append(out.Certificates, cert)
		})
	})
	return out
}

// SecretStatus is what /certs says about one secret beyond Envoy's shape.
type SecretStatus struct {
	Name    string    `json:"name"`
	Stage   string    `json:"stage"` // "active", or "warming" before the first good version
	Version string    `json:"version_info,omitempty"`
	Updated time.Time `json:"last_updated"`
	// Error is why the last version was refused, since when; the one before keeps serving.
	Error []string   `json:"last_error,omitempty"`
	Since *time.Time `json:"last_error_since,omitempty"`
	// Warning is why the authorities of a context that uses the secret refuse the context's own certificate, although they did not always.
	Warning string `json:"warning,omitempty"`
}

// SecretStatuses lists the secrets with what went wrong last. Any goroutine.
func (c *Controller) SecretStatuses() (out []SecretStatus) {
	c.Call(dumpTimeout, func() {
		for _, st := range c.sortedSecrets() {
			x := SecretStatus{Name: st.key.name, Stage: "active", Version: st.version, Updated: st.updated}
			if st.content == nil {
				x.Stage, x.Updated = "warming", st.since
			}
			if r := c.rejected[resource.Secret.String()+"/"+st.key.name]; r != nil {
				x.Error, x.Since = r.Details, &r.Since
			}
			if err := st.warning(); err != nil {
				x.Warning = err.Error()
			}
			out = append(out, x)
		}
	})
	return out
}

// warning is what is doubtful about the contexts that use a secret; nil for nothing.
func (st *secretState) warning() error {
	for _, u := range st.users {
		for _, b := range u.naming[st] {
			if err := b.warning(); err != nil {
				return err
			}
		}
	}
	return nil
}

// certificateDetails is one certificate as /certs shows it.
func certificateDetails(m *Material, now time.Time) *adminv3.CertificateDetails {
	x := m.Certificate
	d := &adminv3.CertificateDetails{Path: m.Path, SerialNumber: hex.EncodeToString(x.SerialNumber.Bytes()), DaysUntilExpiration: daysUntil(x.NotAfter, now),
		ValidFrom: timestamppb.New(x.NotBefore), ExpirationTime: timestamppb.New(x.NotAfter)}
	for _, n := range x.DNSNames {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Dns{Dns: n}})
	}
	for _, n := range x.URIs {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Uri{Uri: n.String()}})
	}
	for _, n := range x.IPAddresses {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_IpAddress{IpAddress: n.String()}})
	}
	if !m.OCSPUntil.IsZero() {
		d.OcspDetails = &adminv3.CertificateDetails_OcspDetails{ValidFrom: timestamppb.New(m.OCSPFrom), Expiration: timestamppb.New(m.OCSPUntil)}
	}
	return d
}

// daysUntil is the number of whole days left, 0 when the time is over.
func daysUntil(end, now time.Time) uint64 {
	if !end.After(now) {
		return 0
	}
	return uint64(end.Sub(now) / (24 * time.Hour))
}

// expiry is when certificates in force end; worked out again only after a context or a secret has changed.
type expiry struct {
	known bool
	first time.Time // of all certificates and authorities; zero = there are none
	own   time.Time // of those that are presented
}

// expiryTimeout bounds how long the asker waits: it serves signals too.
const expiryTimeout = 100 * time.Millisecond

// FirstExpiry is server.days_until_first_cert_expiring, as Envoy counts it: over all certificates and authorities, math.MaxUint32 when there are none and 0
// when one has expired. It also writes one line for each secret whose certificate is about to expire. Any goroutine; false when the controller is busy.
func (c *Controller) FirstExpiry() (days uint32, ok bool) {
	days = math.MaxUint32
	ok = c.Call(expiryTimeout, func() {
		now := time.Now()
		e := c.firstExpiry()
		if !e.first.IsZero() {
			days = uint32(daysUntil(e.first, now))
		}
		if !e.own.IsZero() && e.own.Sub(now) <= expiresSoon {
			c.warnOfExpiry(now)
		}
	})
	return days, ok
}

func (c *Controller) firstExpiry() *expiry {
	e := &c.expiry
	if e.known {
		return e
	}
	*e = expiry{known: true}
	earlier := func(t *time.Time, list []Material) {
		for i := range list {
			if end := list[i].Certificate.NotAfter; t.IsZero() || end.Before(*t) {
				*t = end
			}
		}
	}
	c.eachContext(func(x TLSContext) {
		own, authorities := x.Materials()
		earlier(&e.own, own)
		earlier(&e.first, own)
		earlier(&e.first, authorities)
	})
	return e
}

// warnOfExpiry writes one line for each secret whose certificate ends within the hour, or within the last quarter of a shorter life: its control
// plane should have sent another by now.
func (c *Controller) warnOfExpiry(now time.Time) {
	for _, st := range c.secrets {
		if st.warned {
			continue
		}
		for _, u := range st.users {
			for _, b := range u.naming[st] {
				if !st.warned {
					c.warnOf(st, b, now)
				}
			}
		}
	}
}

func (c *Controller) warnOf(st *secretState, b *boundContext, now time.Time) {
	own, _ := b.Materials()
	for i := range own {
		begin, end := own[i].Certificate.NotBefore, own[i].Certificate.NotAfter
		if end.Sub(now) > min(expiresSoon, end.Sub(begin)/4) {
			continue
		}
		st.warned = true
		c.cfg.Log("warning", "config", "a certificate of a context that uses secret %q expires at %s and was not renewed", st.key.name, end.UTC().Format(time.RFC3339))
		return
	}
}

func (c *Controller) dumpSecrets(q *Query) *adminv3.SecretsConfigDump {
	d := &adminv3.SecretsConfigDump{}
	for _, st := range c.sortedSecrets() {
		name := st.key.name
		if !q.takes(name) {
			continue
		}
		x := &adminv3.SecretsConfigDump_DynamicSecret{Name: name, VersionInfo: st.version, LastUpdated: stamp(st.updated), Secret: st.shown(),
			ErrorState: c.failure(resource.Secret, name)}
		switch {
		case st.key.feed == nil:
			d.StaticSecrets = append(d.StaticSecrets, &adminv3.SecretsConfigDump_StaticSecret{Name: name, Secret: x.Secret})
		case st.content == nil:
			x.VersionInfo, x.LastUpdated = "uninitialized", stamp(st.since)
			d.DynamicWarmingSecrets = append(d.DynamicWarmingSecrets, x)
		default:
			d.DynamicActiveSecrets = append(d.DynamicActiveSecrets, x)
		}
	}
	return d
}

// shown is the secret as dumps show it: with its name, without what is private.
func (st *secretState) shown() *anypb.Any {
	m := &tlsv3.Secret{}
	if st.content != nil {
		_ = proto.Unmarshal(st.content.shown, m) // it was encoded here
	}
	m.Name = st.key.name
	a, err := anypb.New(m)
	if err != nil {
		return nil
	}
	return a
}

// sortedSecrets lists the secrets by name, then by source.
func (c *Controller) sortedSecrets() []*secretState {
	out := make([]*secretState, 0, len(c.secrets))
	for _, st := range c.secrets {
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b *secretState) int {
		return cmp.Or(strings.Compare(a.key.name, b.key.name), strings.Compare(a.source(), b.source()))
	})
	return out
}

func (st *secretState) source() string {
	if st.key.feed == nil {
		return ""
	}
	return st.key.feed.key
}
