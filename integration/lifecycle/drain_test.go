// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestSIGTERM_WhenARequestIsInFlight_ThenItFinishesAndSaysClose(t *testing.T) {
	for _, how := range []string{"SIGTERM", "SIGINT", "quitquitquit"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := newBackend(t, true)
			p := start(t, simple(b))
			c := p.dial("l")
			c.send(request)
			<-b.seen
			switch how {
			case "SIGTERM":
				p.Signal(syscall.SIGTERM)
			case "SIGINT":
				p.Signal(syscall.SIGINT)
			default:
				p.Post("/quitquitquit")
			}
			p.Until("the listener is closed", func() bool { return p.refused("l") })
			time.Sleep(700 * time.Millisecond) // longer than idle connections get
			if p.Ended() {
				t.Fatal("ended with a request in flight")
			}
			b.hold <- struct{}{}
			c.answered("hello", true)
			c.eof()
			c.c.Close()
			p.Exits(0, 0, 2*time.Second)
		})
	}
}

func TestSIGTERM_WhenConnectionsAreIdle_ThenTheyAreClosedAndTheProcessEnds(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	p := start(t, simple(b))
	quiet, late, fresh := p.dial("l"), p.dial("l"), p.dial("l")
	quiet.want("hello", false)
	late.want("hello", false)
	p.Until("three connections", func() bool {
		return strings.Contains(p.Get("/stats?filter=^listener.*downstream_cx_active"), ": 3\n")
	})
	p.Signal(syscall.SIGTERM)
	p.Until("the listener is closed", func() bool { return p.refused("l") })
	late.want("hello", true) // a request that comes in time is served
	fresh.want("hello", true)
	quiet.eof()
	late.eof()
	for _, c := range []*client{quiet, late, fresh} {
		c.c.Close()
	}
	p.Exits(0, 0, 2*time.Second)
}

func TestSIGTERM_WhenNothingIsOpen_ThenTheProcessEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)))
	p.Signal(syscall.SIGTERM)
	p.Exits(0, 0, time.Second)
}

func TestSIGTERM_WhenATunnelStaysOpen_ThenItWorksUntilTheDeadline(t *testing.T) {
	for _, kind := range []string{"tcp", "websocket"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			echo := newEcho(t, kind == "websocket")
			l := tcpListener("l", "b", "")
			if kind == "websocket" {
				l = httpListener("l", "b", "", "upgrade_configs: [{upgrade_type: websocket}],")
			}
			p := start(t, static([]string{l}, []string{cluster("b", echo)}), "--termination-drain-s", "2")
			c := p.dial("l")
			if kind == "websocket" {
				c.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
				if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 101 {
					t.Fatalf("%v %v", resp, err)
				}
			}
			echoes := func(s string) {
				t.Helper()
				c.send(s)
				got := make([]byte, len(s))
				if _, err := io.ReadFull(c.r, got); err != nil || string(got) != s {
					t.Fatalf("echo %q, %v", got, err)
				}
			}
			echoes("before")
			p.Signal(syscall.SIGTERM)
			p.Until("the listener is closed", func() bool { return p.refused("l") })
			time.Sleep(time.Second)
			echoes("during")
			p.Exits(0, 500*time.Millisecond, 3*time.Second)
		})
	}
}

func TestSIGTERM_WhenASecondSignalComes_ThenTheProcessEndsNow(t *testing.T) {
	t.Parallel()
	b := newBackend(t, true)
	p := start(t, simple(b))
	c := p.dial("l")
	c.send(request)
	<-b.seen
	p.Signal(syscall.SIGTERM)
	p.Until("the listener is closed", func() bool { return p.refused("l") })
	time.Sleep(200 * time.Millisecond)
	if p.Ended() {
		t.Fatal("ended with a request in flight")
	}
	p.Signal(syscall.SIGTERM)
	p.Exits(0, 0, time.Second)
	if !strings.Contains(p.Log.String(), "second signal") {
		t.Error("the second signal was not told")
	}
}

// The connections complete their handshake and send their request while the process is stopped: they wait in the kernel's accept queue when the
// signal arrives.
func TestSIGTERM_WhenConnectionsWaitInTheAcceptQueue_ThenAllAreServed(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)))
	p.Signal(syscall.SIGSTOP)
	var cs []*client
	for range 100 {
		c := p.dial("l")
		c.send(request)
		cs = append(cs, c)
	}
	p.Signal(syscall.SIGTERM)
	p.Signal(syscall.SIGCONT)
	for i, c := range cs {
		// Those that a worker takes before the program has seen the signal are told to close later.
		if got, _, err := c.answer(); err != nil || got != "hello" {
			t.Fatalf("connection %d: answer %q, error %v", i, got, err)
		}
		c.c.Close()
	}
	p.Exits(0, 0, 3*time.Second)
}

func TestSIGTERM_WhenLoadRuns_ThenNoRequestFails(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)), "--concurrency", "2")
	var served, failed atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() { hammer(t, p.Addr["l"], i%2 == 0, &served, &failed) })
	}
	p.Until("load", func() bool { return served.Load() > 500 })
	p.Signal(syscall.SIGTERM)
	wg.Wait()
	p.Exits(0, 0, 3*time.Second)
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), served.Load()+failed.Load())
	}
}

