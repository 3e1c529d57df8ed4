// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/grpc"
	"sidecar/dataplane/httpmsg"
)

// grpcReply turns a local reply into a gRPC trailers-only response.
func (x *Exchange) grpcReply() {
	l, resp := &x.local, &x.resp
	n := grpc.FromHTTP(resp.Status)
	if x.fault == fault.MaxDuration {
		n = grpc.DeadlineExceeded
	}
	resp.Status = 200
	x.rec.Code = 200
	resp.Body = httpmsg.BodyNone
	resp.SetString(keyContentType, "application/grpc")
	setNumber(resp, keyGrpcStatus, n)
	msg := l.body
	if l.formatted {
		msg = bytes.TrimRight(msg, "\n") // a JSON format ends with a newline
	}
	if len(msg) > 0 && x.req.Method != httpmsg.MethodHead {
		resp.SetSpan(keyGrpcMessage, x.respA.Take(grpc.AppendMessage(x.respA.Tail(), msg)))
	}
}

// countHost counts a response as a success or a failure of its host. A gRPC response that has content says by its trailers what it is.
func (x *Exchange) countHost(status uint16) {
	switch {
	case status >= 500:
		x.host.RqError.Add(1)
	case !x.has(xGrpcUp) || !x.has(xRespHead):
		x.host.RqSuccess.Add(1)
	case x.responseEmpty():
		x.grpcVerdict(&x.resp.Fields)
	default:
		x.fl |= xGrpcOpen
	}
}

// grpcVerdict counts a gRPC response by the fields that end it; f is nil if it broke off. Without a grpc-status it is a failure.
func (x *Exchange) grpcVerdict(f *httpmsg.Fields) {
	x.fl &^= xGrpcOpen
	if f == nil || grpc.ServerError(f.Get(httpmsg.IDGrpcStatus)) {
		x.host.RqError.Add(1)
		return
	}
	x.host.RqSuccess.Add(1)
}
