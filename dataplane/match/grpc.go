// SPDX-License-Identifier: Apache-2.0

package match

import "sidecar/dataplane/httpmsg"

const grpcType = "application/grpc"

// GRPC reports whether the head is a gRPC request or response by its content type: "application/grpc" or "application/grpc+...".
func GRPC(h *httpmsg.Head) bool {
	ct := h.Get(httpmsg.IDContentType)
	return len(ct) >= len(grpcType) && string(ct[:len(grpcType)]) == grpcType && (len(ct) == len(grpcType) || ct[len(grpcType)] == '+')
}