// hammer sends requests until no connection can be made any more. Every request on a connection that was made must be answered; a connection that
// announced its end, or was idle for long, may close.
func hammer(t *testing.T, addr string, keep bool, served, failed *atomic.Int64) {
	for {
		c, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		cl := newClient(t, c)
		for {
			_, err := io.WriteString(c, request)
			closes := false
			if err == nil {
				_, closes, err = cl.answer()
			}
			if err != nil {
				failed.Add(1)
				t.Log(err)
				break
			}
			served.Add(1)
			if closes || !keep {
				break
			}
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
		c.Close()
	}
}

func TestDrainListeners_WhenPlain_ThenListenersCloseAndConnectionsLive(t *testing.T) {
	t.Parallel()
	b := newBackend(t, true)
	p := start(t, simple(b), "--drain-strategy", "immediate", "--drain-time-s", "1")
	c := p.dial("l")
	c.send(request)
	<-b.seen
	p.Post("/drain_listeners")
	if !p.refused("l") {
		t.Error("the listener still accepts")
	}
	if got := p.get("/ready"); got != "LIVE\n" {
		t.Errorf("/ready %q", got)
	}
	b.hold <- struct{}{}
	c.answered("hello", true)
	if got := p.get("/listeners"); got != "l::"+p.Addr["l"]+"\n" && got == "" {
		t.Errorf("/listeners %q", got)
	}
	if got := p.get("/stats?filter=listener_manager.listener_stopped"); got != "listener_manager.listener_stopped: 1\n" {
		t.Error(got)
	}
	time.Sleep(1200 * time.Millisecond)
	if p.Ended() {
		t.Error("drain_listeners ended the process")
	}
}

func TestDrainListeners_WhenGraceful_ThenSocketsCloseAtTheEndOfTheDrainTime(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)), "--drain-strategy", "immediate", "--drain-time-s", "1")
	c := p.dial("l")
	c.want("hello", false)
	from := time.Now()
	p.Post("/drain_listeners?graceful")
	p.Post("/drain_listeners?graceful") // changes nothing
	c.want("hello", true)
	p.dial("l").want("hello", true)
	p.Until("the listener is closed", func() bool { return p.refused("l") })
	if took := time.Since(from); took < 900*time.Millisecond || took > 3*time.Second {
		t.Errorf("closed after %v", took)
	}
}

func TestDrainListeners_WhenSkipExit_ThenListenersStayOpen(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)), "--drain-strategy", "immediate", "--drain-time-s", "1")
	p.Post("/drain_listeners?graceful&skip_exit")
	time.Sleep(1300 * time.Millisecond)
	p.dial("l").want("hello", true)
}

func TestDrainListeners_WhenInboundOnly_ThenOthersGoOn(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	p := start(t, static([]string{httpListener("in", "b", "traffic_direction: INBOUND,", ""), httpListener("out", "b", "traffic_direction: OUTBOUND,", ""),
		httpListener("none", "b", "", "")}, []string{cluster("b", b.addr)}), "--drain-strategy", "immediate", "--drain-time-s", "1")
	in, out, none := p.dial("in"), p.dial("out"), p.dial("none")
	p.Post("/drain_listeners?inboundonly&graceful")
	in.want("hello", true)
	out.want("hello", false)
	none.want("hello", false)
	p.Until("the inbound listener is closed", func() bool { return p.refused("in") })
	if p.refused("out") || p.refused("none") {
		t.Error("another listener closed")
	}
	out.want("hello", false)
}

func TestDrainListeners_WhenGradual_ThenClosingGrowsLikelier(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)), "--drain-time-s", "3")
	count := func() (closed int) {
		for range 100 {
			c := p.dial("l")
			c.send(request)
			_, cl, err := c.answer()
			if err != nil {
				t.Fatal(err)
			}
			if cl {
				closed++
			}
			c.c.Close()
		}
		return closed
	}
	p.Post("/drain_listeners?graceful&skip_exit")
	early := count()
	time.Sleep(2 * time.Second)
	late := count()
	time.Sleep(1200 * time.Millisecond)
	if last := count(); early > 40 || late <= early || last != 100 {
		t.Errorf("closed %d early, %d late, %d after the end", early, late, last)
	}
}

func TestHealthcheck_WhenFailed_ThenEveryResponseClosesUntilOK(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	p := start(t, static([]string{httpListener("l", "b", "", ""), httpListener("m", "b", "drain_type: MODIFY_ONLY,", "")},
		[]string{cluster("b", b.addr)}), "--concurrency", "3")
	p.Post("/healthcheck/fail")
	if got := p.get("/ready"); got != "DRAINING\n" {
		t.Errorf("/ready %q", got)
	}
	time.Sleep(20 * time.Millisecond) // the workers' next turn
	for range 12 {                    // reaches every worker
		p.dial("l").want("hello", true)
	}
	p.dial("m").want("hello", false)
	p.Post("/healthcheck/ok")
	time.Sleep(20 * time.Millisecond)
	for range 12 {
		p.dial("l").want("hello", false)
	}
	if got := p.get("/ready"); got != "LIVE\n" {
		t.Errorf("/ready %q", got)
	}
}
