// SPDX-License-Identifier: Apache-2.0

package controller

import (
	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// clusterStatus is one cluster as /clusters shows it.
func clusterStatus(s *clusterState) *adminv3.ClusterStatus {
	cfg := s.active.ClusterConfig
	out := &adminv3.ClusterStatus{Name: s.name, ObservabilityName: cfg.StatName, AddedViaApi: !s.static, EdsServiceName: cfg.ServiceName,
		CircuitBreakers: &clusterv3.CircuitBreakers{}}
	for i, p := range []corev3.RoutingPriority{corev3.RoutingPriority_DEFAULT, corev3.RoutingPriority_HIGH} {
		out.CircuitBreakers.Thresholds = append(out.CircuitBreakers.Thresholds, thresholds(p, &cfg.Breakers[i]))
	}
	for prio := range s.active.Hosts.Priorities {
		hosts := s.active.Hosts.Priorities[prio].Hosts
		for i := range hosts {
			out.HostStatuses = append(out.HostStatuses, hostStatus(&hosts[i], uint32(prio)))
		}
	}
	return out
}

func thresholds(p corev3.RoutingPriority, b *snapshot.Breaker) *clusterv3.CircuitBreakers_Thresholds {
	return &clusterv3.CircuitBreakers_Thresholds{Priority: p, MaxConnections: wrapperspb.UInt32(b.MaxConnections),
		MaxPendingRequests: wrapperspb.UInt32(b.MaxPending), MaxRequests: wrapperspb.UInt32(b.MaxRequests), MaxRetries: wrapperspb.UInt32(b.MaxRetries)}
}

func hostStatus(h *hostset.Entry, prio uint32) *adminv3.HostStatus {
	out := &adminv3.HostStatus{Address: addressOf(h.Addr), Hostname: h.Hostname, Weight: h.Weight, Priority: prio,
		HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: edsHealth(h)}}
	if l := h.Locality; l != nil {
		out.Locality = &corev3.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone}
	}
	add := func(name string, v uint64, kind adminv3.SimpleMetric_Type) {
		out.Stats = append(out.Stats, &adminv3.SimpleMetric{Name: name, Value: v, Type: kind})
	}
	add("cx_connect_fail", h.CxConnectFail.Load(), adminv3.SimpleMetric_COUNTER)
	add("cx_total", h.CxTotal.Load(), adminv3.SimpleMetric_COUNTER)
	add("rq_error", h.RqError.Load(), adminv3.SimpleMetric_COUNTER)
	add("rq_success", h.RqSuccess.Load(), adminv3.SimpleMetric_COUNTER)
	add("rq_timeout", h.RqTimeout.Load(), adminv3.SimpleMetric_COUNTER)
	add("rq_total", h.RqTotal.Load(), adminv3.SimpleMetric_COUNTER)
	add("cx_active", uint64(max(h.CxActive.Load(), 0)), adminv3.SimpleMetric_GAUGE)
	add("rq_active", uint64(max(h.RqActive.Load(), 0)), adminv3.SimpleMetric_GAUGE)
	add("rq_pending_active", uint64(max(h.RqPending.Load(), 0)), adminv3.SimpleMetric_GAUGE)
	return out
}

// edsHealth is the status as Envoy shows it: what EDS did not say is healthy.
func edsHealth(h *hostset.Entry) corev3.HealthStatus {
	if h.EDS == hostset.EDSUnknown {
		return corev3.HealthStatus_HEALTHY
	}
	return corev3.HealthStatus(h.EDS)
}

func addressOf(a sys.Addr) *corev3.Address {
	if name, id, ok := a.Internal(); ok {
		return &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
			AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: name}, EndpointId: id}}}
	}
	if a.IsUnix() {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: a.String()}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: a.IP.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.IP.Port())}}}}
}

// staticAssignment is the load assignment inside an encoded cluster; nil when it has none.
func staticAssignment(a *anypb.Any) *anypb.Any {
	cl := &clusterv3.Cluster{}
	if a == nil || proto.Unmarshal(a.GetValue(), cl) != nil || cl.GetLoadAssignment() == nil {
		return nil
	}
	for _, l := range cl.GetLoadAssignment().GetEndpoints() {
		asHosts(l)
	}
	out, err := anypb.New(cl.GetLoadAssignment())
	if err != nil {
		return nil
	}
	return out
}

// asHosts fills in what a locality's hosts have when the configuration says nothing: Envoy dumps its hosts here, not its configuration.
func asHosts(l *endpointv3.LocalityLbEndpoints) {
	if l.Locality == nil {
		l.Locality = &corev3.Locality{}
	}
	if l.LoadBalancingWeight == nil {
		l.LoadBalancingWeight = wrapperspb.UInt32(0)
	}
	for _, e := range l.GetLbEndpoints() {
		if e.HealthStatus == corev3.HealthStatus_UNKNOWN {
			e.HealthStatus = corev3.HealthStatus_HEALTHY
		}
		if e.LoadBalancingWeight == nil {
			e.LoadBalancingWeight = wrapperspb.UInt32(1)
		}
		if h := e.GetEndpoint(); h != nil && h.HealthCheckConfig == nil {
			h.HealthCheckConfig = &endpointv3.Endpoint_HealthCheckConfig{}
		}
	}
}
