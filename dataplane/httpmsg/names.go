// SPDX-License-Identifier: Apache-2.0

package httpmsg

// ID numbers a well-known header name, so that lookups compare a byte and not a string. IDOther is every other name.
type ID uint8

// The well-known names. Order is free; nothing outside the process sees it.
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
	IDEnvoyIPTags
	IDEnvoyImmediateHealthCheckFail
	IDEnvoyDegraded
	IDEnvoyUpstreamAltStatName
	IDEnvoyDownstreamServiceCluster
	IDEnvoyDownstreamServiceNode
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

// slots is a perfect-enough hash table of the well-known names: open addressing over 256 entries, built once at start.
var slots [256]ID

// hashName mixes what tells the names apart; the factors were searched for few collisions (two among today's names).
func hashName(n int, first, mid, last byte) uint8 {
	return uint8(uint32(n)*11 + uint32(first)*248 + uint32(mid)*29 + uint32(last)*170)
}

func init() {
	for id := IDOther + 1; id < numIDs; id++ {
		s := names[id]
		h := hashName(len(s), s[0], s[len(s)/2], s[len(s)-1])
		for slots[h] != IDOther {
			h++
		}
		slots[h] = id
	}
}

// Lookup returns the id of a lower-case name.
func Lookup(s string) ID {
	if len(s) < 2 {
		return IDOther
	}
	for h := hashName(len(s), s[0], s[len(s)/2], s[len(s)-1]); ; h++ {
		id := slots[h]
		if id == IDOther || names[id] == s {
			return id
		}
	}
}

// LookupBytes is Lookup for bytes, without allocation.
func LookupBytes(s []byte) ID {
	if len(s) < 2 {
		return IDOther
	}
	for h := hashName(len(s), s[0], s[len(s)/2], s[len(s)-1]); ; h++ {
		id := slots[h]
		if id == IDOther || names[id] == string(s) {
			return id
		}
	}
}
