// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// onceVersions is how many versions the self-check pushes: each moves one resource type, round robin, so every type takes effect several times.
const onceVersions = 24

// onceDwell is how long each version stays under load.
const onceDwell = 100 * time.Millisecond

// effectTimeout is how long one version may take to show in answers.
const effectTimeout = 5 * time.Second

// once is the self-check: under load, push versions that change routes, endpoints, clusters and listeners, and see each one in the answers.
func (s *stage) once() int {
	base := fmt.Sprintf("http://127.0.0.1:%d", s.world.port)
	began := time.Now()
	if err := s.answers(base); err != nil {
		fmt.Fprintf(s.out, "FAIL: %v\n", err)
		return 1
	}
	g := newGenerator(base, 8)
	seen := map[string]int{}
	var slowest time.Duration
	for i := range onceVersions {
		kind, check, err := s.nextVersion(i)
		if err != nil {
			g.stop()
			fmt.Fprintf(s.out, "FAIL: %v\n", err)
			return 1
		}
		t := time.Now()
		if err := s.await(base, check); err != nil {
			g.stop()
			fmt.Fprintf(s.out, "FAIL: version %d (%s) had no effect within %s: %v\n%s\n", s.version, kind, effectTimeout, err, s.side.tail())
			return 1
		}
		slowest = max(slowest, time.Since(t))
		time.Sleep(onceDwell) // traffic under this version, before the next
		seen[kind]++
	}
	g.stop()
	total, failed, first := g.counts()
	nacks := 0
	for _, r := range s.ctl.Requests() {
		if r.Nacked {
			nacks++
		}
	}
	ok := failed == 0 && nacks == 0 && total > 0 && len(seen) == 4
	fmt.Fprintf(s.out, "versions applied   %d (LDS %d, RDS %d, CDS %d, EDS %d), slowest effect %s\nrequests           %d, failed %d\nNACKs              %d\nlatency            p50 %s, p99 %s\nelapsed            %s\n",
		onceVersions, seen["LDS"], seen["RDS"], seen["CDS"], seen["EDS"], slowest.Round(time.Millisecond), total, failed, nacks,
		g.quantile(0.5), g.quantile(0.99), time.Since(began).Round(time.Millisecond))
	if !ok {
		fmt.Fprintf(s.out, "FAIL %s\n", first)
		return 1
	}
	fmt.Fprintln(s.out, "OK")
	return 0
}

// answers checks the three kinds of answer once.
func (s *stage) answers(base string) error {
	for path, want := range map[string]string{"/": " answers GET /", "/canary": "canary answers GET /canary", "/hello": "hello from the sidecar itself"} {
		_, body, err := fetch(base + path)
		if err != nil {
			return err
		}
		if !strings.Contains(body, want) {
			return fmt.Errorf("GET %s: got %q, want something with %q", path, body, want)
		}
	}
	return nil
}

// nextVersion pushes a change of one resource type and returns how to see that it took effect.
func (s *stage) nextVersion(i int) (kind string, check func(http.Header) bool, err error) {
	err = s.change(func(w *world) {
		switch i % 4 {
		case 0:
			kind = "RDS"
			w.routes++
			w.weight = (w.weight + 20) % 100
			want := fmt.Sprint(w.routes)
			check = func(h http.Header) bool { return h.Get("x-demo-routes") == want }
		case 1:
			kind = "EDS"
			keep := s.back[i/4%2]
			w.weight = 0
			w.routes++
			w.backends = []int{keep.port}
			routes := fmt.Sprint(w.routes)
			streak := 0
			check = func(h http.Header) bool { // the other endpoint has gone: it never answers again
				if h.Get("x-demo-routes") == routes && h.Get("x-demo-backend") == keep.name {
					streak++
				} else {
					streak = 0
				}
				return streak >= 6
			}
		case 2:
			kind = "CDS"
			w.clusters++
			want := w.stable()
			check = func(h http.Header) bool { return h.Get("x-demo-cluster") == want }
		default:
			kind = "LDS"
			w.listener++
			w.backends = []int{s.back[0].port, s.back[1].port}
			want := fmt.Sprintf("sidecar-demo/%d", w.listener)
			check = func(h http.Header) bool { return h.Get("server") == want }
		}
	})
	return kind, check, err
}

// await asks until an answer shows the effect.
func (s *stage) await(base string, check func(http.Header) bool) error {
	end := time.Now().Add(effectTimeout)
	var last http.Header
	for time.Now().Before(end) {
		h, _, err := fetch(base + "/check")
		if err != nil {
			return err
		}
		if check(h) {
			return nil
		}
		last = h
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("last answer: %v", last)
}

// fetch makes one request on a connection of its own, so that it always meets the newest listener.
func fetch(url string) (http.Header, string, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, "", err
	}
	if r.StatusCode != 200 {
		return nil, "", fmt.Errorf("GET %s: status %d: %s", url, r.StatusCode, b)
	}
	return r.Header, string(b), nil
}
