// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	demandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/internal/testctl"
)

// demandWorld is a proxy with the filter on_demand, whose route configuration r takes virtual hosts over VHDS. Only own.test is there.
type demandWorld struct {
	unready
	port int
	log  string
}

func newDemandWorld(t *testing.T, fetch time.Duration, change ...func(*hcmv3.HttpConnectionManager)) *demandWorld {
	w := &demandWorld{newUnready(t, true), port(t), filepath.Join(t.TempDir(), "log")}
	l := rdsListener("l", w.port, "r", 0)
	h := &hcmv3.HttpConnectionManager{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(h); err != nil {
		t.Fatal(err)
	}
	h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "envoy.filters.http.on_demand",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&demandv3.OnDemand{})}}}, h.HttpFilters...)
	h.AccessLog = []*accesslogv3.AccessLog{{Name: "f", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(&filev3.FileAccessLog{Path: w.log,
		AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
				InlineString: "%REQ(:METHOD)% %REQ(:AUTHORITY)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED%\n"}}}}}})}}}
	for _, fn := range change {
		fn(h)
	}
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed(h)}
	w.p.acked(w.p.push(ldsURL, "1", of(l)))
	w.p.asked(rdsURL, "r")
	w.p.acked(w.p.push(rdsURL, "1", of(vhdsRoutes("r", adsSource(fetch), "own.test"))))
	w.p.asked(vhdsURL)
	w.p.acked(w.p.push(vhdsURL, "1", of(vhost("r/b.test", "a", "b.test"))))
	w.x.live()
	statuses(t, w.port, "own.test 200")
	return w
}

// call sends a request in the background and returns its answer: "200 A", or the error.
func (w *demandWorld) call(method, host, body string, timeout time.Duration) <-chan string {
	got := make(chan string, 1)
	go func() {
		req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d/", w.port), strings.NewReader(body))
		if err != nil {
			got <- err.Error()
			return
		}
		req.Host = host
		r, err := (&http.Client{Transport: &oneShot, Timeout: timeout}).Do(req)
		if err != nil {
			got <- "no answer"
			return
		}
		_ = r.Body.Close()
		got <- fmt.Sprint(r.StatusCode)
	}()
	return got
}

// asks starts a request and waits until its host is asked for.
func (w *demandWorld) asks(method, host, body string) <-chan string {
	w.t.Helper()
	n := w.count(strings.ToLower(host))
	got := w.call(method, host, body, patience)
	eventually(w.t, host+" is asked for", func() bool { return w.count(strings.ToLower(host)) > n })
	return got
}

func (w *demandWorld) count(host string) (n int) {
	for _, r := range w.p.requests() {
		if r.TypeURL == vhdsURL && slices.Contains(r.Names, "r/"+host) {
			n++
		}
	}
	return n
}

