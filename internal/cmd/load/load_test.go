// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

func TestCheckHead_WhenResponseIsNotAPlain200_ThenRefused(t *testing.T) {
	for _, tt := range []struct {
		head   string
		length int
		ok     bool
	}{
		{"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n", 13, true},
		{"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length:7\r\n", 7, true},
		{"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n", 0, false},
		{"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n", 0, false},
		{"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n", 0, false},
		{"HTTP/1.1 200 OK\r\ncontent-length: x\r\n", 0, false},
	} {
		if length, ok := checkHead([]byte(tt.head)); ok != tt.ok || ok && length != tt.length {
			t.Errorf("checkHead(%q) = %d, %v", tt.head, length, ok)
		}
	}
}

func TestHTTPBackend_WhenRequestsArriveInPieces_ThenOneAnswerPerHead(t *testing.T) {
	const two = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
	for cut := 0; cut <= len(two); cut++ {
		h, p, got := newHTTPBackend(3), &peer{}, 0
		for _, part := range []string{two[:cut], two[cut:]} {
			out, keep := h.data(p, []byte(part))
			if !keep {
				t.Fatalf("cut %d: connection given up", cut)
			}
			got += len(out)
		}
		if want := 2 * len(h.response); got != want {
			t.Errorf("cut %d: %d bytes answered, want %d", cut, got, want)
		}
	}
}

func TestHistogram_WhenQuantilesAreAsked_ThenExact(t *testing.T) {
	h := newHistogram()
	for i := 1; i <= 100; i++ {
		h.add(time.Duration(i) * time.Microsecond)
	}
	h.add(3 * time.Second)
	if p50, p99, top := h.quantile(0.5), h.quantile(0.99), h.quantile(1); p50 != 51 || p99 != 100 || top != 3e6 {
		t.Errorf("quantiles %v %v %v", p50, p99, top)
	}
}
