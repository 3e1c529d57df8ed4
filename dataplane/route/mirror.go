// SPDX-License-Identifier: Apache-2.0

package route

import (
	"sidecar/dataplane/httpmsg"
	"sidecar/internal/telemetry/accesslog"
)

// Active reports whether this request is mirrored by m, by the request's random value.
func (m *Mirror) Active(q *Query) bool {
	return m.Fraction == nil || q.Runtime.Fraction(*m.Fraction).Hit(q.Rand)
}

// Finalize turns the copy of a request head into that of the mirrored request: header mutations, then the host, which gets "-shadow" behind its
// name and before its port unless another is configured or the suffix is switched off.
func (m *Mirror) Finalize(h *httpmsg.Head, rec *accesslog.Record) {
	for i := range m.Mutations {
		m.Mutations[i].Apply(h, rec)
	}
	switch host := h.Host(); {
	case m.HostLiteral != "":
		h.Authority = h.A.PutString(m.HostLiteral)
	case m.KeepHost || len(host) == 0:
	default:
		at := httpmsg.PortStart(host)
		if at < 0 {
			at = len(host)
		}
		b := append(h.A.Tail(), host[:at]...)
		b = append(b, "-shadow"...)
		h.Authority = h.A.Take(append(b, host[at:]...))
	}
}

// VirtualCluster returns the first virtual cluster that the request belongs to, or nil. A virtual host that has any ends its list with "other",
// which takes the rest.
func (v *VirtualHost) VirtualCluster(h *httpmsg.Head) *VirtualCluster {
	for i := range v.VirtualClusters {
		c := &v.VirtualClusters[i]
		ok := true
		for j := range c.Headers {
			if !c.Headers[j].Match(h) {
				ok = false
				break
			}
		}
		if ok {
			return c
		}
	}
	return nil
}

// ReleaseScopes gives back the stats scopes of a table that is out of use. Control side, once.
func (t *Table) ReleaseScopes() {
	if t.AsyncClient != nil {
		t.AsyncClient.Release()
	}
	for _, vh := range t.VHosts {
		if vh.Scope != nil {
			vh.Scope.Release()
		}
		for i := range vh.VirtualClusters {
			if s := vh.VirtualClusters[i].Scope; s != nil {
				s.Release()
			}
		}
		for _, e := range vh.Routes {
			if e.Stats != nil {
				e.Stats.Release()
			}
		}
	}
}
