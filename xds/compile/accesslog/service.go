// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"time"

	grpcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/httpmsg"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/xds/registry"
)

// Envoy's defaults of the gRPC access log.
const (
	defaultFlushEvery = time.Second
	defaultFlushSize  = 16 << 10
)

func compileHTTPService(c *registry.Ctx, m proto.Message) (target, error) {
	f := m.(*grpcv3.HttpGrpcAccessLogConfig)
	return compileService(c, f.GetCommonConfig(), &accesslog.Wire{Request: keys(f.GetAdditionalRequestHeadersToLog()),
		Response: keys(f.GetAdditionalResponseHeadersToLog()), Trailers: keys(f.GetAdditionalResponseTrailersToLog())})
}

func compileService(c *registry.Ctx, m *grpcv3.CommonGrpcAccessLogConfig, w *accesslog.Wire) (target, error) {
	s := &Service{LogName: m.GetLogName(), GRPC: m.GetGrpcService(), TCP: w.TCP, FlushEvery: defaultFlushEvery, FlushSize: defaultFlushSize}
	for _, name := range m.GetFilterStateObjectsToLog() {
		switch name {
		case accesslog.GrpcStatsState:
			w.GrpcStats = true
		case accesslog.TunnelHeadState, accesslog.TunnelTrailersState:
			w.Tunnel = append(w.Tunnel, name)
		default:
			return target{}, c.Errorf("common_config.filter_state_objects_to_log", "no filter here makes the object %q", name)
		}
	}
	if d := m.GetBufferFlushInterval(); d != nil {
		if s.FlushEvery = d.AsDuration(); s.FlushEvery <= 0 {
			return target{}, c.Errorf("common_config.buffer_flush_interval", "value must be greater than 0s")
		}
	}
	if v := m.GetBufferSizeBytes(); v != nil {
		s.FlushSize = int(v.GetValue())
	}
	return target{format: accesslog.NewWire(w), service: s}, nil
}

func keys(names []string) []httpmsg.Key {
	out := make([]httpmsg.Key, len(names))
	for i, n := range names {
		out[i] = httpmsg.KeyOf(n)
	}
	return out
}
