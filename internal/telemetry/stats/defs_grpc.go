// SPDX-License-Identifier: Apache-2.0

package stats

import "strconv"

// The ids of GrpcDef.
const (
	GrpcStatus0 = iota // 0 to 16
	GrpcSuccess = GrpcStatus0 + iota + 16
	GrpcFailure
	GrpcTotal
	GrpcRequestMessageCount
	GrpcResponseMessageCount
	GrpcUpstreamRqTime
)

// GrpcDef is what Envoy's gRPC filters count, under "cluster.NAME.grpc." or "cluster.NAME.grpc-web.", with or without "SERVICE.METHOD." behind it.
var GrpcDef = &Def{Name: "grpc", Lazy: true, Stats: grpcStats()}

func grpcStats() (out []Stat) {
	for i := range 17 {
		out = append(out, Stat{Name: strconv.Itoa(i), Kind: Counter, Lazy: true})
	}
	for _, n := range []string{"success", "failure", "total", "request_message_count", "response_message_count"} {
		out = append(out, Stat{Name: n, Kind: Counter, Lazy: true})
	}
	return append(out, Stat{Name: "upstream_rq_time", Kind: Histogram, Unit: Milliseconds, Lazy: true})
}
