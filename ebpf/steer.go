// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
)

const (
	// defaultStallNanos is longer than a turn of a healthy event loop and than
	// the time slices for which a busy machine takes its CPU away, and shorter
	// than what a client notices. Pending connections tell of a stall earlier.
	defaultStallNanos = int64(20e6)
	// defaultBacklog is a generous accept queue.
	defaultBacklog = 1024
)

// Options configure a Steerer. The zero value is a good choice.
type Options struct {
	// StallNanos: a worker that is busy for longer gets no new connections.
	// 0 means 20 ms; a negative value never excludes a worker.
	StallNanos int64
	// Backlog bounds how many pending connections of one worker count: the
	// length of an accept queue. 0 means 1024.
	Backlog uint32
	// Force starts the ladder at this mode; better ones are not tried. If it
	// fails, the ladder goes on down from there.
	Force *Mode
	// Logf gets one line per degradation; nil discards them. It must not call
	// the Steerer.
	Logf func(format string, args ...any)
}

// Steerer steers the connections of any number of listeners to a fixed number
// of workers. Methods other than Slot take a lock and are for the control side;
// they are safe for concurrent use.
type Steerer struct {
	// Immutable
	slots  []Slot
	ladder []Rung
	mode   Mode
	cpus   []int
	logf   func(format string, args ...any)

	// Control
	mu        sync.Mutex
	kernel    *kernel // nil without eBPF, and after Close
	listeners map[string]*listener
}

// listener is what is attached to one key.
type listener struct {
	report ListenerReport
	inst   *instance // nil without eBPF
}

// ListenerReport says how one listener is steered.
type ListenerReport struct {
	Key  string
	Mode Mode
	// Reason says why the mode is below the Steerer's, with the kernel's
	// errors; empty otherwise.
	Reason string
}

// New finds the best mode that works here for the given number of workers. It
// never fails: at the bottom of the ladder stands ModePlain. A number of
// workers below 1 counts as 1. Call it before any thread is pinned to a CPU: the
// CPUs that the calling thread may use are those that connections are steered by
// in ModeIncomingCPU and ModeClassic.
func New(workers int, opts Options) *Steerer {
	workers = max(workers, 1)
	switch {
	case opts.StallNanos == 0:
		opts.StallNanos = defaultStallNanos
	case opts.StallNanos < 0:
		opts.StallNanos = math.MaxInt64
	}
	if opts.Backlog == 0 {
		opts.Backlog = defaultBacklog
	}
	s := &Steerer{logf: opts.Logf, cpus: cpus(), listeners: make(map[string]*listener)}
	if s.logf == nil {
		s.logf = func(string, ...any) {}
	}
	first := ModeEBPF
	if opts.Force != nil {
		first = min(*opts.Force, ModePlain)
	}
	s.climb(first, workers, opts)
	if s.kernel != nil {
		s.slots = s.kernel.slots
	} else {
		s.slots = make([]Slot, workers)
	}
	if s.mode != first {
		s.logf("steering: mode %s: %s", s.mode, s.Reason())
	}
	return s
}

// climb tries the modes from first on down and fills the ladder's report.
func (s *Steerer) climb(first Mode, workers int, opts Options) {
	release := kernelRelease()
	found := false
	for mode := ModeEBPF; mode <= ModePlain; mode++ {
		rung := Rung{Mode: mode}
		var err error
		switch {
		case mode < first:
			rung.Reason = fmt.Sprintf("not tried: %s is forced", first)
		case found:
			rung.Reason = fmt.Sprintf("not tried: %s works", s.mode)
		case mode.eBPF():
			s.kernel, err = openKernel(mode, workers, opts)
		default:
			err = probeSockets(mode, release)
		}
		if err != nil {
			rung.Reason = explain(err)
		}
		if rung.Reason == "" {
			rung.OK, s.mode, found = true, mode, true
		}
		s.ladder = append(s.ladder, rung)
	}
}

// Mode returns the best mode that works; a single listener may be below it.
func (s *Steerer) Mode() Mode { return s.mode }

// Reason says why the mode is not a better one, with the kernel's errors; empty
// in the best mode.
func (s *Steerer) Reason() string {
	var reasons []string
	for i, rung := range s.ladder[:s.mode] {
		reason := rung.Reason
		if i > 0 && reason == s.ladder[i-1].Reason {
			reason = "likewise"
		}
		reasons = append(reasons, fmt.Sprintf("%s: %s", rung.Mode, reason))
	}
	return strings.Join(reasons, "; ")
}

// Ladder reports on every mode, best first. The caller owns the slice.
func (s *Steerer) Ladder() []Rung { return slices.Clone(s.ladder) }

// Workers returns the number of slots.
func (s *Steerer) Workers() int { return len(s.slots) }

// Slot returns the slot of a worker, 0 to Workers()-1. It stays valid for the
// life of the process, also after Close.
func (s *Steerer) Slot(worker int) *Slot { return &s.slots[worker] }

// SetDraining marks a worker that shall get no new connections, as long as
// there are others. It has an effect in the eBPF modes only.
func (s *Steerer) SetDraining(worker int, draining bool) { s.slots[worker].setDraining(draining) }

