// SPDX-License-Identifier: Apache-2.0

package http1

// Underscore is what to do with a header whose name has an underscore (HttpProtocolOptions.headers_with_underscores_action).
type Underscore uint8

// The actions.
const (
	UnderscoreAllow  Underscore = iota // ALLOW
	UnderscoreReject                   // REJECT_REQUEST
	UnderscoreDrop                     // DROP_HEADER
)

// Defaults of HttpConnectionManager.max_request_headers_kb, HttpProtocolOptions.max_response_headers_kb and HttpProtocolOptions.max_headers_count.
const (
	DefaultMaxHeadBytes         = 60 << 10
	DefaultMaxResponseHeadBytes = 80 << 10
	DefaultMaxHeaders           = 100
)

// Options is the compiled form of Http1ProtocolOptions and of the fields of HttpConnectionManager and HttpProtocolOptions that concern the
// codec. One value is shared by all connections of a listener or cluster.
type Options struct {
	// Immutable

	MaxHeadBytes int // bytes of a head, and of a trailer section; 0 = the default
	MaxHeaders   int // header lines, Host included; 0 = DefaultMaxHeaders

	AcceptHTTP10          bool   // accept_http_10: HTTP/1.0 and HTTP/0.9 requests
	DefaultHost           string // default_host_for_http_10
	AllowAbsoluteURL      bool   // allow_absolute_url; the compiler sets it unless the field says false
	AllowChunkedLength    bool   // allow_chunked_length: transfer-encoding wins over content-length instead of a fault
	EnableTrailers        bool   // enable_trailers
	KeepRawNames          bool   // header_key_format: preserve_case; the decoder keeps the names as received, and every encoder of the message writes them so
	ProperCase            bool   // header_key_format: proper_case_words; with KeepRawNames: the names of decoded messages that were not received
	AllowCustomMethods    bool   // allow_custom_methods: any token is a method
	SendFullyQualifiedURL bool   // send_fully_qualified_url: AppendRequestHead writes the absolute form
	Underscores           Underscore
	Lax                   bool // takes what Envoy takes (docs/differences.md)

	IgnoreUpgrade func(value []byte) bool // ignore_http_11_upgrade: says whether to ignore this Upgrade value; nil = none
}

// maxHeadBytes bounds a head, and a trailer section, of the kind of message that the decoder reads.
func (d *Decoder) maxHeadBytes() int {
	switch {
	case d.o.MaxHeadBytes > 0:
		return d.o.MaxHeadBytes
	case d.flags&dResponse != 0:
		return DefaultMaxResponseHeadBytes
	}
	return DefaultMaxHeadBytes
}

func (o *Options) maxHeaders() int {
	if o.MaxHeaders > 0 {
		return o.MaxHeaders
	}
	return DefaultMaxHeaders
}

// LaxnessKey is the runtime key that sets Lax for the listeners and clusters that are compiled while it is true.
const LaxnessKey = "sidecar.http1.envoy_compatible_laxness"
