// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
)

const (
	cdsURL = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	edsURL = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ldsURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
	rdsURL = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// script is a scripted control plane.
type script struct {
	*testctl.Script
	t testing.TB
}

func newScript(t testing.TB) *script {
	t.Helper()
	s, err := testctl.NewScript("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &script{s, t}
}

// peer is one stream of a scripted control plane; a goroutine takes the requests as they come.
type peer struct {
	t     testing.TB
	conv  *testctl.Conversation
	delta bool

	mu   sync.Mutex
	reqs []testctl.Request
	over bool
	n    int
}

// accept waits for the next stream.
func (s *script) accept() *peer {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.Accept(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &peer{t: s.t, conv: c, delta: c.Delta}
	go func() {
		for {
			r, err := c.Recv()
			p.mu.Lock()
			if err != nil {
				p.over = true
				p.mu.Unlock()
				return
			}
			p.reqs = append(p.reqs, r)
			p.mu.Unlock()
		}
	}()
	return p
}

func (p *peer) requests() []testctl.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]testctl.Request(nil), p.reqs...)
}

// await waits for a request that fits.
func (p *peer) await(what string, fits func(testctl.Request) bool) testctl.Request {
	p.t.Helper()
	end := time.Now().Add(patience)
	for {
		for _, r := range p.requests() {
			if fits(r) {
				return r
			}
		}
		if time.Now().After(end) {
			p.t.Fatalf("no request: %s; got\n%s", what, p.transcript())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (p *peer) transcript() string {
	var b strings.Builder
	for _, r := range p.requests() {
		fmt.Fprintf(&b, "  %s names=%v removed=%v version=%q nonce=%q initial=%v nack=%v %s\n", r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:], r.Names, r.Removed, r.Version, r.Nonce, r.Initial, r.Nacked, r.Error)
	}
	return b.String()
}

// asked waits for a request of a type that asks for all names (none: the wildcard).
func (p *peer) asked(url string, names ...string) testctl.Request {
	p.t.Helper()
	return p.await(fmt.Sprintf("%s for %v", url, names), func(r testctl.Request) bool {
		if r.TypeURL != url || len(names) == 0 && (len(r.Names) > 0 || r.Nonce != "") {
			return false
		}
		for _, n := range names {
			found := false
			for _, m := range r.Names {
				found = found || m == n
			}
			if !found {
				return false
			}
		}
		return true
	})
}

// answer waits for the ACK or NACK of a nonce.
func (p *peer) answer(nonce string) testctl.Request {
	p.t.Helper()
	return p.await("answer to "+nonce, func(r testctl.Request) bool { return r.Nonce == nonce })
}

func (p *peer) acked(nonce string) {
	p.t.Helper()
	if r := p.answer(nonce); r.Nacked {
		p.t.Fatalf("%s: NACK %s", nonce, r.Error)
	}
}

func (p *peer) nacked(nonce string, parts ...string) {
	p.t.Helper()
	r := p.answer(nonce)
	if !r.Nacked {
		p.t.Fatalf("%s: ACK, want NACK", nonce)
	}
	for _, s := range parts {
		if !strings.Contains(r.Error, s) {
			p.t.Errorf("NACK lacks %q:\n%s", s, r.Error)
		}
	}
}

// silent checks that a nonce has no answer now nor for a while.
func (p *peer) silent(nonce string) {
	p.t.Helper()
	time.Sleep(150 * time.Millisecond)
	for _, r := range p.requests() {
		if r.Nonce == nonce {
			p.t.Fatalf("%s is answered already (nack %v %s)", nonce, r.Nacked, r.Error)
		}
	}
}

// res is one resource to send.
type res struct {
	name    string
	m       proto.Message
	version string
	ttl     time.Duration
	raw     []byte // instead of m
	url     string // with raw
	beat    bool   // heartbeat: no body
}

func of(ms ...proto.Message) []res {
	out := make([]res, 0, len(ms))
	for _, m := range ms {
		out = append(out, res{name: nameOf(m), m: m})
	}
	return out
}

func nameOf(m proto.Message) string {
	fd := m.ProtoReflect().Descriptor().Fields().ByNumber(1)
	return m.ProtoReflect().Get(fd).String()
}

func (x *res) any() *anypb.Any {
	switch {
	case x.beat:
		return nil
	case x.raw != nil:
		return &anypb.Any{TypeUrl: x.url, Value: x.raw}
	}
	a, err := anypb.New(x.m)
	if err != nil {
		panic(err)
	}
	return a
}

// push sends a response and returns its nonce. removed counts in delta only: in SotW the caller leaves the names out.
func (p *peer) push(url, version string, list []res, removed ...string) string {
	p.t.Helper()
	p.n++
	nonce := fmt.Sprintf("%s-%d", url[strings.LastIndexByte(url, '.')+1:], p.n)
	var m proto.Message
	if p.delta {
		d := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: version, Nonce: nonce, RemovedResources: removed}
		for i := range list {
			x := &list[i]
			v := x.version
			if v == "" {
				v = version
			}
			w := &discoveryv3.Resource{Name: x.name, Version: v, Resource: x.any()}
			if x.ttl > 0 {
				w.Ttl = durationpb.New(x.ttl)
			}
			d.Resources = append(d.Resources, w)
		}
		m = d
	} else {
		d := &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: version, Nonce: nonce}
		for i := range list {
			x := &list[i]
			if x.ttl == 0 && !x.beat {
				d.Resources = append(d.Resources, x.any())
				continue
			}
			w := &discoveryv3.Resource{Name: x.name, Version: version, Resource: x.any(), Ttl: durationpb.New(x.ttl)}
			a, err := anypb.New(w)
			if err != nil {
				p.t.Fatal(err)
			}
			d.Resources = append(d.Resources, a)
		}
		m = d
	}
	if err := p.conv.Send(m); err != nil {
		p.t.Fatalf("send: %v", err)
	}
	return nonce
}

// variants runs a test in both protocol variants.
func variants(t *testing.T, fn func(t *testing.T, delta bool)) {
	for _, delta := range []bool{false, true} {
		name := "sotw"
		if delta {
			name = "delta"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn(t, delta)
		})
	}
}
