// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Variant is the protocol variant of a session.
type Variant uint8

const (
	// SotW is the state-of-the-world variant (api_type GRPC, AGGREGATED_GRPC).
	SotW Variant = iota
	// Delta is the incremental variant (api_type DELTA_GRPC, AGGREGATED_DELTA_GRPC).
	Delta
)

// String returns "sotw" or "delta".
func (v Variant) String() string {
	if v == Delta {
		return "delta"
	}
	return "sotw"
}

// Limits and constants of the session.
const (
	// BackoffBase is the first upper bound of the pause before a reconnect; it doubles with each stream that dies unanswered.
	BackoffBase = 500 * time.Millisecond
	// BackoffMax caps that bound.
	BackoffMax = 30 * time.Second
	// NackTextMax bounds the text of a NACK; resources beyond it are counted.
	NackTextMax = 32 << 10
	// HeldMax bounds the answers withheld per type in delta; beyond it the oldest is answered although clusters still warm.
	HeldMax = 1024
)

// Type URLs of the resource types whose order and rules the session knows.
const (
	clusterURL   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	endpointsURL = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerURL  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	scopedURL    = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
	routeURL     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	runtimeURL   = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
)

// TypeConfig says how a resource type behaves.
type TypeConfig struct {
	URL string
	// FullState: a SotW response holds everything; what is absent is gone.
	FullState bool
}

// DefaultTypes is Envoy's order of requests on a stream with the full-state flags: RTDS, CDS, EDS, LDS, SRDS, RDS. Types that are not listed
// follow in the order of their first subscription.
func DefaultTypes() []TypeConfig {
	return []TypeConfig{
		{URL: runtimeURL}, {URL: clusterURL, FullState: true}, {URL: endpointsURL}, {URL: listenerURL, FullState: true},
		{URL: scopedURL, FullState: true}, {URL: routeURL},
	}
}

// Config of a session.
type Config struct {
	Variant Variant
	// Types in request order; nil means DefaultTypes.
	Types []TypeConfig
	// Seed of the backoff jitter. The same seed gives the same pauses.
	Seed uint64
	// NodeInEvery puts the node into every SotW request: Envoy without set_node_on_first_message_only.
	NodeInEvery bool
	// ExplicitWildcard sends "*" instead of the legacy empty list, for servers with the legacy form switched off.
	ExplicitWildcard bool
}

// Session is the machine for one stream. See the package comment.
type Session struct {
	// Immutable
	cfg Config

	// Stream
	open     bool
	spoke    bool // a message was sent on this stream
	answered bool // a response came on this stream
	stream   uint64
	backoff  time.Duration // upper bound of the next pause
	rng      *rand.Rand

	// Protocol
	types   []*typeState
	byURL   map[string]*typeState
	batches map[BatchID]*batch
	last    BatchID
	now     time.Duration
	ttls    bool // some resource has, or had, a TTL
}

// held is what is known of one resource.
type held struct {
	version  string
	deadline time.Duration // 0 = none
	accepted bool          // false: every version so far was refused
}

// typeState is the protocol state of one resource type.
type typeState struct {
	TypeConfig
	// Survives streams
	wildcard bool
	want     map[string]struct{}
	list     []string // want, sorted; nil when it changed. Never modified: requests share it
	have     map[string]held
	version  string // last accepted version_info

	// Of this stream
	started bool                // a request went out
	wildTo  bool                // the wildcard the server was told
	named   bool                // SotW: a request with names went out
	sent    map[string]struct{} // delta: names the server was told
	adds    map[string]struct{} // delta: to be told
	drops   map[string]struct{} // delta: told, then unsubscribed, to be told
	dirty   bool
	nonce   string   // of the last response
	waiting []answer // withheld answers, oldest first
}

// answer is one reply that waits for Release.
type answer struct {
	nonce string
	nack  bool
	text  string
}

// batch is a delivered response without a verdict.
type batch struct {
	st       *typeState
	stream   uint64
	version  string
	nonce    string
	at       time.Duration
	changed  []mark
	rejected []Rejection
}

// mark is what remains of a Raw until the verdict.
type mark struct {
	name, version string
	ttl           time.Duration
}

