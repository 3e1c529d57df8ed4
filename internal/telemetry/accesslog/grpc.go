// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"strconv"

	"sidecar/dataplane/httpmsg"
)

var grpcContentType = []byte("application/grpc")

// isGrpc tells whether the request's content-type is application/grpc or one of its sub-formats.
func isGrpc(h *httpmsg.Head) bool {
	if h == nil || h.A == nil {
		return false
	}
	rest, ok := bytes.CutPrefix(h.Get(httpmsg.IDContentType), grpcContentType)
	return ok && (len(rest) == 0 || rest[0] == '+')
}

// grpcStatus is the status of a gRPC exchange: from trailers, then headers, then the HTTP status. -1 stands for a value that is no number.
func grpcStatus(r *Record) (int64, bool) {
	for _, f := range [...]*httpmsg.Fields{r.RespTrailers, fieldsOf(r.Resp)} {
		if f == nil || f.A == nil {
			continue
		}
		if v := f.Get(httpmsg.IDGrpcStatus); len(v) > 0 {
			n, ok := parseUint(bytes.TrimPrefix(v, []byte{'+'})) // Envoy takes a sign
			if !ok {
				return -1, true
			}
			return n, true
		}
	}
	switch r.Code {
	case 0:
		return 0, false
	case 400:
		return 13, true
	case 401:
		return 16, true
	case 403:
		return 7, true
	case 404:
		return 12, true
	case 429, 502, 503, 504:
		return 14, true
	}
	return 2, true
}

func parseUint(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 10 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func fieldsOf(h *httpmsg.Head) *httpmsg.Fields {
	if h == nil {
		return nil
	}
	return &h.Fields
}

var grpcCamel = [...]string{"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
	"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"}

var grpcSnake = [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
	"DATA_LOSS", "UNAUTHENTICATED"}

func (o *op) grpc(b []byte, r *Record) ([]byte, kind) {
	if !isGrpc(r.Req) {
		return b, absent
	}
	s, ok := grpcStatus(r)
	switch {
	case !ok:
		return b, absent
	case o.sub == 2:
		return strconv.AppendInt(b, s, 10), number
	case s < 0 || s >= int64(len(grpcCamel)):
		return strconv.AppendInt(b, s, 10), text
	case o.sub == 1:
		return append(b, grpcSnake[s]...), text
	}
	return append(b, grpcCamel[s]...), text
}

// grpcMessages writes the object as text, "requests,responses", as JSON of protobuf, which leaves zeros out, or as the message in a JSON record, which
// has the names of the fields and no zeros either.
func (o *op) grpcMessages(b []byte, n GrpcMessages, typed bool) ([]byte, kind) {
	if n == (GrpcMessages{}) || o.sub == stateField {
		return b, absent
	}
	from := len(b)
	if o.sub == statePlain {
		b = append(strconv.AppendUint(b, n.Requests, 10), ',')
		return o.cut(strconv.AppendUint(b, n.Responses, 10), from), text
	}
	names := [...]string{"requestMessageCount", "responseMessageCount"}
	if typed {
		names = [...]string{"request_message_count", "response_message_count"}
	}
	sep := byte('{')
	for i, v := range [...]uint64{n.Requests, n.Responses} {
		if v > 0 {
			b = append(append(append(b, sep, '"'), names[i]...), `":"`...)
			b = append(strconv.AppendUint(b, v, 10), '"')
			sep = ','
		}
	}
	if b = append(b, '}'); typed {
		return b, raw
	}
	return o.cut(b, from), text
}
