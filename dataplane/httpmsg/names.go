// SPDX-License-Identifier: Apache-2.0

package httpmsg

import (
	"encoding/binary"
	"math/bits"
)

// ID numbers a well-known header name, so that lookups compare a byte and not a string. IDOther is every other name.
type ID uint8

// The well-known names. Order is free, as nothing outside the process sees it; those from 64 on should be rare, see Fields.Never.
const (
	IDOther ID = iota
	IDHost
	IDConnection
	IDContentLength
	IDTransferEncoding
	IDKeepAlive
	IDProxyConnection
	IDUpgrade
	IDTE
	IDTrailer
	IDExpect
	IDDate
	IDServer
	IDVia
	IDLocation
	IDContentType
	IDCookie
	IDSetCookie
	IDUserAgent
	IDAuthorization
	IDReferer
	IDAccept
	IDAcceptEncoding
	IDForwardedFor
	IDForwardedProto
	IDForwardedHost
	IDForwardedPort
	IDForwardedClientCert
	IDRequestID
	IDClientTraceID
	IDEnvoyExternalAddress
	IDEnvoyInternal
	IDEnvoyOriginalPath
	IDEnvoyOriginalHost
	IDEnvoyOriginalURL
	IDEnvoyDecoratorOperation
	IDEnvoyExpectedTimeout
	IDEnvoyAttemptCount
	IDEnvoyOverloaded
	IDEnvoyRateLimited
	IDEnvoyRetryOn
	IDEnvoyRetryGrpcOn
	IDEnvoyMaxRetries
	IDEnvoyUpstreamTimeout
	IDEnvoyPerTryTimeout
	IDEnvoyTimeoutAlt
	IDEnvoyUpstreamServiceTime
	IDEnvoyRetriableCodes
	IDEnvoyRetriableHeaders
	IDEnvoyHedge
	IDEnvoyForceTrace
	IDEnvoyStreamDuration
	IDEnvoyUpstreamCanary
	IDGrpcStatus
	IDGrpcMessage
	IDGrpcTimeout
	IDOrigin
	IDContentEncoding
	IDETag
	IDCacheControl
	IDLastModified
	IDAge
	IDTraceparent
	IDTracestate
	IDEnvoyIPTags
	IDEnvoyImmediateHealthCheckFail
	IDEnvoyDegraded
	IDEnvoyUpstreamAltStatName
	IDEnvoyDownstreamServiceCluster
	IDEnvoyDownstreamServiceNode
	numIDs
)

// NumIDs is the number of IDs, IDOther included.
const NumIDs = int(numIDs)

var names = [numIDs]string{
	IDHost: "host", IDConnection: "connection", IDContentLength: "content-length", IDTransferEncoding: "transfer-encoding",
	IDKeepAlive: "keep-alive", IDProxyConnection: "proxy-connection", IDUpgrade: "upgrade", IDTE: "te", IDTrailer: "trailer",
	IDExpect: "expect", IDDate: "date", IDServer: "server", IDVia: "via", IDLocation: "location", IDContentType: "content-type",
	IDCookie: "cookie", IDSetCookie: "set-cookie", IDUserAgent: "user-agent", IDAuthorization: "authorization", IDReferer: "referer",
	IDAccept: "accept", IDAcceptEncoding: "accept-encoding", IDForwardedFor: "x-forwarded-for", IDForwardedProto: "x-forwarded-proto",
	IDForwardedHost: "x-forwarded-host", IDForwardedPort: "x-forwarded-port", IDForwardedClientCert: "x-forwarded-client-cert",
	IDRequestID: "x-request-id", IDClientTraceID: "x-client-trace-id", IDEnvoyExternalAddress: "x-envoy-external-address",
	IDEnvoyInternal: "x-envoy-internal", IDEnvoyOriginalPath: "x-envoy-original-path", IDEnvoyOriginalHost: "x-envoy-original-host",
	IDEnvoyOriginalURL: "x-envoy-original-url", IDEnvoyDecoratorOperation: "x-envoy-decorator-operation",
	IDEnvoyExpectedTimeout: "x-envoy-expected-rq-timeout-ms", IDEnvoyAttemptCount: "x-envoy-attempt-count",
	IDEnvoyOverloaded: "x-envoy-overloaded", IDEnvoyRateLimited: "x-envoy-ratelimited", IDEnvoyRetryOn: "x-envoy-retry-on",
	IDEnvoyRetryGrpcOn: "x-envoy-retry-grpc-on", IDEnvoyMaxRetries: "x-envoy-max-retries",
	IDEnvoyUpstreamTimeout: "x-envoy-upstream-rq-timeout-ms", IDEnvoyPerTryTimeout: "x-envoy-upstream-rq-per-try-timeout-ms",
	IDEnvoyTimeoutAlt: "x-envoy-upstream-rq-timeout-alt-response", IDEnvoyUpstreamServiceTime: "x-envoy-upstream-service-time",
	IDEnvoyRetriableCodes: "x-envoy-retriable-status-codes", IDEnvoyRetriableHeaders: "x-envoy-retriable-header-names",
	IDEnvoyHedge: "x-envoy-hedge-on-per-try-timeout", IDEnvoyForceTrace: "x-envoy-force-trace",
	IDEnvoyStreamDuration: "x-envoy-upstream-stream-duration-ms", IDEnvoyUpstreamCanary: "x-envoy-upstream-canary", IDEnvoyIPTags: "x-envoy-ip-tags",
	IDEnvoyImmediateHealthCheckFail: "x-envoy-immediate-health-check-fail", IDEnvoyDegraded: "x-envoy-degraded",
	IDEnvoyUpstreamAltStatName:      "x-envoy-upstream-alt-stat-name",
	IDEnvoyDownstreamServiceCluster: "x-envoy-downstream-service-cluster", IDEnvoyDownstreamServiceNode: "x-envoy-downstream-service-node",
	IDGrpcStatus: "grpc-status", IDGrpcMessage: "grpc-message", IDGrpcTimeout: "grpc-timeout", IDOrigin: "origin",
	IDContentEncoding: "content-encoding", IDETag: "etag", IDCacheControl: "cache-control", IDLastModified: "last-modified", IDAge: "age",
	IDTraceparent: "traceparent", IDTracestate: "tracestate",
}

