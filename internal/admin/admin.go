// SPDX-License-Identifier: Apache-2.0

// Package admin serves Envoy's administration interface. It has its own goroutines and reads only what other rooms publish: it never touches
// a worker and never waits for one. Bodies, content types, error texts and method rules are Envoy 1.40's.
package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/log"
	"sidecar/internal/telemetry/stats"
)

// DumpQuery narrows a config dump at the source.
type DumpQuery struct {
	IncludeEDS bool
	// Name is name_regex; nil takes everything.
	Name func(string) bool
}

// Drain is what POST /drain_listeners asks for.
type Drain struct {
	Graceful, SkipExit, InboundOnly bool
}

// RuntimeEntry is one runtime key: its value in every layer, lowest first ("" where a layer has none), and the value in force.
type RuntimeEntry struct {
	Key    string
	Layers []string
	Final  string
}

// Rejection is a resource that was refused, or the advisory findings of one that was accepted.
type Rejection struct {
	Type     string    `json:"type"`
	Name     string    `json:"name"`
	Version  string    `json:"version,omitempty"`
	Findings []string  `json:"findings"` // each begins with the field path
	Since    time.Time `json:"since"`
}

// Sources are the views and actions of other rooms. Every function may be called from any goroutine and must not block on a worker. Nil
// functions make their endpoint answer empty (views) or 501 (actions).
type Sources struct {
	Stats    *stats.View
	Registry *stats.Registry
	Logging  *log.Manager

	// State is /ready; ServerInfo adds everything else of /server_info.
	State      func() adminv3.ServerInfo_State
	ServerInfo func() *adminv3.ServerInfo
	// ConfigDump returns the dump messages in Envoy's order: Bootstrap, Clusters, Endpoints (when asked for), Listeners, ScopedRoutes, Routes,
	// Secrets. They are not changed.
	ConfigDump func(DumpQuery) []proto.Message
	Clusters   func() *adminv3.Clusters
	Listeners  func() *adminv3.Listeners
	Certs      func() *adminv3.Certificates
	// Secrets is what /certs?verbose adds: each secret with its stage and last error.
	Secrets  func() any
	InitDump func() *adminv3.UnreadyTargetsDumps
	Memory   func() *adminv3.Memory

	// Runtime returns the layer names and all entries; RuntimeModify writes to the admin layer, "" deletes. Its error becomes a 503.
	Runtime       func() (layers []string, entries []RuntimeEntry)
	RuntimeModify func(map[string]string) error

	Rejected func() []Rejection
	Warnings func() []Rejection
	// Steering is the mode and the reason for it, and anything else worth showing at /steering.
	Steering func() any

	DrainListeners func(Drain)
	HealthCheck    func(fail bool)
	Quit           func()
	ReopenLogs     func()
}

// Config of a Server.
type Config struct {
	Sources Sources
	// AccessLogs is admin.access_log.
	AccessLogs []*accesslog.Logger
	// Allow is admin.allow_paths; nil allows every path.
	Allow func(path string) bool
}

// maxRequests bounds the requests served at once; further ones wait.
const maxRequests = 32

// Server is the admin server.
type Server struct {
	cfg   Config
	byURL map[string]*endpoint
	list  []*endpoint
	slots chan struct{}
	http  *http.Server
}

// New makes a server; Serve starts it.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, byURL: map[string]*endpoint{}, slots: make(chan struct{}, maxRequests)}
	s.list = s.endpoints()
	for _, e := range s.list {
		s.byURL[e.path] = e
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 60 << 10}
	return s
}

// Listen opens the admin socket: network "tcp" or "unix". A stale socket file of a process that is gone is replaced; "@name" is abstract.
func Listen(network, address string, mode os.FileMode) (net.Listener, error) {
	if network == "unix" && !strings.HasPrefix(address, "@") {
		if c, err := net.Dial(network, address); err == nil {
			_ = c.Close()
		} else if st, err := os.Lstat(address); err == nil && st.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(address)
		}
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" && mode != 0 && !strings.HasPrefix(address, "@") {
		if err := os.Chmod(address, mode); err != nil {
			_ = ln.Close()
			return nil, err
		}
	}
	return ln, nil
}

// Serve answers until Close; it always returns an error, http.ErrServerClosed after Close.
func (s *Server) Serve(ln net.Listener) error { return s.http.Serve(ln) }

