// SPDX-License-Identifier: Apache-2.0

package httpmsg

// Version is the HTTP version of a message as received.
type Version uint8

// The versions.
const (
	HTTP10 Version = 10
	HTTP11 Version = 11
	HTTP2  Version = 20
)

// String is Envoy's %PROTOCOL%.
func (v Version) String() string {
	switch v {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP2:
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// Body says how the body of a message is delimited (RFC 9112 section 6.3), version neutral: a codec that writes the message decides its own framing
// from it.
type Body uint8

// The kinds of body.
const (
	BodyNone       Body = iota // no body
	BodyLength                 // Length bytes
	BodyChunked                // unknown length, ends by itself
	BodyUntilClose             // response only: ends with the connection
)

// Method numbers the methods that have meaning to the proxy; MethodOther is any other that the codec let through.
type Method uint8

// The methods.
const (
	MethodOther Method = iota
	MethodGet
	MethodHead
	MethodPost
	MethodPut
	MethodDelete
	MethodConnect
	MethodOptions
	MethodTrace
	MethodPatch
)

var methodNames = [...]string{"", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

// ParseMethod returns the number of an upper-case method name.
func ParseMethod(b []byte) Method {
	for i := 1; i < len(methodNames); i++ {
		if string(b) == methodNames[i] {
			return Method(i)
		}
	}
	return MethodOther
}

// KnownMethod reports whether b is on Envoy's list of methods besides those that have a number. Case counts.
func KnownMethod(b []byte) bool {
	switch string(b) {
	case "ACL", "BIND", "CHECKOUT", "COPY", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY",
		"PROPFIND", "PROPPATCH", "PURGE", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE":
		return true
	}
	return false
}

// Spelling says how the field names of a message are written. Envoy's stateful header formatter travels with the message like this: what the
// codec that read it keeps counts for the codec that writes it.
type Spelling uint8

// The spellings.
const (
	SpellEncoder        Spelling = iota // as the writing codec is told to
	SpellReceived                       // as received; names that were not received in lower case
	SpellReceivedProper                 // as received; names that were not received in proper case
)

// Head is the head of a request or a response. For a request Host is not among the Fields: it is Authority.
// A Head is a view into its arena and lives as long as the exchange; copies are explicit (CopyFrom).
type Head struct {
	Fields

	MethodName, Target, Authority, Scheme Span // request; Target is the path with query (":path")

	RawHost Span // request: spelling of the Host field name as received; empty unless the codec keeps it

	Length  int64 // with BodyLength
	Status  uint16
	Method  Method
	Version Version
	Body    Body

	Spelling  Spelling
	DroppedUS uint8 // request: fields that headers_with_underscores_action: DROP_HEADER took out

	KeepAlive      bool // the sender lets the connection live on after this message
	Upgrade        bool // Connection: upgrade and an Upgrade field are present; the field is kept in Fields
	ExpectContinue bool // request: Expect: 100-continue
	HostCount      uint8
	TrailersOK     bool // request: TE: trailers
}

// Reset empties h and binds it to arena a.
func (h *Head) Reset(a *Arena) {
	l := h.List
	*h = Head{}
	h.A, h.List = a, l[:0]
}

// Path returns ":path" (with query); nil when absent.
func (h *Head) Path() []byte { return h.A.Bytes(h.Target) }

// Host returns ":authority".
func (h *Head) Host() []byte { return h.A.Bytes(h.Authority) }

// MethodBytes returns ":method".
func (h *Head) MethodBytes() []byte { return h.A.Bytes(h.MethodName) }

// SchemeBytes returns ":scheme".
func (h *Head) SchemeBytes() []byte { return h.A.Bytes(h.Scheme) }

// SetPath, SetHost, SetScheme and SetMethod replace a pseudo-header.
func (h *Head) SetPath(p []byte)   { h.Target = h.A.Put(p) }
func (h *Head) SetHost(p []byte)   { h.Authority = h.A.Put(p) }
func (h *Head) SetScheme(s string) { h.Scheme = h.A.PutString(s) }
func (h *Head) SetMethod(m string) {
	h.MethodName = h.A.PutString(m)
	h.Method = ParseMethod([]byte(m))
}

// PathOnly returns the path without query.
func (h *Head) PathOnly() []byte {
	p := h.Path()
	for i, c := range p {
		if c == '?' {
			return p[:i]
		}
	}
	return p
}

// CopyHead makes h a deep copy of src in arena a.
func (h *Head) CopyHead(src *Head, a *Arena) {
	l := h.List
	*h = *src
	h.List = l
	h.MethodName = a.Put(src.MethodBytes())
	h.Target = a.Put(src.Path())
	h.Authority = a.Put(src.Host())
	h.Scheme = a.Put(src.SchemeBytes())
	h.RawHost = a.Put(src.A.Bytes(src.RawHost))
	h.Fields.CopyFrom(&src.Fields, a)
}
