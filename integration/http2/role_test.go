// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	xh2 "golang.org/x/net/http2"
)

// The attackers and the others are processes of their own: in one process with an attacker, a client that does no harm would wait for Go's scheduler more
// than for the proxy. The others go before everybody else on the machine's cores if the tests may arrange that, so that their latencies are those of the proxy.

// roleEnv says that the test binary is to play a role instead of running tests.
const roleEnv = "HTTP2_TEST_ROLE"

// roles are what a process of the test binary can be; it reads its orders as lines of JSON and answers each with a line of JSON.
var roles = map[string]func(in *json.Decoder, out *json.Encoder) error{"attackers": playAttackers, "others": playOthers}

// play plays the role of the environment; false means that there is none.
func play() (code int, played bool) {
	role := roles[os.Getenv(roleEnv)]
	if role == nil {
		return 0, false
	}
	if err := role(json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// actor is a process that plays a role.
type actor struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

// cast starts a process for a role, at the given niceness where that is allowed. It ends with the test.
func cast(t *testing.T, role, nice string) *actor {
	t.Helper()
	cmd := exec.Command("nice", "-n", nice, os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	})
	return &actor{t: t, in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out))}
}

// tell gives an order.
func (a *actor) tell(order any) {
	a.t.Helper()
	if err := a.in.Encode(order); err != nil {
		a.t.Fatal(err)
	}
}

// hear waits for the next answer.
func (a *actor) hear(answer any) {
	a.t.Helper()
	if err := a.out.Decode(answer); err != nil {
		a.t.Fatal(err)
	}
}

// raid is an order to attackers, and toll what came of it.
type (
	raid struct {
		Attack, Addr string
		For          time.Duration
	}
	toll struct {
		Connections int
		CutOff      int
		Ends        []string // how connections were cut off
		Err         string
	}
)

// playAttackers attacks. An order without an address comes first if it is the upstream that attacks: the answer is where it listens.
func playAttackers(in *json.Decoder, out *json.Encoder) error {
	var ln net.Listener
	for {
		var r raid
		if err := in.Decode(&r); err != nil {
			return err
		}
		i := slices.IndexFunc(attacks, func(k attack) bool { return k.name == r.Attack })
		if i < 0 {
			return fmt.Errorf("no attack %q", r.Attack)
		}
		var answer any
		switch k := &attacks[i]; {
		case r.Addr == "":
			var err error
			if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return err
			}
			answer = ln.Addr().String()
		case k.evil:
			answer = k.wait(ln, r.Addr, r.For)
		default:
			answer = k.raid(r.Addr, r.For)
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// add counts a connection that is over. Others lock.
func (sum *toll) add(k *attack, a *attacker) {
	sum.Connections++
	if end := a.end(); !a.stop.Load() && !k.leaves {
		if sum.CutOff++; !slices.Contains(sum.Ends, end) {
			sum.Ends = append(sum.Ends, end)
		}
	}
}

// last waits for d, and for the first connection to be cut off if that must be.
func (k *attack) last(d time.Duration, cut func() int) {
	time.Sleep(d)
	for end := time.Now().Add(patience); !k.lawful && !envoy && cut() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

// raid attacks addr for d, with all attackers.
func (k *attack) raid(addr string, d time.Duration) (sum toll) {
	var stop atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range attackers {
		wg.Go(func() {
			for !stop.Load() {
				a, err := k.dial(addr, &stop)
				if err != nil {
					mu.Lock()
					sum.Err = err.Error()
					mu.Unlock()
					return
				}
				k.run(a)
				mu.Lock()
				sum.add(k, a)
				mu.Unlock()
				a.c.Close()
				if k.once {
					return
				}
			}
		})
	}
	k.last(d, func() int {
		mu.Lock()
		defer mu.Unlock()
		return sum.CutOff
	})
	stop.Store(true)
	wg.Wait()
	slices.Sort(sum.Ends)
	return sum
}

// wait attacks for d whoever connects to ln, while clients send requests to addr that come there.
func (k *attack) wait(ln net.Listener, addr string, d time.Duration) (sum toll) {
	var stop atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				a := newAttacker(c, &stop)
				_ = c.SetReadDeadline(time.Now().Add(d))
				if _, err := io.ReadFull(c, make([]byte, len(xh2.ClientPreface))); err != nil {
					return
				}
				a.greet(k, c)
				k.run(a)
				mu.Lock()
				sum.add(k, a)
				mu.Unlock()
			})
		}
	})
	for range attackers {
		wg.Go(func() {
			cl := &http.Client{Transport: &http.Transport{}, Timeout: 100 * time.Millisecond}
			defer cl.CloseIdleConnections()
			for !stop.Load() {
				if resp, err := cl.Get("http://" + addr + "/"); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		})
	}
	k.last(d, func() int {
		mu.Lock()
		defer mu.Unlock()
		return sum.CutOff
	})
	stop.Store(true)
	ln.Close()
	wg.Wait()
	slices.Sort(sum.Ends)
	return sum
}

// errand is an order to others, and comfort how they fared.
type (
	errand struct {
		Addr string
		For  time.Duration
	}
	comfort struct {
		Requests, Failed int
		Err              string
		P50, P99, Max    time.Duration
	}
)

// playOthers tells the address of the others' backend, then sends requests.
func playOthers(in *json.Decoder, out *json.Encoder) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answering(ln)
	if err := out.Encode(ln.Addr().String()); err != nil {
		return err
	}
	for {
		var e errand
		if err := in.Decode(&e); err != nil {
			return err
		}
		o := &others{addr: e.Addr}
		o.during(e.For)
		if err := out.Encode(comfort{Requests: len(o.took), Failed: o.failed, Err: o.err, P50: o.at(50), P99: o.at(99), Max: o.at(100)}); err != nil {
			return err
		}
	}
}

// others are clients that do no harm, one of each version.
type others struct {
	addr   string
	mu     sync.Mutex
	took   []time.Duration
	failed int
	err    string
}

// during sends requests for d.
func (o *others) during(d time.Duration) {
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for _, http2 := range []bool{false, true} {
		wg.Go(func() {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			defer tr.CloseIdleConnections()
			tr.Protocols.SetHTTP1(!http2)
			tr.Protocols.SetUnencryptedHTTP2(http2)
			cl := &http.Client{Transport: tr, Timeout: patience}
			for time.Now().Before(end) {
				from := time.Now()
				err := ask(cl, "http://"+o.addr+"/1000")
				o.mu.Lock()
				if o.took = append(o.took, time.Since(from)); err != nil {
					o.failed++
					o.err = err.Error()
				}
				o.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	slices.Sort(o.took)
}

func ask(cl *http.Client, url string) error {
	resp, err := cl.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || len(b) != 1000 {
		return fmt.Errorf("status %d, %d bytes, %v", resp.StatusCode, len(b), err)
	}
	return nil
}

// at is a percentile of the latencies.
func (o *others) at(percent int) time.Duration {
	if len(o.took) == 0 {
		return 0
	}
	return o.took[min(len(o.took)*percent/100, len(o.took)-1)].Round(10 * time.Microsecond)
}