func TestOnDemand_WhenAHostIsUnknown_ThenTheRequestWaitsForItsVirtualHost(t *testing.T) {
	t.Parallel()
	w := newDemandWorld(t, 0)
	c := w.asks("GET", "C.test:80", "")
	w.p.acked(w.p.push(vhdsURL, "2", of(vhost("r/c.test:80", "a", "c.test:80"))))
	w.wants(c, "200")
	d := w.asks("POST", "d.test", "hello")
	w.p.acked(w.p.push(vhdsURL, "3", of(vhost("r/d.test", "a", "d.test"))))
	w.wants(d, "200")
	// Two requests for one host, whose virtual host has another name.
	g1, g2 := w.asks("GET", "g.test", ""), w.call("GET", "g.test", "", patience)
	v := vhost("r/gs", "a", "g.test", "g2.test")
	if err := w.p.conv.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: vhdsURL, SystemVersionInfo: "4", Nonce: "alias", Resources: []*discoveryv3.Resource{{
		Name: "r/gs", Aliases: []string{"r/g.test", "r/g2.test"}, Version: "4", Resource: packed(v)}}}); err != nil {
		t.Fatal(err)
	}
	w.p.acked("alias")
	w.wants(g1, "200")
	w.wants(g2, "200")
	w.wants(w.call("GET", "g2.test", "", patience), "200")
	// A virtual host that is refused wakes nobody; the next version does.
	i := w.asks("GET", "i.test", "")
	w.p.nacked(w.p.push(vhdsURL, "5", of(vhost("r/i.test", "a", "own.test"))), "own.test")
	select {
	case s := <-i:
		t.Errorf("answer %s after a virtual host that was refused", s)
	case <-time.After(100 * time.Millisecond):
	}
	w.p.acked(w.p.push(vhdsURL, "6", of(vhost("r/i.test", "a", "i.test"))))
	w.wants(i, "200")
	w.x.wants(map[string]int64{"http.l.rds.vhds.r.config_reload": 5, "http.l.rds.vhds.r.update_success": 5, "http.l.rds.vhds.r.update_rejected": 1,
		"http.l.no_route": 0, "http.l.downstream_rq_total": 7, "http.l.downstream_rq_2xx": 7})
	eventually(t, "log lines", func() bool {
		b, _ := os.ReadFile(w.log)
		text := string(b)
		for _, l := range []string{"GET C.test:80 200 - via_upstream 0\n", "POST d.test 200 - via_upstream 5\n", "GET i.test 200 - via_upstream 0\n"} {
			if strings.Count(text, l) != 1 {
				return false
			}
		}
		return true
	})
	// All names go to the next stream.
	w.p.conv.End(nil)
	w.p = w.s.accept()
	r := w.p.await("virtual hosts again", func(r testctl.Request) bool { return r.TypeURL == vhdsURL })
	for _, n := range []string{"*", "r/c.test:80", "r/d.test", "r/g.test", "r/i.test"} {
		if !slices.Contains(r.Names, n) {
			t.Errorf("%s is not asked for again: %v", n, r.Names)
		}
	}
	if r.Initial["r/gs"] != "4" {
		t.Errorf("initial versions %v", r.Initial)
	}
	statuses(t, w.port, "c.test:80 200")
}

func TestOnDemand_WhenTheHostIsNotThere_ThenTheAnswerIs404(t *testing.T) {
	t.Parallel()
	w := newDemandWorld(t, 0)
	if oracle {
		t.Skip("SKIP: Envoy leaves the request waiting")
	}
	e := w.asks("GET", "e.test", "")
	w.p.acked(w.p.push(vhdsURL, "2", nil, "r/e.test"))
	w.wants(e, "404")
	// The answer holds for a moment; then the next request asks again.
	w.wants(w.call("GET", "e.test", "", patience), "404")
	if n := w.count("e.test"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	time.Sleep(1100 * time.Millisecond)
	e = w.asks("GET", "e.test", "")
	w.p.acked(w.p.push(vhdsURL, "3", of(vhost("r/e.test", "a", "e.test"))))
	w.wants(e, "200")
	// So does one whose virtual host goes.
	w.p.acked(w.p.push(vhdsURL, "4", nil, "r/e.test"))
	e = w.asks("GET", "e.test", "")
	// The route configuration gets along without VHDS: nobody will answer any more, and it has a route for the request.
	w.p.acked(w.p.push(rdsURL, "2", of(routes("r", "a"))))
	w.wants(e, "200")
	w.x.wants(map[string]int64{"http.l.no_route": 2})
}

func TestOnDemand_WhenNoAnswerComes_ThenTheRequestEndsInTime(t *testing.T) {
	t.Parallel()
	w := newDemandWorld(t, 400*time.Millisecond)
	if oracle {
		t.Skip("SKIP: Envoy waits for the idle timeout of the stream")
	}
	w.wants(w.asks("GET", "e.test", ""), "404")
	w.p.acked(w.p.push(vhdsURL, "2", of(vhost("r/e.test", "a", "e.test"))))
	statuses(t, w.port, "e.test 200")
}

func TestOnDemand_WhenTheClientGoes_ThenTheAnswerFindsNobody(t *testing.T) {
	t.Parallel()
	w := newDemandWorld(t, 0)
	w.wants(w.call("GET", "e.test", "", 300*time.Millisecond), "no answer")
	w.x.wants(map[string]int64{"http.l.downstream_rq_active": 0, "http.l.downstream_rq_rx_reset": 1})
	w.p.acked(w.p.push(vhdsURL, "2", of(vhost("r/e.test", "a", "e.test"))))
	statuses(t, w.port, "e.test 200")
	eventually(t, "a log line", func() bool {
		b, _ := os.ReadFile(w.log)
		return strings.Contains(string(b), "GET e.test 0 DC downstream_remote_disconnect 0\n")
	})
}

func TestOnDemand_WhenManyHostsAreAskedForAtOnce_ThenEachRequestGetsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	if oracle {
		t.Skip("SKIP: Envoy leaves requests for hosts that are not there waiting")
	}
	w := newDemandWorld(t, 0)
	const hosts, each = 200, 4 // every other host is there
	var got []<-chan string
	for i := range hosts * each {
		got = append(got, w.call("GET", fmt.Sprintf("h%d.test", i/each), "", patience))
	}
	done := make(chan struct{})
	go func() { // the control plane answers whatever is asked for
		for seen := 0; ; time.Sleep(2 * time.Millisecond) {
			select {
			case <-done:
				return
			default:
			}
			var there []res
			var gone []string
			all := w.p.requests()
			for _, r := range all[seen:] {
				for _, name := range r.Names {
					var n int
					if _, err := fmt.Sscanf(name, "r/h%d.test", &n); err != nil || r.TypeURL != vhdsURL {
						continue
					}
					if n%2 == 0 {
						there = append(there, of(vhost(name, "a", strings.TrimPrefix(name, "r/")))...)
					} else {
						gone = append(gone, name)
					}
				}
			}
			if seen = len(all); len(there)+len(gone) > 0 {
				w.p.push(vhdsURL, fmt.Sprint(seen), there, gone...)
			}
		}
	}()
	for i, c := range got {
		w.wants(c, []string{"200", "404"}[i/each%2])
	}
	close(done)
	w.x.wants(map[string]int64{"http.l.downstream_rq_active": 0, "http.l.no_route": hosts * each / 2})
}