// Close lets requests in flight finish until ctx ends, then cuts them.
func (s *Server) Close(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// reply is one answer.
type reply struct {
	code int
	ctyp string
	body []byte
	// stream, when not nil, writes the body in bounded pieces.
	stream func(io.Writer) error
}

const (
	plainText = "text/plain; charset=UTF-8"
	bareText  = "text/plain"
	jsonType  = "application/json"
	htmlType  = "text/html; charset=UTF-8"
)

func ok(body string) reply               { return reply{code: 200, ctyp: plainText, body: []byte(body)} }
func bad(code int, body string) reply    { return reply{code: code, ctyp: plainText, body: []byte(body)} }
func asJSON(b []byte) reply              { return reply{code: 200, ctyp: jsonType, body: b} }
func dumpError(code int, b string) reply { return reply{code: code, ctyp: bareText, body: []byte(b)} }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return
	}
	start := time.Now()
	rep := s.handle(r)
	h := w.Header()
	h.Set("Content-Type", rep.ctyp)
	h.Set("Cache-Control", "no-cache, max-age=0")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Server", "envoy")
	w.WriteHeader(rep.code)
	out := &counter{w: w}
	switch {
	case r.Method == http.MethodHead:
	case rep.stream != nil:
		_ = rep.stream(out) // the client may be gone; nothing to do about it
	default:
		_, _ = out.Write(rep.body) // as above
	}
	s.log(r, rep.code, out.n, start)
}

// counter counts what was written.
type counter struct {
	w io.Writer
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}

func (s *Server) handle(r *http.Request) reply {
	path := r.URL.Path
	if s.cfg.Allow != nil && !s.cfg.Allow(path) {
		return bad(403, "request to path "+path+" not allowed")
	}
	e := s.byURL[path]
	if e == nil {
		return bad(404, "invalid path. "+s.help())
	}
	if e.post && r.Method != http.MethodPost {
		return bad(405, "Method "+r.Method+" not allowed, POST required.")
	}
	return e.serve(r, parseQuery(r.URL.RawQuery))
}

// query holds the parameters in order; the first of a name counts, as in Envoy.
type query []param

type param struct{ key, value string }

// parseQuery is lenient where net/url is not: agents send patterns such as ^(a|b)\.c$ unescaped, and a lone '%' stays one.
func parseQuery(raw string) query {
	var q query
	for _, kv := range strings.Split(raw, "&") {
		if kv == "" {
			continue
		}
		k, v, _ := strings.Cut(kv, "=")
		q = append(q, param{unescape(k), unescape(v)})
	}
	return q
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

func (q query) get(key string) (string, bool) {
	for _, p := range q {
		if p.key == key {
			return p.value, true
		}
	}
	return "", false
}

func (q query) has(key string) bool { _, ok := q.get(key); return ok }

// log writes the admin access log.
func (s *Server) log(r *http.Request, code, bytes int, start time.Time) {
	if len(s.cfg.AccessLogs) == 0 {
		return
	}
	head := func() *httpmsg.Head { h := &httpmsg.Head{}; h.Reset(&httpmsg.Arena{}); return h }
	req, resp := head(), head()
	req.SetMethod(r.Method)
	req.SetPath([]byte(r.URL.RequestURI()))
	req.SetHost([]byte(r.Host))
	req.SetScheme("http")
	for k, vs := range r.Header {
		k = strings.ToLower(k)
		for _, v := range vs {
			req.AddString(httpmsg.Key{Name: k, ID: httpmsg.Lookup(k)}, v)
		}
	}
	resp.Status = uint16(code)
	rec := &accesslog.Record{}
	rec.Reset()
	rec.Start, rec.End = start.UnixNano(), int64(time.Since(start))
	rec.Req, rec.Resp, rec.Code, rec.Type = req, resp, uint16(code), accesslog.DownstreamEnd
	rec.BytesOut, rec.BytesIn = uint64(bytes), uint64(max(r.ContentLength, 0))
	rec.Protocol = r.Proto
	side := &accesslog.ConnSide{Listener: "admin"}
	rec.Conn = &accesslog.ConnInfo{Start: rec.Start, ConnSide: side}
	if ta, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		side.Local = sys.AddrOf(ta.AddrPort())
		side.DirectLocal = side.Local
	}
	if ra, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		rec.Conn.Remote = sys.AddrOf(ra)
	}
	for _, l := range s.cfg.AccessLogs {
		if l.Wants(rec, uint64(start.UnixNano())) {
			l.Sink.Write(l.Format.Append(nil, rec))
		}
	}
}
