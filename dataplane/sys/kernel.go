// SPDX-License-Identifier: Apache-2.0

package sys

// Errno is a kernel error as a value; 0 is success. It implements error for the control side.
type Errno uint16

// Error names the errno as the C library does.
func (e Errno) Error() string { return e.String() }

// Events are epoll readiness bits.
type Events uint32

// The bits, with the kernel's values.
const (
	EventIn    Events = 0x1
	EventOut   Events = 0x4
	EventErr   Events = 0x8
	EventHup   Events = 0x10
	EventRDHup Events = 0x2000
	// EventET asks for edges instead of levels.
	EventET Events = 1 << 31
	// EventExclusive wakes one of several epolls that wait for one shared listener (Unix sockets have no SO_REUSEPORT).
	EventExclusive Events = 1 << 28
)

// Event is one readiness report.
type Event struct {
	Events Events
	Token  uint64
}

// SockOpt is one integer or byte-string socket option (envoy.config.core.v3.SocketOption after compilation).
type SockOpt struct {
	Level, Name int
	Int         int
	Buf         []byte // used instead of Int when not nil
}

// ListenOpts says how a listening socket is made. Control side.
type ListenOpts struct {
	ReusePort   bool
	Transparent bool
	FreeBind    bool
	V6Only      bool      // ignored for v4; Envoy's ipv4_compat is the inverse
	Backlog     int       // 0 = the kernel's maximum
	FastOpen    int       // tcp_fast_open_queue_length, 0 = off
	Mode        uint32    // Unix path: file mode, 0 = leave
	Pre         []SockOpt // STATE_PREBIND
	Bound       []SockOpt // STATE_BOUND
	Listening   []SockOpt // STATE_LISTENING
}

// DialOpts says how an upstream socket is made. Immutable; compiled once per cluster.
type DialOpts struct {
	Bind                         Addr // source address; zero = none
	FreeBind                     bool
	Transparent                  bool
	NoDelay                      bool
	KeepIdle, KeepIntvl, KeepCnt int // seconds and count; 0 = kernel default; KeepAlive turns it on
	KeepAlive                    bool
	Mark                         int
	Opts                         []SockOpt // STATE_PREBIND
}

// BriefWait is up to which timeout EpollWait waits without telling Go's scheduler. Much less would make the kernel program a timer for every wait,
// which costs more than is saved.
const BriefWait = 20 * Millisecond

// Kernel is everything the data plane asks of the operating system. Calls never block except EpollWait with a timeout other than 0.
// Errno is a value, never an error. One instance per worker; not safe for concurrent use except Wake.
type Kernel interface {
	Now() Nanos       // monotonic
	WallNanos() int64 // Unix time in nanoseconds
	EpollCreate() (FD, Errno)
	EpollAdd(ep, fd FD, token uint64, ev Events) Errno
	EpollMod(ep, fd FD, token uint64, ev Events) Errno
	EpollDel(ep, fd FD) Errno
	EpollWait(ep FD, out []Event, timeout Nanos) (int, Errno) // timeout < 0: for ever; 0: never blocks
	Accept(fd FD) (FD, Addr, Errno)
	Connect(a Addr, o *DialOpts) (FD, Errno) // EINPROGRESS is reported as success; ConnectResult tells later
	ConnectResult(fd FD) Errno               // SO_ERROR once writable
	Recv(fd FD, b []byte) (int, Errno)       // (0, 0) is end of stream
	Send(fd FD, b []byte) (int, Errno)       // MSG_NOSIGNAL
	Writev(fd FD, v [][]byte) (int, Errno)   // at most 16 slices are looked at
	Send2(fd FD, a, b []byte) (int, Errno)   // Writev of two, without a slice of slices
	Splice(from, to FD, max int) (int, Errno)
	Pipe(size int) (r, w FD, e Errno)
	ReadPipe(fd FD, b []byte) (int, Errno) // takes bytes out of a pipe of Pipe
	Shutdown(fd FD, write bool) Errno      // write: SHUT_WR, else SHUT_RD
	Reset(fd FD) Errno                     // SO_LINGER 0 and close: the peer sees RST
	Close(fd FD) Errno
	LocalAddr(fd FD) (Addr, Errno)
	PeerAddr(fd FD) (Addr, Errno)             // ENOTCONN while a connect is pending
	OriginalDst(fd FD, v6 bool) (Addr, Errno) // SO_ORIGINAL_DST
	SetOpt(fd FD, o SockOpt) Errno
	WakeFD() (FD, Errno) // eventfd
	Wake(fd FD) Errno    // safe from any thread
	DrainWake(fd FD)
}
