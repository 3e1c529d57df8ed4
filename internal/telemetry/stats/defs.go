// SPDX-License-Identifier: Apache-2.0

package stats

// Defs lists every well-known Def: the stat names of Envoy 1.40, taken from a running one. The ids of one Def must only be used with blocks
// of scopes of that Def; the constant's prefix is the Def's name without "Def".
func Defs() []*Def {
	return []*Def{
		ClusterDef,
		ClusterConfigDef,
		ClusterEDSDef,
		ClusterRemainingDef,
		ClusterSizeDef,
		ClusterBudgetDef,
		ClusterRingHashDef,
		ClusterMaglevDef,
		H1Def,
		HTTP2Def,
		InternalUpstreamDef,
		GrpcDef,
		HCMDef,
		AsyncClientDef,
		HCMTracingDef,
		HCMListenerDef,
		VirtualClusterDef,
		ListenerDef,
		ListenerWorkerDef,
		TCPDef,
		TCPDemandDef,
		TLSInspectorDef,
		HTTPInspectorDef,
		ProxyProtocolDef,
		ProxyProtoErrorDef,
		SubscriptionDef,
		ReloadDef,
		RDSDef,
		VHDSDef,
		ECDSDef,
		SRDSDef,
		SDSDef,
		SSLSocketFactoryDef,
		SSLDef,
		ClusterManagerDef,
		ListenerManagerDef,
		ServerDef,
		WatchdogDef,
		RuntimeDef,
		ControlPlaneDef,
		FilesystemDef,
		GRPCAccessLogDef,
		ThreadLocalClusterDef,
		DNSDef,
	}
}

// HTTP1Def is H1Def.
var HTTP1Def = H1Def
