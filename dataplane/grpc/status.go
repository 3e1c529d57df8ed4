// SPDX-License-Identifier: Apache-2.0

package grpc

import "sidecar/dataplane/match"

// The statuses that the proxy speaks of itself.
const (
	OK               = 0
	Unknown          = 2
	DeadlineExceeded = 4
	PermissionDenied = 7
	Unimplemented    = 12
	Internal         = 13
	Unavailable      = 14
	Unauthenticated  = 16
)

// FromHTTP is the status that a response without grpc-status stands for.
func FromHTTP(status uint16) uint64 {
	switch status {
	case 400:
		return Internal
	case 401:
		return Unauthenticated
	case 403:
		return PermissionDenied
	case 404:
		return Unimplemented
	case 429, 502, 503, 504:
		return Unavailable
	}
	return Unknown
}

// ServerError tells whether a grpc-status means that the server failed: what HTTP would say with a 5xx. So does a value that is none, or is missing.
func ServerError(value []byte) bool {
	n, ok := match.ParseUint(value)
	if !ok {
		return true
	}
	switch n {
	case Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, 15:
		return true
	}
	return n > 16
}

// AppendMessage encodes a grpc-message: everything outside of printable ASCII, and '%'.
func AppendMessage(b, p []byte) []byte {
	for _, c := range p {
		if c < ' ' || c > '~' || c == '%' {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			continue
		}
		b = append(b, c)
	}
	return b
}