// String returns the lower-case name, "" for IDOther.
func (id ID) String() string { return names[id] }

// Key returns the key of a well-known name.
func (id ID) Key() Key { return Key{Name: names[id], ID: id} }

// Key is a header name prepared for lookup. Make one at compile time with KeyOf.
type Key struct {
	Name string // lower case
	ID   ID
}

// KeyOf prepares name (any case).
func KeyOf(name string) Key {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	n := string(b)
	return Key{Name: n, ID: Lookup(n)}
}

const (
	ones    = 0x0101010101010101
	tops    = 0x80 * ones
	colons  = ':' * ones
	blanks  = 0x20 * ones // what a capital lacks
	maxName = len("x-envoy-upstream-rq-timeout-alt-response")
)

// pattern is what a well-known name, colon included, looks like eight bytes at a time; of a shorter one the rest is zero.
type pattern struct {
	first, last uint64
	len         int
}

// patterns and slots are built once at start: a perfect hash of the names, whose factor was searched for.
var (
	patterns [numIDs]pattern
	slots    [256]ID
)

// hash takes the first eight bytes of a short name, or eight from the middle of a long one and the last eight.
func hash(mid, last uint64) uint8 {
	return uint8((mid + bits.RotateLeft64(last, 13)) * 0x69bb66dc9790daff >> 56)
}

// fold lowers the letters of x that are where want has letters: of what names consist of, only they have 0x40.
func fold(x, want uint64) uint64 { return x | want&(0x40*ones)>>1 }

func init() {
	for id := IDOther + 1; id < numIDs; id++ {
		n := len(names[id])
		b := append(append(make([]byte, 0, maxName+8), names[id]...), ":\x00\x00\x00\x00\x00\x00\x00"...)
		p := pattern{first: binary.LittleEndian.Uint64(b), len: n}
		h := hash(p.first|blanks, 0)
		if n > 7 {
			p.last = binary.LittleEndian.Uint64(b[n-7:])
			h = hash(binary.LittleEndian.Uint64(b[(n-7)/2:])|blanks, p.last|blanks)
		}
		patterns[id], slots[h] = p, id
	}
}

// ScanName looks for a well-known name in any case, with its colon, at the start of b, lowers it in place and returns its id and length; IDOther and
// b as it is if none is there. Behind the colon b must have seven more bytes, whatever they are.
func ScanName(b []byte) (ID, int) {
	if len(b) < 8 {
		return IDOther, 0
	}
	x := binary.LittleEndian.Uint64(b)
	y := x ^ colons
	if m := (y - ones) &^ y & tops; m != 0 { // the lowest bit is that of the first colon
		mask := m ^ (m - 1)
		id := slots[hash(x&mask|blanks, 0)]
		want := patterns[id].first
		if fold(x&mask, want) != want {
			return IDOther, 0
		}
		binary.LittleEndian.PutUint64(b, fold(x, want))
		return id, patterns[id].len
	}
	for j := 8; j <= maxName && j+8 <= len(b); j += 8 {
		y := binary.LittleEndian.Uint64(b[j:]) ^ colons
		if m := (y - ones) &^ y & tops; m != 0 {
			return scanLong(b, x, j+bits.TrailingZeros64(m)>>3)
		}
	}
	return IDOther, 0
}

// scanLong is ScanName for a name of n > 7 bytes whose first eight are x.
func scanLong(b []byte, x uint64, n int) (ID, int) {
	last := binary.LittleEndian.Uint64(b[n-7:])
	id := slots[hash(binary.LittleEndian.Uint64(b[(n-7)>>1:])|blanks, last|blanks)]
	p := &patterns[id]
	if p.len != n || fold(x, p.first) != p.first || fold(last, p.last) != p.last {
		return IDOther, 0
	}
	if n > 15 {
		if !foldedEqual(b[8:n-7], names[id][8:]) {
			return IDOther, 0
		}
		copy(b[8:], names[id][8:])
	}
	binary.LittleEndian.PutUint64(b, p.first)
	binary.LittleEndian.PutUint64(b[n-7:], p.last)
	return id, n
}

// foldedEqual compares b, in any case, with the start of a lower-case name.
func foldedEqual(b []byte, name string) bool {
	for i, c := range b {
		if c != name[i] && (c|0x20 != name[i] || c < 'A') {
			return false
		}
	}
	return true
}

// Lookup returns the id of a lower-case name.
func Lookup(s string) ID { return lookup(s) }

// LookupBytes is Lookup for bytes, without allocation.
func LookupBytes(s []byte) ID { return lookup(s) }

func lookup[T string | []byte](s T) ID {
	var b [maxName + 8]byte
	if len(s) > maxName {
		return IDOther
	}
	b[copy(b[:], s)] = ':'
	if id, _ := ScanName(b[:]); names[id] == string(s) {
		return id
	}
	return IDOther
}
