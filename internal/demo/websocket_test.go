// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// eventually waits for what other goroutines do.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never happened: " + what)
		}
	}
}

func TestSockets_WhenTheOtherSideEndsOne_ThenItCountsAsCutAndTheRestGoOn(t *testing.T) {
	conns := make(chan net.Conn, 3)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateHijacked {
			conns <- c
		}
	}
	srv.Start()
	defer srv.Close()
	s := &sockets{done: make(chan struct{}), close: func() {}}
	for i := range 3 {
		c, err := upgrade(srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s.wg.Go(func() { s.talk(i, c) })
		s.clients = append(s.clients, c)
	}
	eventually(t, "messages come back", func() bool { return s.echoed.Load() > 10 })
	if n := s.cut.Load(); n != 0 {
		t.Errorf("%d cut while all was well", n)
	}
	_ = (<-conns).Close()
	eventually(t, "the cut is seen", func() bool { return s.cut.Load() == 1 })
	before := s.echoed.Load()
	eventually(t, "the others go on", func() bool { return s.echoed.Load() > before+10 })
	s.stop()
	if _, _, cut, first := s.counts(); cut != 1 || first == "" {
		t.Errorf("%d cut, %q: closing them ourselves is none", cut, first)
	}
}

func TestConnections_WhenTheOtherSideEndsOne_ThenItCountsAsCut(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	k := &connections{}
	tr := &http.Transport{DialContext: k.dial}
	get := func() {
		resp, err := (&http.Client{Transport: tr}).Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	get()
	tr.CloseIdleConnections() // by this side
	get()
	srv.CloseClientConnections()
	eventually(t, "the cut is seen", func() bool { return k.cut.Load() == 1 })
	get()
	if n := k.opened.Load(); n != 3 {
		t.Errorf("%d opened", n)
	}
}
