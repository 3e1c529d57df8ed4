// SPDX-License-Identifier: Apache-2.0

package grpc

import (
	"bytes"

	"sidecar/dataplane/match"
	"sidecar/internal/telemetry/stats"
)

// SplitPath takes a path apart that is "/service/method", with or without a query behind it.
func SplitPath(path []byte) (service, method []byte, ok bool) {
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	if len(path) == 0 || path[0] != '/' {
		return nil, nil, false
	}
	path = path[1:]
	i := bytes.IndexByte(path, '/')
	if i <= 0 || i == len(path)-1 || bytes.IndexByte(path[i+1:], '/') >= 0 {
		return nil, nil, false
	}
	return path[:i], path[i+1:], true
}

// CountStatus counts the grpc-status of a response in a block of stats.GrpcDef; nil, no status at all, counts nothing. A value that is no status of
// gRPC has no counter of its own.
func CountStatus(b *stats.Block, value []byte) {
	if value == nil {
		return
	}
	if n, ok := match.ParseUint(value); ok && n <= 16 {
		b.Inc(stats.GrpcStatus0 + int(n))
	}
	if string(value) == "0" {
		b.Inc(stats.GrpcSuccess)
	} else {
		b.Inc(stats.GrpcFailure)
	}
	b.Inc(stats.GrpcTotal)
}

// AppendName appends the name of a method's statistics, with its final dot: kind is "grpc." or "grpc-web.". dots replaces those in the service's name.
func AppendName(b []byte, kind string, service, method []byte, dots bool) []byte {
	b = append(b, kind...)
	n := len(b)
	b = append(b, service...)
	for i := n; dots && i < len(b); i++ {
		if b[i] == '.' {
			b[i] = '_'
		}
	}
	b = append(b, '.')
	b = append(b, method...)
	return append(b, '.')
}
