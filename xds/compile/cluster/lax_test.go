// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"sidecar/dataplane/http1"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/xds/registry"
)

func TestCompile_WhenLaxnessIsAskedFor_ThenResponsesGetItToo(t *testing.T) {
	for _, lax := range []bool{false, true} {
		rt := match.NewRuntime(map[string]match.Value{http1.LaxnessKey: {Bool: lax, IsBool: true}})
		env := &Env{Runtime: rt, Cluster: func(name string) *route.ClusterRef { return &route.ClusterRef{Name: name} }}
		r, err := Compile(&registry.Ctx{Report: &registry.Report{}, Env: env}, &clusterv3.Cluster{Name: "c"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if r.Config.H1.Lax != lax || r.Config.H2.Lax != lax {
			t.Errorf("runtime says %v; HTTP/1 %v, HTTP/2 %v", lax, r.Config.H1.Lax, r.Config.H2.Lax)
		}
	}
}
