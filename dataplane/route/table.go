// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// Table is one compiled RouteConfiguration. Immutable once Freeze has run.
type Table struct {
	// Immutable
	Name                 string
	Hash                 uint64    // content hash of the resource
	Ref                  *TableRef // under which snapshots hold the table; set by the control side before publication. IDs are used again
	Mutations            Mutations
	MostSpecificWins     bool         // most_specific_header_mutations_wins
	IgnorePort           bool         // ignore_port_in_host_matching
	IgnorePathParameters bool         // ignore_path_parameters_in_path_matching
	VHostHeader          *httpmsg.Key // vhost_header: takes the place of the host; nil = the host
	ValidateClusters     bool
	MaxDirectBody        uint32        // max_direct_response_body_size_bytes, default 4096
	Clusters             []*ClusterRef // every cluster the table can name literally, for warming and validation
	InternalOnly         []string      // internal_only_headers
	PerFilter            []PerFilter
	Metadata             map[string]any
	VHosts               []*VirtualHost
	Mirrors              []Mirror
	VHDS                 *VHDS        // virtual hosts come also by themselves; nil = they do not
	AsyncClient          *stats.Scope // stats.AsyncClientDef, counts mirrored requests; nil when nothing is mirrored

	internalOnly []httpmsg.Key
	exact        map[string]*VirtualHost // lower-case domain
	suffix       radix                   // "*.foo": keys are reversed, values index wild
	prefix       radix                   // "foo.*"
	wild         []*VirtualHost
	any          *VirtualHost // "*"
}

// VHDS is what requests for unknown hosts need to know of RouteConfiguration.vhds.
type VHDS struct {
	// Wait is how long a request waits for its virtual host: initial_fetch_timeout. 0 = as long as it may.
	Wait sys.Nanos
}

// Verdict is the outcome of Table.Match.
type Verdict uint8

// The verdicts.
const (
	// NotFound: no virtual host or no route (404 NR route_not_found).
	NotFound Verdict = iota
	// Matched: the entry is set.
	Matched
	// TLSRedirect: require_tls of the virtual host asks for a 301 to the same URL under https; the entry is nil.
	TLSRedirect
)

// Freeze builds the indexes over VHosts and their Domains and Routes and sets the back pointers. It must run once, after which neither may
// change. Of two virtual hosts with the same domain the first wins; the compiler refuses that beforehand.
func (t *Table) Freeze() {
	t.exact = map[string]*VirtualHost{}
	t.internalOnly = nil
	for _, n := range t.InternalOnly {
		t.internalOnly = append(t.internalOnly, httpmsg.KeyOf(n))
	}
	var suffixes, prefixes []radixKey
	for _, vh := range t.VHosts {
		vh.Table = t
		for i, e := range vh.Routes {
			e.VHost = vh
			e.order = int32(i)
			for _, m := range [...]*Mutations{&t.Mutations, &vh.Mutations, &e.Mutations} {
				e.requests = e.requests || !m.Request.empty()
				e.responses = e.responses || !m.Response.empty()
			}
			if e.Redirect != nil {
				e.Redirect.entry = e
			}
		}
		vh.index = newIndex(vh.Routes)
		for _, d := range vh.Domains {
			low := match.AppendLower(nil, []byte(d))
			switch {
			case d == "*":
				if t.any == nil {
					t.any = vh
				}
			case len(low) > 0 && low[0] == '*':
				suffixes = append(suffixes, radixKey{string(reversed(low[1:])), int32(len(t.wild))})
				t.wild = append(t.wild, vh)
			case len(low) > 0 && low[len(low)-1] == '*':
				prefixes = append(prefixes, radixKey{string(low[:len(low)-1]), int32(len(t.wild))})
				t.wild = append(t.wild, vh)
			default:
				if _, dup := t.exact[string(low)]; !dup {
					t.exact[string(low)] = vh
				}
			}
		}
	}
	t.suffix = newRadix(suffixes)
	t.prefix = newRadix(prefixes)
}

