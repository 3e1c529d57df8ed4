// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"cmp"
	"fmt"
	"strings"

	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"golang.org/x/net/http/httpguts"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/xds/registry"
)

// clusterWait is how long a connection waits for a cluster when on_demand.timeout is not set.
const clusterWait = 60 * sys.Second

func (s *state) tcp(c *registry.Ctx, t *tcpv3.TcpProxy) *snapshot.TCPProxy {
	out := &snapshot.TCPProxy{StatPrefix: t.GetStatPrefix(), IdleTimeout: nanos(t.GetIdleTimeout(), 3600*sys.Second), MaxConnectAttempts: 1,
		MaxDuration: nanos(t.GetMaxDownstreamConnectionDuration(), 0), LogFlushInterval: nanos(t.GetAccessLogFlushInterval(), 0),
		LogOnConnected: t.GetFlushAccessLogOnConnected()}
	out.MaxDurationJitter = jitter(out.MaxDuration, t.GetMaxDownstreamConnectionDurationJitterPercentage())
	if o := t.GetAccessLogOptions(); o != nil {
		out.LogFlushInterval = nanos(o.GetAccessLogFlushInterval(), out.LogFlushInterval)
		out.LogOnConnected = out.LogOnConnected || o.GetFlushAccessLogOnConnected()
		out.LogOnStart = o.GetFlushAccessLogOnStart()
	}
	if v := t.GetMaxConnectAttempts(); v != nil {
		out.MaxConnectAttempts = v.GetValue()
	}
	if b := t.GetBackoffOptions(); b != nil {
		out.BackoffBase = nanos(b.GetBaseInterval(), 0)
		out.BackoffMax = nanos(b.GetMaxInterval(), 10*out.BackoffBase)
		if out.BackoffMax < out.BackoffBase {
			s.fail(c.Errorf("backoff_options.max_interval", "must be greater than or equal to the base_interval"))
		}
	}
	switch {
	case t.GetCluster() != "":
		out.Cluster = s.env.Cluster(t.GetCluster())
	case t.GetWeightedClusters() != nil:
		out.Weighted = s.weighted(c, t.GetWeightedClusters())
	default:
		s.fail(c.Errorf("cluster_specifier", "a cluster is required"))
	}
	out.Hash = s.tcpHash(c, t.GetHashPolicy())
	if x := t.GetTunnelingConfig(); x != nil {
		out.Tunneling = s.tunneling(c.At("tunneling_config"), x)
	}
	if src := t.GetOnDemand().GetOdcdsConfig(); src != nil {
		from, err := s.env.Clusters(c.At("on_demand.odcds_config"), src, nanos(t.GetOnDemand().GetTimeout(), clusterWait))
		s.fail(err)
		out.OnDemand = from
	}
	out.AccessLogs = s.accessLogs(c, "access_log", t.GetAccessLog())
	return out
}

func (s *state) tunneling(c *registry.Ctx, t *tcpv3.TcpProxy_TunnelingConfig) *snapshot.Tunneling {
	out := &snapshot.Tunneling{KeepHead: t.GetPropagateResponseHeaders(), KeepTrailers: t.GetPropagateResponseTrailers()}
	f, err := accesslog.Compile(t.GetHostname())
	if err != nil {
		s.fail(c.Errorf("hostname", "%w", err))
	}
	out.Hostname = f
	if len(t.GetHeadersToAdd()) > 0 {
		m, err := s.env.Headers(c.At("headers_to_add"), t.GetHeadersToAdd(), false)
		s.fail(err)
		out.Headers = m
	}
	switch {
	case t.GetUsePost():
		out.PostPath = cmp.Or(t.GetPostPath(), "/")
	case t.GetPostPath() != "":
		s.fail(c.Errorf("post_path", "Can't set a post path when POST method isn't used"))
	}
	switch x := t.GetRequestIdExtension(); {
	case x == nil && (t.GetRequestIdHeader() != "" || t.GetRequestIdMetadataKey() != ""):
		c.Warnf("request_id_extension", "without it no request id is made")
	case x != nil:
		s.uuidExtension(c, x)
		name := cmp.Or(t.GetRequestIdHeader(), "x-request-id")
		if strings.HasPrefix(name, ":") || strings.EqualFold(name, "host") || !httpguts.ValidHeaderFieldName(name) {
			s.fail(c.Errorf("request_id_header", "%q is not the name of a header that may be set", name))
		}
		out.RequestIDHeader = httpmsg.KeyOf(name)
		out.RequestIDKey = cmp.Or(t.GetRequestIdMetadataKey(), "tunnel_request_id")
	}
	return out
}

func (s *state) weighted(c *registry.Ctx, w *tcpv3.TcpProxy_WeightedCluster) *route.Weighted {
	out := &route.Weighted{}
	total := uint64(0)
	for i, x := range w.GetClusters() {
		if x.GetName() == "" {
			s.fail(c.Errorf(registry.Path(fmt.Sprintf("weighted_clusters.clusters[%d].name", i)), "must not be empty"))
		}
		out.Clusters = append(out.Clusters, route.WeightedCluster{Cluster: s.env.Cluster(x.GetName()), Name: x.GetName(), Weight: x.GetWeight()})
		total += uint64(x.GetWeight())
	}
	if total > 1<<32-1 {
		s.fail(c.Errorf("weighted_clusters", "the sum of weights of all clusters must not exceed 4294967295"))
	}
	out.Total = uint32(total)
	return out
}

func (s *state) tcpHash(c *registry.Ctx, in []*typev3.HashPolicy) []route.HashPolicy {
	var out []route.HashPolicy
	for i, h := range in {
		switch p := h.GetPolicySpecifier().(type) {
		case *typev3.HashPolicy_SourceIp_:
			out = append(out, route.HashPolicy{Kind: route.HashSourceIP})
		case *typev3.HashPolicy_FilterState_:
			out = append(out, route.HashPolicy{Kind: route.HashFilterState, FilterState: p.FilterState.GetKey()})
		default:
			s.fail(c.Errorf(registry.Path(fmt.Sprintf("hash_policy[%d]", i)), "unknown hash policy"))
		}
	}
	return out
}
