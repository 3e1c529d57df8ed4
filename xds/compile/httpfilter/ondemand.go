// SPDX-License-Identifier: Apache-2.0

package httpfilter

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	demandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/filters/http/ondemand"
	"sidecar/dataplane/sys"
	routecompile "sidecar/xds/compile/route"
	"sidecar/xds/registry"
)

// onDemandMessages are the field tables of the filter's configurations.
var onDemandMessages = registry.Messages{
	"envoy.extensions.filters.http.on_demand.v3.OnDemand":       {"odcds": registry.Supported},
	"envoy.extensions.filters.http.on_demand.v3.PerRouteConfig": {"odcds": registry.Supported},
	"envoy.extensions.filters.http.on_demand.v3.OnDemandCds": {"source": registry.Whole, "timeout": registry.Supported,
		"resources_locator": registry.Refuse("collections (globs of xdstp names) are not supported")},
}

// ClusterSources resolves where clusters come from on demand, and how long is waited for them; c is at the source. It is the environment of PerRoute.
type ClusterSources func(c *registry.Ctx, from *corev3.ConfigSource, wait sys.Nanos) (*filter.ClusterSource, error)

// demandWait is how long a request waits for a cluster when odcds.timeout is not set.
const demandWait = 5 * sys.Second

// OnDemand compiles envoy.filters.http.on_demand.
func OnDemand(c *registry.Ctx, m *demandv3.OnDemand, sources ClusterSources) (filter.Factory, error) {
	return onDemand(c, m.GetOdcds(), sources)
}

func onDemand(c *registry.Ctx, o *demandv3.OnDemandCds, sources ClusterSources) (*ondemand.Filter, error) {
	if o == nil {
		return &ondemand.Filter{}, nil
	}
	wait := sys.Nanos(demandWait)
	if d := o.GetTimeout(); d != nil {
		wait = sys.Nanos(d.AsDuration())
	}
	from, err := sources(c.At("odcds.source"), o.GetSource(), wait)
	return &ondemand.Filter{Clusters: from}, err
}

// PerRoute is the table of typed_per_filter_config.
var PerRoute = registry.MustTable("per-route filter configurations", []registry.Row[any]{
	{Name: "envoy.filters.http.on_demand", Message: &demandv3.PerRouteConfig{}, Status: registry.StatusStable, Messages: onDemandMessages,
		Compile: func(c *registry.Ctx, m proto.Message) (any, error) {
			return onDemand(c, m.(*demandv3.PerRouteConfig).GetOdcds(), registry.EnvOf[ClusterSources](c))
		}},
}, routecompile.LaterPerFilter)
