// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

func script(t *testing.T) *testctl.Script {
	t.Helper()
	s, err := testctl.NewScript("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func accept(t *testing.T, s *testctl.Script) *testctl.Conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := s.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func recv(t *testing.T, c *testctl.Conversation) testctl.Request {
	t.Helper()
	r, err := c.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func send(t *testing.T, c *testctl.Conversation, m any) {
	t.Helper()
	if err := c.Send(m); err != nil {
		t.Fatal(err)
	}
}

func cdsResponse(nonce string, names ...string) *discoveryv3.DiscoveryResponse {
	r := &discoveryv3.DiscoveryResponse{TypeUrl: resource.ClusterURL, VersionInfo: nonce, Nonce: nonce}
	for _, n := range names {
		a, err := anypb.New(staticCluster(n))
		if err != nil {
			panic(err)
		}
		r.Resources = append(r.Resources, a)
	}
	return r
}

func TestStream_WhenServerLies_ThenTheStreamGoesOn(t *testing.T) {
	s := script(t)
	d := newDriver(t, ads.SotW)
	d.run(stream(t, d, StreamConfig{Targets: tcpTarget(s.Addr())}), everything[0])
	c := accept(t, s)
	if r := recv(t, c); r.TypeURL != resource.ClusterURL || r.Node.GetId() != "n1" || len(r.Names) != 0 {
		t.Fatalf("first request %+v", r)
	}
	// Types nobody knows or asked for, and none at all: no answer.
	send(t, c, &discoveryv3.DiscoveryResponse{TypeUrl: "nonsense", Nonce: "1"})
	send(t, c, &discoveryv3.DiscoveryResponse{Nonce: "2"})
	send(t, c, &discoveryv3.DiscoveryResponse{TypeUrl: resource.RouteURL, Nonce: "3"})
	// Resources of another type, truncated, without a type, nested wrongly: refused by name, the good one stays.
	bad := cdsResponse("4", "good", "other", "cut")
	bad.Resources[1].TypeUrl = resource.ListenerURL
	bad.Resources[2].Value = append(bad.Resources[2].Value, 0x22, 0x7f)
	bad.Resources = append(bad.Resources, &anypb.Any{}, &anypb.Any{TypeUrl: "type.googleapis.com/envoy.service.discovery.v3.Resource", Value: []byte{0xff}})
	send(t, c, bad)
	r := recv(t, c)
	for _, want := range []string{`CDS "other": resource has type "` + resource.ListenerURL, `CDS "cut": malformed protobuf`, "CDS resource #3: resource without a type URL",
		`CDS resource #4: resource has type "type.googleapis.com/envoy.service.discovery.v3.Resource"`} {
		if !r.Nacked || r.Nonce != "4" || r.Version != "" || !strings.Contains(r.Error, want) {
			t.Errorf("nack %+v lacks %q", r, want)
		}
	}
	if strings.Contains(r.Error, "good") {
		t.Errorf("nack names the good one: %s", r.Error)
	}
	eventually(t, "good one kept", d.holds(resource.ClusterURL, "good"))
	// Wrapped resources and a heartbeat.
	inner, err := anypb.New(staticCluster("w"))
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(r *discoveryv3.Resource) *discoveryv3.DiscoveryResponse {
		a, err := anypb.New(r)
		if err != nil {
			t.Fatal(err)
		}
		return &discoveryv3.DiscoveryResponse{TypeUrl: resource.ClusterURL, VersionInfo: "5", Nonce: "5", Resources: []*anypb.Any{a}}
	}
	send(t, c, wrap(&discoveryv3.Resource{Name: "w", Ttl: durationpb.New(time.Hour), Resource: inner}))
	if r := recv(t, c); r.Nacked || r.Nonce != "5" || r.Version != "5" {
		t.Fatalf("answer %+v", r)
	}
	send(t, c, wrap(&discoveryv3.Resource{Name: "w", Ttl: durationpb.New(time.Hour)}))
	if r := recv(t, c); r.Nacked {
		t.Fatalf("answer to the heartbeat %+v", r)
	}
	eventually(t, "heartbeat removed nothing", d.holds(resource.ClusterURL, "w"))
	if _, closed, _ := d.counts(); closed != 0 {
		t.Errorf("stream was closed %d times", closed)
	}
	// Bytes that are no message end the stream; the next one starts over.
	send(t, c, testctl.Garbage{0xff, 0xff, 0xff})
	if r := recv(t, accept(t, s)); r.Node == nil || r.Version != "5" || r.Nonce != "" {
		t.Errorf("first request of the second stream %+v", r)
	}
}

func TestStream_WhenVerdictIsMissing_ThenNothingMoreIsRead(t *testing.T) {
	s := script(t)
	d := newDriver(t, ads.SotW)
	d.manual = true
	d.run(stream(t, d, StreamConfig{Targets: tcpTarget(s.Addr())}), everything[0])
	c := accept(t, s)
	recv(t, c)
	for i := range 5 {
		send(t, c, cdsResponse(fmt.Sprint("n", i), "a"))
	}
	eventually(t, "first batch", func() bool { _, _, b := d.counts(); return b == 1 })
	time.Sleep(50 * time.Millisecond)
	for i := range 5 {
		if _, _, b := d.counts(); b != i+1 {
			t.Fatalf("%d batches delivered with %d verdicts", b, i)
		}
		d.order(func() {
			del := d.pending[len(d.pending)-1]
			d.step(d.apply(del))
		})
		if r := recv(t, c); r.Nonce != fmt.Sprint("n", i) {
			t.Fatalf("answered %q", r.Nonce)
		}
		if i < 4 {
			eventually(t, "next batch", func() bool { _, _, b := d.counts(); return b == i+2 })
		}
	}
}

func TestStream_WhenServerFloodsAndDoesNotRead_ThenTheQueueIsBounded(t *testing.T) {
	s := script(t)
	d := newDriver(t, ads.SotW)
	st := stream(t, d, StreamConfig{Targets: tcpTarget(s.Addr())})
	d.run(st, everything[0])
	c := accept(t, s)
	recv(t, c)
	const flood = 8000
	sent := make(chan error, 1)
	go func() {
		for i := range flood {
			r := cdsResponse(fmt.Sprintf("nonce-%d-%s", i, strings.Repeat("x", 100)), "a")
			if err := c.Send(r); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	stopped, before := 0, -1
	eventually(t, "reading stops", func() bool {
		time.Sleep(100 * time.Millisecond)
		_, _, b := d.counts()
		if b == before && b > 0 {
			stopped++
		} else {
			stopped = 0
		}
		before = b
		return stopped == 3
	})
	st.mu.Lock()
	queued := len(st.queue)
	st.mu.Unlock()
	if queued > QueueMax || before >= flood {
		t.Fatalf("%d requests queued after %d of %d responses", queued, before, flood)
	}
	for i := range flood {
		if r := recv(t, c); !strings.HasPrefix(r.Nonce, fmt.Sprintf("nonce-%d-", i)) {
			t.Fatalf("answer %d is for %.20q", i, r.Nonce)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestStream_WhenServerDiesOrIsAbsent_ThenTheNextTargetIsTried(t *testing.T) {
	s := script(t)
	d := newDriver(t, ads.Delta)
	targets := append(tcpTarget("127.0.0.1:1"), tcpTarget(s.Addr())...)
	d.run(stream(t, d, StreamConfig{Targets: targets, Variant: ads.Delta}), everything[0])
	c := accept(t, s)
	if r := recv(t, c); !r.Delta || r.Node == nil {
		t.Fatalf("first request %+v", r)
	}
	send(t, c, &discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.ClusterURL, Nonce: "1"})
	recv(t, c)
	// A stream that worked is tried again at the same place, whatever the status, OK included.
	for _, status := range []error{nil, errors.New("go away")} {
		c.End(status)
		c = accept(t, s)
		recv(t, c)
		send(t, c, &discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.ClusterURL, Nonce: "1"})
		recv(t, c)
	}
	opened, closed, _ := d.counts()
	if opened != 3 || closed != 3 {
		t.Errorf("opened %d, closed %d", opened, closed)
	}
}

func TestStream_WhenServerAcceptsAndIsSilent_ThenTheAttemptEndsInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
		}
	}()
	d := newDriver(t, ads.Delta)
	target := tcpTarget(l.Addr().String())
	target[0].ConnectTimeout = 200 * time.Millisecond
	d.run(stream(t, d, StreamConfig{Targets: target, Variant: ads.Delta}), everything[0])
	start := time.Now()
	eventually(t, "two failed attempts", func() bool { _, c, _ := d.counts(); return c >= 2 })
	if opened, _, _ := d.counts(); opened != 0 || time.Since(start) > 5*time.Second {
		t.Errorf("opened %d, after %v", opened, time.Since(start))
	}
}

func TestStream_WhenClosedInAnyState_ThenItEnds(t *testing.T) {
	s := script(t)
	for name, prepare := range map[string]func(d *driver){
		"waiting to reconnect": func(d *driver) { eventually(t, "failure", func() bool { _, c, _ := d.counts(); return c > 0 }) },
		"right away":           func(*driver) {},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, ads.SotW)
			st := stream(t, d, StreamConfig{Targets: tcpTarget("127.0.0.1:1")})
			d.run(st, everything[0])
			prepare(d)
			st.Close()
			st.Close()
		})
	}
	t.Run("idle", func(t *testing.T) {
		d := newDriver(t, ads.SotW)
		st := stream(t, d, StreamConfig{Targets: tcpTarget(s.Addr())})
		d.run(st, everything[0])
		c := accept(t, s)
		st.Close()
		select {
		case <-c.Gone():
		case <-time.After(10 * time.Second):
			t.Error("the server still has the stream")
		}
	})
}
