// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// poller is a level-triggered epoll set; events carry an index of the caller's.
type poller struct {
	fd     int
	events [256]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poller{fd: fd}, err
}

func (p *poller) add(fd int, index int32, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: index})
}

func (p *poller) mod(fd int, index int32, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: index})
}

// wait returns the ready events; timeout is in milliseconds, -1 for ever.
func (p *poller) wait(timeout int) ([]unix.EpollEvent, error) {
	n, err := rawEpollWait(p.fd, p.events[:], timeout)
	if err == unix.EINTR {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p.events[:n], nil
}

func sockaddr(addr string) (*unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().Is4() {
		return nil, fmt.Errorf("address %q: want IPv4 and port", addr)
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

func listen(addr string) (int, error) {
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, sa); err != nil {
		return -1, fmt.Errorf("bind %s: %w", addr, err)
	}
	return fd, unix.Listen(fd, 4096)
}

// dial connects and returns a blocking socket.
func dial(sa *unix.SockaddrInet4) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// period is the window of a measuring client: it opens after the warm-up, says so on standard output, and closes after its time or count.
type period struct {
	o             options
	start, opened time.Time
	measuring     bool
}

func newPeriod(o options) *period { return &period{o: o, start: time.Now()} }

// turn opens the window, which sets res and hist to zero, and closes it, which fills res and prints it: then done is true.
func (p *period) turn(now time.Time, res *Result, hist *histogram) (done bool, err error) {
	if !p.measuring && now.Sub(p.start) >= p.o.warmup {
		p.measuring, p.opened, *res = true, now, Result{}
		hist.reset()
		fmt.Println("start")
	}
	if !p.measuring || p.o.count == 0 && now.Sub(p.opened) < p.o.duration || p.o.count > 0 && res.Requests < p.o.count {
		return false, nil
	}
	res.Seconds = now.Sub(p.opened).Seconds()
	res.P50, res.P99, res.Max = hist.quantile(0.5), hist.quantile(0.99), float64(hist.max)
	return true, printJSON(*res)
}

// histogram counts latencies exactly to a microsecond up to one second; longer ones are kept as they are (bounded by room).
type histogram struct {
	us   []uint32
	over []int64
	max  int64
	n    int64
}

func newHistogram() *histogram {
	return &histogram{us: make([]uint32, 1_000_000), over: make([]int64, 0, 1<<16)}
}

func (h *histogram) add(d time.Duration) {
	us := int64(d / time.Microsecond)
	h.n++
	h.max = max(h.max, us)
	if us < int64(len(h.us)) {
		h.us[max(us, 0)]++
	} else if len(h.over) < cap(h.over) {
		h.over = append(h.over, us)
	}
}

func (h *histogram) reset() {
	clear(h.us)
	h.over, h.max, h.n = h.over[:0], 0, 0
}

// quantile returns the q-quantile in microseconds.
func (h *histogram) quantile(q float64) float64 {
	if h.n == 0 {
		return 0
	}
	rank := int64(q * float64(h.n-1))
	for us, c := range h.us {
		if rank -= int64(c); rank < 0 {
			return float64(us)
		}
	}
	sort.Slice(h.over, func(i, j int) bool { return h.over[i] < h.over[j] })
	if int(rank) < len(h.over) {
		return float64(h.over[rank])
	}
	return float64(h.max)
}
