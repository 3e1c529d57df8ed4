// SPDX-License-Identifier: Apache-2.0

package transport

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"sidecar/xds/registry"
)

const httpOptionsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// http2Options returns the explicit HTTP/2 options of a cluster, or nil. A malformed message is the cluster compiler's to report.
func http2Options(c *clusterv3.Cluster) *corev3.Http2ProtocolOptions {
	a := c.GetTypedExtensionProtocolOptions()[httpOptionsName]
	if a == nil {
		return nil
	}
	_, content, err := registry.Unwrap(a)
	if err != nil {
		return nil
	}
	var o httpv3.HttpProtocolOptions
	if content.DecodeInto(&o) != nil {
		return nil
	}
	return o.GetExplicitHttpConfig().GetHttp2ProtocolOptions()
}
