// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/resource"
)

// RestBodyMax bounds the JSON of one response.
const RestBodyMax = 256 << 20

// restPaths are the paths of the discovery services over REST (the google.api.http annotations of their Fetch methods).
var restPaths = map[resource.Type]string{
	resource.Listener: "/v3/discovery:listeners", resource.RouteConfiguration: "/v3/discovery:routes", resource.Cluster: "/v3/discovery:clusters",
	resource.Endpoints: "/v3/discovery:endpoints", resource.Secret: "/v3/discovery:secrets", resource.Runtime: "/v3/discovery:runtime",
	resource.ScopedRoute: "/v3/discovery:scoped-routes", resource.ExtensionConfig: "/v3/discovery:extension_configs",
}

// retryBase bounds the first pause after a request that failed; it doubles with each one, up to RefreshDelay.
const retryBase = 200 * time.Millisecond

// RestConfig of a Rest.
type RestConfig struct {
	Target *Target
	Type   resource.Type
	// Node goes out with every request.
	Node *corev3.Node
	// RefreshDelay is the pause between two requests; as in Envoy up to as much again is added at random. After a request that failed the pause is a
	// uniform time below a bound that doubles from 200 ms up to RefreshDelay.
	RefreshDelay time.Duration
	// RequestTimeout bounds one request.
	RequestTimeout time.Duration
	// Sink gets the events. Required.
	Sink  Sink
	Clock Clock
	Stats Stats
}

// Rest is a Runner that polls a control plane over HTTP (api_type REST): a SotW session sees it as a server that answers when there is
// something new. It asks at once when the names asked for change. A request that fails, or an answer that cannot be read, counts as a failure and
// keeps what there is; 304 says that nothing is new.
type Rest struct {
	// Immutable
	cfg    RestConfig
	url    string
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	kick   chan struct{} // something to do before the next poll; capacity 1
	wg     sync.WaitGroup

	// Poller
	answered []string // the names of the last request that brought news

	// Shared, under mu
	mu      sync.Mutex
	last    ads.Send // what is asked for
	asked   bool
	named   bool
	again   bool
	permit  bool
	started bool
}

// NewRest returns a poller that Start starts.
func NewRest(cfg RestConfig) (*Rest, error) {
	path, ok := restPaths[cfg.Type]
	switch {
	case !ok:
		return nil, fmt.Errorf("%s is not served over REST", cfg.Type)
	case cfg.Target == nil || cfg.Sink == nil:
		return nil, errors.New("polling needs a target and a sink")
	case cfg.RefreshDelay <= 0 || cfg.RequestTimeout <= 0:
		return nil, errors.New("polling needs a delay and a timeout")
	}
	if cfg.Clock == nil {
		start := time.Now()
		cfg.Clock = func() time.Duration { return time.Since(start) }
	}
	if cfg.Stats == nil {
		cfg.Stats = noStats{}
	}
	t := cfg.Target
	tr := &http.Transport{MaxIdleConns: 1, Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := t.dial(ctx)
		if err != nil || t.security == nil {
			return c, err
		}
		alpn := "http/1.1"
		if t.HTTP2 {
			alpn = "h2"
		}
		secured, err := t.security.handshake(ctx, c, alpn)
		if err != nil {
			_ = c.Close()
			return nil, err
		}
		return secured, nil
	}}
	tr.Protocols.SetHTTP1(!t.HTTP2)
	tr.Protocols.SetUnencryptedHTTP2(t.HTTP2)
	r := &Rest{cfg: cfg, url: "http://control-plane" + path, kick: make(chan struct{}, 1), permit: true,
		client: &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Start implements Runner.
func (r *Rest) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return
	}
	r.started = true
	r.wg.Add(1)
	go r.poll()
}

// Do implements Runner.
func (r *Rest) Do(a ads.Action) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch a := a.(type) {
	case ads.Send:
		if !r.asked || !slices.Equal(r.last.Names, a.Names) {
			// No names, after there were some, is nobody: the legacy wildcard is only what a poller begins with.
			r.named = r.named || len(a.Names) > 0
			r.asked = len(a.Names) > 0 || !r.named
			r.again = r.asked
			r.nudge()
		}
		r.last = a
	case ads.Read:
		r.permit = true
		r.nudge()
	}
}

func (r *Rest) nudge() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Close implements Runner.
func (r *Rest) Close() {
	r.cancel()
	r.wg.Wait()
	r.client.CloseIdleConnections()
}

func (r *Rest) poll() {
	defer r.wg.Done()
	r.cfg.Sink(ads.Opened{})
	timer := time.NewTimer(0)
	defer timer.Stop()
	due := false
	retry := retryBase
	for serial := 1; ; {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
			due = true
		case <-r.kick:
		}
		m, ok := r.take(due)
		if !ok {
			continue
		}
		due = false
		if err := r.fetch(m, serial); err != nil {
			if r.ctx.Err() == nil {
				r.cfg.Stats.Failed(fmt.Errorf("control plane %q: %w", r.cfg.Target.Name, err))
			}
			timer.Reset(rand.N(min(retry, r.cfg.RefreshDelay)))
			retry = min(2*retry, r.cfg.RefreshDelay)
			continue
		}
		serial++
		retry = retryBase
		timer.Reset(r.cfg.RefreshDelay + rand.N(r.cfg.RefreshDelay))
	}
}

// take returns the request to make now, if there is one: the session must have asked for something and be done with the last response.
func (r *Rest) take(due bool) (ads.Send, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked || !r.permit || !r.again && !due {
		return ads.Send{}, false
	}
	r.again = false
	return r.last, true
}

// fetch makes one request and delivers what is new. The error of a response that was not modified is nil.
func (r *Rest) fetch(m ads.Send, serial int) error {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.RequestTimeout)
	defer cancel()
	if !slices.Equal(m.Names, r.answered) {
		m.Version = "" // it says nothing of names that were not in the last answer, and servers compare only versions
	}
	m.Nack, m.Nonce, m.Node = false, "", true // a poll answers nothing, and no server remembers who asked
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(sotwRequest(m, r.cfg.Node))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Host = r.cfg.Target.Authority
	req.Header.Set("Content-Type", "application/json")
	r.cfg.Stats.Sent(m.TypeURL, false)
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, RestBodyMax+1))
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotModified:
		return nil
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %d %.200q", req.URL.Path, resp.StatusCode, data)
	case len(data) > RestBodyMax:
		return fmt.Errorf("the answer of %s is larger than %d bytes", req.URL.Path, RestBodyMax)
	}
	out := &discoveryv3.DiscoveryResponse{}
	if err := bootstrap.Unmarshal(req.URL.Path+".json", data, out); err != nil {
		return err
	}
	ev := sotwResponse(out)
	if ev.TypeURL == "" {
		ev.TypeURL = r.cfg.Type.URL()
	}
	if ev.TypeURL != r.cfg.Type.URL() {
		return fmt.Errorf("%s: type_url is %q, expected %q", req.URL.Path, ev.TypeURL, r.cfg.Type.URL())
	}
	ev.Nonce, ev.Now = "rest-"+strconv.Itoa(serial), r.cfg.Clock()
	r.answered = m.Names
	r.mu.Lock()
	r.permit = false
	r.mu.Unlock()
	r.cfg.Stats.Received(ev.TypeURL, len(data))
	r.cfg.Sink(ev)
	return nil
}
