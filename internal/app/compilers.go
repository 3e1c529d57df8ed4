// SPDX-License-Identifier: Apache-2.0

package app

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/accesslog"
	accesslogcompile "sidecar/xds/compile/accesslog"
	"sidecar/xds/compile/listener"
	routeconfig "sidecar/xds/compile/route"
	"sidecar/xds/compile/secret"
	"sidecar/xds/controller"
	"sidecar/xds/registry"
)

// compilers plugs the compile rooms into the controller.
func (a *App) compilers() (controller.Compilers, error) {
	schema, err := registry.NewSchema(listener.Messages)
	if err != nil {
		return controller.Compilers{}, err
	}
	logs := &accesslogcompile.Compiler{Sinks: a.files}
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

func (a *App) routeContext(c *controller.Controller, static bool) *routeconfig.Context {
	return &routeconfig.Context{Cluster: c.InternCluster, ClusterKnown: c.ClusterKnown, Static: static, Stats: a.reg}
}
