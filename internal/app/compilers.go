// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/dataplane/route"
	"sidecar/internal/export"
	"sidecar/internal/telemetry/accesslog"
	accesslogcompile "sidecar/xds/compile/accesslog"
	"sidecar/xds/compile/httpfilter"
	"sidecar/xds/compile/listener"
	routeconfig "sidecar/xds/compile/route"
	"sidecar/xds/compile/secret"
	"sidecar/xds/controller"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
	"sidecar/xds/transport"
)

// compilers plugs the compile rooms into the controller.
func (a *App) compilers() (controller.Compilers, error) {
	schema, err := registry.NewSchema(listener.Messages)
	if err != nil {
		return controller.Compilers{}, err
	}
	logs := &accesslogcompile.Compiler{Sinks: a.files, Services: logServices{a}}
	var static, dynamic *routeconfig.Context
	k := controller.Compilers{Schema: schema, Runtime: a.layers.build, DrainTime: a.opt.DrainTime}
	k.Routes = func(c *controller.Controller, ctx *registry.Ctx, rc *routev3.RouteConfiguration, hash uint64, inline bool) (*route.Table, error) {
		if static == nil {
			static = a.routeContext(c, true)
			dynamic = a.routeContext(c, false)
		}
		rx := dynamic
		if inline {
			rx = static
		}
		t, err := rx.CompileAt(ctx, rc)
		if err == nil {
			t.Hash = hash
		}
		return t, err
	}
	k.Listener = listener.Env{
		AccessLog: func(c *registry.Ctx, al *accesslogv3.AccessLog) (*accesslog.Logger, error) {
			return logs.Compile(c, al)
		},
		Filter:  logs.Filter,
		Headers: routeconfig.Headers,
	}
	plugTLS(&k, &secret.Compiler{})
	return k, nil
}

// logServices opens gRPC access log services. They are reached as control planes are: through a cluster of the bootstrap, by gRPC's own client.
type logServices struct{ a *App }

// Open implements accesslogcompile.Services.
func (l logServices) Open(s accesslogcompile.Service, at registry.Path) (*accesslog.Sink, error) {
	g, err := l.a.boot.GRPC(s.GRPC, at)
	if err != nil {
		return nil, err
	}
	t, err := transport.TargetOf(g)
	if err != nil {
		return nil, &registry.FieldError{Path: at, Err: err}
	}
	return l.a.services.Open(export.Service{Key: fmt.Sprintf("%v %s %x %s %d", s.TCP, s.LogName, resource.HashOf(s.GRPC), s.FlushEvery, s.FlushSize),
		LogName: s.LogName, TCP: s.TCP, FlushEvery: s.FlushEvery, FlushSize: s.FlushSize, Metadata: t.Metadata,
		Dial: t.Connect})
}

func (a *App) routeContext(c *controller.Controller, static bool) *routeconfig.Context {
	return &routeconfig.Context{Cluster: c.InternCluster, ClusterKnown: c.ClusterKnown, Static: static, Stats: a.reg,
		PerFilter: httpfilter.PerRoute, Env: httpfilter.ClusterSources(c.ClusterSource)}
}