// Release gives back the statistics of the table; requests that still run under it count in vain. Control side.
func (t *Table) Release() {
	for _, vh := range t.VHosts {
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

func reversed(b []byte) []byte {
	r := make([]byte, len(b))
	for i, c := range b {
		r[len(b)-1-i] = c
	}
	return r
}

// Match finds the virtual host and the route of a request: exact domain, then the longest suffix wildcard, then the longest prefix wildcard,
// then "*"; within the virtual host the first route in configured order whose path and conditions hold. The cost does not grow with the number
// of domains, and with the number of routes only as far as their paths match and their conditions have to be tried. vh is set also when no
// route matched.
func (t *Table) Match(q *Query) (e *Entry, vh *VirtualHost, v Verdict) {
	vh = t.FindVirtualHost(q)
	if vh == nil {
		return nil, nil, NotFound
	}
	// A request whose x-forwarded-proto is there and empty has no scheme; Envoy finds no route for it.
	if i := q.Head.Find(httpmsg.IDForwardedProto, 0); i >= 0 && len(q.Head.Value(i)) == 0 {
		return nil, vh, NotFound
	}
	if !q.Secure && vh.RequireTLS != RequireTLSNone && (vh.RequireTLS == RequireTLSAll || !internalRequest(q.Head)) {
		return nil, vh, TLSRedirect
	}
	if e = vh.index.find(t.matchPath(q.Head), q); e != nil {
		return e, vh, Matched
	}
	return nil, vh, NotFound
}

// The values of VirtualHost.RequireTLS.
const (
	RequireTLSNone uint8 = iota
	RequireTLSExternalOnly
	RequireTLSAll
)

func internalRequest(h *httpmsg.Head) bool { return string(h.Get(httpmsg.IDEnvoyInternal)) == "true" }

// matchPath is the part of the path that path matchers look at.
func (t *Table) matchPath(h *httpmsg.Head) []byte {
	p := pathOnly(h.Path())
	if t.IgnorePathParameters {
		for i, c := range p {
			if c == ';' {
				return p[:i]
			}
		}
	}
	return p
}

// pathOnly is p without query and fragment.
func pathOnly(p []byte) []byte {
	if i := bytes.IndexByte(p, '?'); i >= 0 {
		p = p[:i]
	}
	if i := bytes.IndexByte(p, '#'); i >= 0 {
		p = p[:i]
	}
	return p
}

// FindVirtualHost is the virtual-host part of Match; nil when no domain fits.
func (t *Table) FindVirtualHost(q *Query) *VirtualHost {
	if len(t.exact) == 0 && len(t.wild) == 0 {
		return t.any
	}
	host := q.Head.Host()
	if t.VHostHeader != nil {
		v, ok := match.FieldValue(q.Head, *t.VHostHeader)
		if !ok {
			return nil
		}
		host = v
	}
	if t.IgnorePort {
		host = httpmsg.StripPort(host)
	}
	q.scratch = match.AppendLower(q.scratch[:0], host)
	if vh := t.exact[string(q.scratch)]; vh != nil {
		return vh
	}
	if len(q.scratch) == 0 {
		return t.any
	}
	if vh := t.wildcard(&t.suffix, q, host, true); vh != nil {
		return vh
	}
	if vh := t.wildcard(&t.prefix, q, host, false); vh != nil {
		return vh
	}
	return t.any
}

func (t *Table) wildcard(r *radix, q *Query, host []byte, reverse bool) *VirtualHost {
	if len(r.nodes) == 0 {
		return nil
	}
	if reverse {
		q.scratch = match.AppendLowerReversed(q.scratch[:0], host)
	} else {
		q.scratch = match.AppendLower(q.scratch[:0], host)
	}
	// A wildcard stands for at least one byte, so the walk may not use up the whole host.
	if n := r.deepest(q.scratch[:len(q.scratch)-1]); n >= 0 {
		return t.wild[r.nodes[n].list[0]]
	}
	return nil
}

// StripInternal removes internal_only_headers from a request that does not come from an internal address.
func (t *Table) StripInternal(h *httpmsg.Head) {
	for i := range t.internalOnly {
		h.Remove(t.internalOnly[i])
	}
}