func TestOnDemand_WhenFiltersHaveSeenTheRequestBefore_ThenTheirWorkIsDoneOnce(t *testing.T) {
	t.Parallel()
	w := newDemandWorld(t, 0, func(h *hcmv3.HttpConnectionManager) {
		first := func(name string, m proto.Message) *hcmv3.HttpFilter {
			return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(m)}}
		}
		h.HttpFilters = append([]*hcmv3.HttpFilter{first("web", &grpcwebv3.GrpcWeb{}), first("stats", &grpcstatsv3.FilterConfig{
			PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(true)}})}, h.HttpFilters...)
	})
	call := func(host, body string) <-chan string {
		got := make(chan string, 1)
		go func() {
			req, _ := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/pkg.svc/m", w.port), strings.NewReader(body))
			req.Host = host
			req.Header.Set("Content-Type", "application/grpc-web+proto")
			r, err := (&http.Client{Transport: &oneShot, Timeout: patience}).Do(req)
			if err != nil {
				got <- err.Error()
				return
			}
			_ = r.Body.Close()
			got <- fmt.Sprint(r.StatusCode, " ", r.Header.Get("Content-Type"), " ", r.Header.Get("Grpc-Status"))
		}()
		return got
	}
	const want = "200 application/grpc-web+proto 2" // the backend does not speak gRPC
	w.wants(call("own.test", ""), want)
	w.wants(call("own.test", "\x00\x00\x00\x00\x02hi"), want)
	for i, body := range []string{"", "\x00\x00\x00\x00\x02hi"} { // Envoy starts anew with the request that has no body
		host := fmt.Sprintf("h%d.test", i)
		c := call(host, body)
		eventually(t, host+" is asked for", func() bool { return w.count(host) > 0 })
		w.p.acked(w.p.push(vhdsURL, fmt.Sprint(2+i), of(vhost("r/"+host, "a", host))))
		w.wants(c, want)
	}
	// The message that waited has no cluster to count it for when it passes grpc_stats.
	w.x.wants(map[string]int64{"cluster.a.grpc.pkg.svc.m.request_message_count": 1, "http.l.downstream_rq_total": 5, "http.l.downstream_rq_completed": 5})
}