// New returns a session with a closed stream and no subscriptions.
func New(cfg Config) *Session {
	if cfg.Types == nil {
		cfg.Types = DefaultTypes()
	}
	s := &Session{
		cfg: cfg, backoff: BackoffBase, rng: rand.New(rand.NewPCG(cfg.Seed, 0x9e3779b97f4a7c15)),
		byURL: map[string]*typeState{}, batches: map[BatchID]*batch{},
	}
	for _, t := range cfg.Types {
		s.addType(t)
	}
	return s
}

func (s *Session) addType(t TypeConfig) *typeState {
	st := &typeState{TypeConfig: t, want: map[string]struct{}{}, have: map[string]held{}}
	st.reset()
	s.types = append(s.types, st)
	s.byURL[t.URL] = st
	return st
}

// reset forgets what belongs to a stream.
func (st *typeState) reset() {
	st.started, st.wildTo, st.named, st.dirty, st.nonce, st.waiting = false, false, false, false, "", nil
	st.sent, st.adds, st.drops = map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}
}

// active reports whether anything of the type is subscribed.
func (st *typeState) active() bool { return st.wildcard || len(st.want) > 0 }

// Step advances the machine by one event and appends the actions it causes to out.
func (s *Session) Step(ev Event, out []Action) []Action {
	switch e := ev.(type) {
	case Opened:
		return s.opened(out)
	case Closed:
		return s.closed(out)
	case Response:
		return s.response(e, out)
	case Verdict:
		return s.verdict(e, out)
	case Release:
		if st := s.byURL[e.TypeURL]; st != nil {
			out = s.release(st, out)
		}
		return s.flush(out)
	case Subscribe:
		s.subscribe(e)
		return out
	case Unsubscribe:
		s.unsubscribe(e)
		return out
	case Flush:
		return s.flush(out)
	case Tick:
		return s.tick(e.Now, out)
	}
	return out
}

// Deadline returns the time of the next TTL expiry on the clock of Tick, and whether there is one.
func (s *Session) Deadline() (time.Duration, bool) {
	var best time.Duration
	if !s.ttls {
		return 0, false
	}
	for _, st := range s.types {
		for _, h := range st.have {
			if h.deadline > 0 && (best == 0 || h.deadline < best) {
				best = h.deadline
			}
		}
	}
	return best, best > 0
}

// Connected reports whether the stream is open.
func (s *Session) Connected() bool { return s.open }

// Version returns the last accepted version_info (SotW) or system_version_info (delta) of a type.
func (s *Session) Version(typeURL string) string {
	if st := s.byURL[typeURL]; st != nil {
		return st.version
	}
	return ""
}

// Subscriptions returns the sorted names subscribed for a type, and whether the wildcard is.
func (s *Session) Subscriptions(typeURL string) ([]string, bool) {
	st := s.byURL[typeURL]
	if st == nil {
		return nil, false
	}
	return sorted(st.want), st.wildcard
}

func (s *Session) opened(out []Action) []Action {
	s.open, s.spoke, s.answered = true, false, false
	s.stream++
	for _, st := range s.types {
		st.reset()
		st.dirty = st.active()
	}
	return s.flushNow(out)
}

func (s *Session) closed(out []Action) []Action {
	if s.answered {
		s.backoff = BackoffBase
	}
	s.open, s.answered = false, false
	for _, st := range s.types {
		st.reset()
	}
	after := time.Duration(s.rng.Int64N(int64(s.backoff)))
	s.backoff = min(2*s.backoff, BackoffMax)
	return append(out, Reconnect{After: after})
}

func (s *Session) tick(now time.Duration, out []Action) []Action {
	s.now = max(s.now, now)
	if !s.ttls {
		return out
	}
	for _, st := range s.types {
		var gone []string
		for name, h := range st.have {
			if h.deadline > 0 && h.deadline <= s.now {
				gone = append(gone, name)
			}
		}
		slices.Sort(gone)
		for _, name := range gone {
			delete(st.have, name)
			out = append(out, Expired{TypeURL: st.URL, Name: name})
		}
	}
	return out
}

func sorted(m map[string]struct{}) []string {
	if len(m) == 0 {
		return nil
	}
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
