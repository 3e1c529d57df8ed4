// SPDX-License-Identifier: Apache-2.0

// Package routeconfig compiles envoy.config.route.v3.RouteConfiguration to the plain tables of dataplane/route. Every set field is honoured,
// warned about or refused with its path; all errors of one resource come back at once, joined. Nothing is opened or started here.
package routeconfig

import (
	"errors"
	"os"
	"sync"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
)

// Context is what compiling routes needs from the driver. It may be used by one goroutine at a time; make one and keep it.
type Context struct {
	// Cluster interns a cluster name. Required.
	Cluster func(name string) *route.ClusterRef
	// ClusterKnown tells whether a cluster exists, for validate_clusters; nil means that every one does.
	ClusterKnown func(name string) bool
	// Static makes validate_clusters default to true, as for a route_config inside a static listener.
	Static bool
	// Stats makes the scopes of virtual clusters and route stat prefixes; nil leaves them out. Table.ReleaseScopes gives them back.
	Stats *stats.Registry
	// PerFilter are the rows of typed_per_filter_config; nil means that there are none.
	PerFilter *registry.Table[any]
	// Env is handed to the rows of PerFilter.
	Env any
	// Unknown says what to do with fields that the linked API does not know.
	Unknown registry.UnknownFields
	// ReadFile reads the file of a direct response body; nil means os.ReadFile.
	ReadFile func(name string) ([]byte, error)

	once   sync.Once
	schema *registry.Schema
}

// Compile compiles rc, whose place inside its resource is path ("" for an RDS resource). rc should have passed the generated validation; what
// did not is refused as far as it matters and can never panic. The warnings are also those of a refused resource.
func Compile(ctx *Context, rc *routev3.RouteConfiguration, path string) (*route.Table, []registry.Finding, error) {
	rep := &registry.Report{}
	t, err := ctx.CompileAt(&registry.Ctx{Path: registry.Path(path), Unknown: ctx.Unknown, Report: rep}, rc)
	return t, rep.Warnings, err
}

// CompileAt is Compile for a caller that has a place and a report already, such as the compiler of listeners. Of c only Path, Unknown and
// Report are used.
func (ctx *Context) CompileAt(c *registry.Ctx, rc *routev3.RouteConfiguration) (*route.Table, error) {
	ctx.once.Do(func() {
		sets := []registry.Messages{Messages}
		if ctx.PerFilter != nil {
			sets = append(sets, ctx.PerFilter.Messages()...)
		}
		ctx.schema = registry.MustSchema(sets...)
	})
	sub := *c
	sub.Schema, sub.Env = ctx.schema, ctx.Env
	if sub.Report == nil {
		sub.Report = &registry.Report{}
	}
	s := &state{ctx: ctx, refs: map[string]bool{}}
	if rc == nil {
		return nil, sub.Errorf("", "value is required")
	}
	s.fail(sub.Check(rc))
	t := s.table(&sub, rc)
	if s.dropped > 0 {
		s.errs = append(s.errs, sub.Errorf("", "%d more errors", s.dropped))
	}
	if len(s.errs) > 0 {
		t.ReleaseScopes()
		return nil, errors.Join(s.errs...)
	}
	t.Freeze()
	return t, nil
}

// maxErrors bounds the errors that are kept for one resource.
const maxErrors = 256

// state carries the compilation of one route configuration.
type state struct {
	ctx      *Context
	t        *route.Table
	validate bool // validate_clusters
	refs     map[string]bool
	errs     []error
	dropped  int
}

func (s *state) fail(err error) {
	switch {
	case err == nil:
	case len(s.errs) >= maxErrors:
		s.dropped++
	default:
		s.errs = append(s.errs, err)
	}
}

// cluster interns a cluster that the configuration names and checks that it exists if that is asked for; kind is "", "weighted " or "shadow ".
func (s *state) cluster(c *registry.Ctx, field registry.Path, kind, name string) *route.ClusterRef {
	if s.validate && s.ctx.ClusterKnown != nil && !s.ctx.ClusterKnown(name) {
		s.fail(c.Errorf(field, "route: unknown %scluster '%s'", kind, name))
		return nil
	}
	ref := s.ctx.Cluster(name)
	if !s.refs[name] {
		s.refs[name] = true
		s.t.Clusters = append(s.t.Clusters, ref)
	}
	return ref
}

// key prepares a configured header name; nil (and an error) when it cannot be one.
func (s *state) key(c *registry.Ctx, field registry.Path, name string) *httpmsg.Key {
	if !token(name) {
		s.fail(c.Errorf(field, "%q is not a valid header name", name))
		return nil
	}
	k := httpmsg.KeyOf(name)
	return &k
}

// token reports whether name is a field name (RFC 9110 section 5.6.2), a pseudo-header's colon in front allowed.
func token(name string) bool {
	if len(name) > 1 && name[0] == ':' {
		name = name[1:]
	}
	for _, b := range []byte(name) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case b == '!' || b == '#' || b == '$' || b == '%' || b == '&' || b == '\'' || b == '*' || b == '+' || b == '-' || b == '.' || b == '^' ||
			b == '_' || b == '`' || b == '|' || b == '~':
		default:
			return false
		}
	}
	return name != ""
}

// maxDuration is the longest duration taken from configuration, about 100 years; longer ones are cut so that sums cannot overflow.
const maxDuration = 100 * 365 * 24 * 3600 * sys.Second

// nanos converts a duration; nil gives def. A negative or malformed one is refused.
func (s *state) nanos(c *registry.Ctx, field registry.Path, d *durationpb.Duration, def sys.Nanos) sys.Nanos {
	if d == nil {
		return def
	}
	if d.GetSeconds() < 0 || d.GetNanos() < 0 || d.GetNanos() > 999_999_999 {
		s.fail(c.Errorf(field, "Invalid duration: Expected positive duration: seconds: %d nanos: %d", d.GetSeconds(), d.GetNanos()))
		return def
	}
	if d.GetSeconds() >= int64(maxDuration/sys.Second) {
		return maxDuration
	}
	return sys.Nanos(d.GetSeconds())*sys.Second + sys.Nanos(d.GetNanos())
}

func (ctx *Context) readFile(name string) ([]byte, error) {
	if ctx.ReadFile != nil {
		return ctx.ReadFile(name)
	}
	return os.ReadFile(name)
}