// Attach begins to steer one listener. key names it for Detach and reports;
// fds[i] is worker i's listening socket: TCP (not MPTCP), SO_REUSEPORT, all
// bound to one address and already listening, since a socket that is not cannot
// be steered to. A negative fd says that the worker has no socket there. In
// ModeClassic the sockets must have begun to listen in the order of fds.
//
// The sockets remain the caller's. Closing one removes it; in ModeEBPF its
// pending connections then move to the other workers.
//
// Attach goes down the ladder from the Steerer's mode until a rung works, and
// returns that rung's mode; sockets that no rung can steer (Unix, MPTCP, not
// listening) get ModePlain. An error beside a mode reports why the listener is
// below the Steerer's mode, or that the arguments were wrong and nothing was
// attached; the sockets accept connections in any case.
func (s *Steerer) Attach(key string, fds []int) (Mode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.listeners[key] != nil:
		return ModePlain, fmt.Errorf("listener %q: already attached", key)
	case len(fds) > len(s.slots):
		return ModePlain, fmt.Errorf("listener %q: %d sockets for %d workers", key, len(fds), len(s.slots))
	case !slices.ContainsFunc(fds, func(fd int) bool { return fd >= 0 }):
		return ModePlain, fmt.Errorf("listener %q: no socket", key)
	}
	l := &listener{report: ListenerReport{Key: key}}
	var failed []error
	mode := s.mode
	if err := checkSockets(fds); err != nil {
		failed, mode = append(failed, err), ModePlain
	}
	for ; ; mode++ {
		if err := s.attachRung(l, mode, fds); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", mode, err))
			continue
		}
		l.report.Mode = mode
		break
	}
	s.listeners[key] = l
	if err := errors.Join(failed...); err != nil {
		l.report.Reason = strings.ReplaceAll(err.Error(), "\n", "; ")
		s.logf("steering: listener %q: mode %s: %s", key, l.report.Mode, l.report.Reason)
		return l.report.Mode, fmt.Errorf("listener %q: %s", key, l.report.Reason)
	}
	return l.report.Mode, nil
}

// attachRung tries one mode. ModePlain always succeeds.
func (s *Steerer) attachRung(l *listener, mode Mode, fds []int) error {
	switch mode {
	case ModeEBPF, ModeEBPFSelect:
		if s.kernel == nil || s.kernel.mode != mode {
			return errors.New("not open")
		}
		inst, err := s.kernel.acquire()
		if err != nil {
			return err
		}
		if err := inst.attach(fds); err != nil {
			s.kernel.release(inst, true)
			return err
		}
		l.inst = inst
		return nil
	case ModeIncomingCPU:
		return attachIncomingCPU(fds, s.cpus)
	case ModeClassic:
		return attachClassic(fds, s.cpus)
	default:
		attachPlain(fds)
		return nil
	}
}

// Detach ends the steering of a listener; an unknown key is ignored. Call it
// after the workers have closed their sockets, so that what is pending on each
// can still move to another one. Sockets that are open fall back to the
// kernel's hash in the eBPF modes and keep the other modes' settings.
func (s *Steerer) Detach(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[key]
	if l == nil {
		return
	}
	delete(s.listeners, key)
	if l.inst == nil {
		return
	}
	idle := l.inst.empty()
	if s.kernel == nil {
		l.inst.close()
		return
	}
	s.kernel.release(l.inst, idle)
}

// Listeners reports on every attached listener, in the order of their keys.
func (s *Steerer) Listeners() []ListenerReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	reports := make([]ListenerReport, 0, len(s.listeners))
	for _, l := range s.listeners {
		reports = append(reports, l.report)
	}
	slices.SortFunc(reports, func(a, b ListenerReport) int { return strings.Compare(a.Key, b.Key) })
	return reports
}

// Stats counts the decisions of the eBPF modes since New.
type Stats struct {
	Selected  uint64 // a worker was selected
	Migrated  uint64 // decisions for connections of a closed socket
	Unhealthy uint64 // selected although stalled or draining, for want of others
	Empty     uint64 // tries that met a worker without a socket
	Refused   uint64 // tries that failed for another reason
	Fallback  uint64 // left to the kernel's hash
}

// Stats returns the sum over all CPUs; zeros without eBPF. It makes a system
// call for each counter.
func (s *Steerer) Stats() (Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st Stats
	if s.kernel == nil {
		return st, nil
	}
	// In the order of STAT_* in bpf/steer.bpf.c.
	for i, sum := range []*uint64{
		&st.Selected, &st.Migrated, &st.Unhealthy, &st.Empty, &st.Refused, &st.Fallback,
	} {
		var perCPU []uint64
		if err := s.kernel.stats.Lookup(uint32(i), &perCPU); err != nil {
			return Stats{}, fmt.Errorf("steering counters: %w", err)
		}
		for _, n := range perCPU {
			*sum += n
		}
	}
	return st, nil
}

// Close gives up all kernel objects. Groups that still exist keep their program
// and go on being steered until their sockets are closed, and slots stay valid.
// Attach works afterwards, below the eBPF modes.
func (s *Steerer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil {
		return
	}
	for _, l := range s.listeners {
		if l.inst != nil {
			l.inst.close()
			l.inst = nil
		}
	}
	s.kernel.close()
	s.kernel = nil
}
