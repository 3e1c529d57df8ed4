// SPDX-License-Identifier: Apache-2.0

// Package export carries telemetry out of the process: access-log files, the standard streams and gRPC access log services. Each destination has one goroutine; workers
// only ever touch the rings of accesslog.Sink.
package export

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"
	"weak"

	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// The two paths that mean the standard streams; they are never reopened.
const (
	Stdout = "/dev/stdout"
	Stderr = "/dev/stderr"
)

// Config of Files.
type Config struct {
	Workers int
	Stats   *stats.Registry
	// FlushInterval is --file-flush-interval-msec (default 10 s): how often Files counts a timer flush and writes what is waiting. Workers hand
	// over their buffers at the same interval.
	FlushInterval time.Duration
	// FlushSize is --file-flush-min-size-kb in bytes: a file is written when more than this waits, without waiting for the interval.
	FlushSize int
	// Stdout and Stderr replace the standard streams in tests; nil means the process's own.
	Stdout, Stderr io.Writer
	// DryRun checks paths without opening anything (--mode validate).
	DryRun bool
}

// Files owns every file sink of the process. Safe for concurrent use by the control side.
//
// A file is open as long as its sink can be reached: from a configuration that logs to it, also one that was replaced and still has connections, or from
// a worker that holds lines for it. Nobody counts; when the collector finds that the sink is gone, what was handed over is written and the
// file is closed. Collections come with configuration churn, and every two minutes without.
type Files struct {
	// Immutable
	cfg   Config
	scope *stats.Scope

	// Control, under mu
	mu     sync.Mutex
	files  map[string]*file   // by path, the one that Open shares
	open   map[*file]struct{} // all whose goroutine runs
	closed bool

	// Atomic
	running sync.WaitGroup // goroutines of files
}

// NewFiles makes an empty set.
func NewFiles(cfg Config) *Files {
	if cfg.FlushInterval <= 0 {
		cfg.FlushInterval = 10 * time.Second
	}
	if cfg.Stdout == nil {
		cfg.Stdout = os.Stdout
	}
	if cfg.Stderr == nil {
		cfg.Stderr = os.Stderr
	}
	return &Files{cfg: cfg, scope: cfg.Stats.Scope("filesystem.", stats.FilesystemDef), files: map[string]*file{}, open: map[*file]struct{}{}}
}

// Open returns the sink of path, opening the file (append, created with mode 0644 as Envoy does) when no sink of that path is in use.
// The error is Envoy's: unable to open file '/x': reason.
func (f *Files) Open(path string) (*accesslog.Sink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("unable to open file '%s': shutting down", path)
	}
	if x := f.files[path]; x != nil {
		if s := x.sink.Value(); s != nil {
			return s, nil
		}
	}
	s, q := accesslog.NewSink(path, f.cfg.Workers, f.scope, accesslog.FileCounters, f.cfg.FlushSize)
	x := &file{path: path, owner: f, sink: weak.Make(s), q: q, stop: make(chan struct{}), reopen: make(chan struct{}, 1),
		block: f.scope.Control()}
	if !f.cfg.DryRun {
		w, c, err := f.openPath(path)
		if err != nil {
			return nil, fmt.Errorf("unable to open file '%s': %w", path, reason(err))
		}
		x.w, x.c = w, c
		f.open[x] = struct{}{}
		runtime.AddCleanup(s, f.unused, x)
		f.running.Go(x.run)
	}
	f.files[path] = x
	return s, nil
}

// reason strips the path that os errors repeat.
func reason(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

func (f *Files) openPath(path string) (io.Writer, io.Closer, error) {
	switch path {
	case Stdout:
		return f.cfg.Stdout, nil, nil
	case Stderr:
		return f.cfg.Stderr, nil, nil
	}
	h, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, err
	}
	return h, h, nil
}

// unused ends a file whose sink nobody can reach any more. It runs on the collector's goroutine and does not wait.
func (f *Files) unused(x *file) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files[x.path] == x {
		delete(f.files, x.path)
	}
	f.end(x)
}

// end asks the goroutine of x to write what is left and to close. Under mu.
func (f *Files) end(x *file) {
	if _, ok := f.open[x]; ok {
		delete(f.open, x)
		close(x.stop)
	}
}

// Reopen makes every file be opened again (SIGUSR1, POST /reopen_logs); it does not wait.
func (f *Files) Reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for x := range f.open {
		select {
		case x.reopen <- struct{}{}:
		default:
		}
	}
}

// Close writes what workers have handed over and closes every file. Call it after the workers have stopped and flushed.
func (f *Files) Close() {
	f.mu.Lock()
	f.closed = true
	for x := range f.open {
		f.end(x)
	}
	f.mu.Unlock()
	f.running.Wait()
}

// file is one destination and its goroutine.
type file struct {
	// Immutable
	path         string
	owner        *Files
	sink         weak.Pointer[accesslog.Sink] // to share it; the file must not keep it in use
	q            *accesslog.Queue
	stop, reopen chan struct{}
	block        *stats.Block

	// the goroutine's own
	w io.Writer
	c io.Closer
}

func (x *file) run() {
	tick := time.NewTicker(x.owner.cfg.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-x.q.Wake():
			x.drain()
		case <-tick.C:
			x.block.Inc(stats.FilesystemFlushedByTimer)
			x.q.Collect()
			x.drain()
		case <-x.reopen:
			x.drain()
			x.openAgain()
		case <-x.stop:
			x.q.Collect()
			x.drain()
			if x.c != nil {
				_ = x.c.Close() // nothing useful can be done about it; the data was written
			}
			return
		}
	}
}

func (x *file) drain() {
	x.q.Drain(func(chunk []byte) {
		x.block.Add(stats.FilesystemWriteTotalBuffered, -int64(len(chunk)))
		if _, err := x.w.Write(chunk); err != nil {
			x.block.Inc(stats.FilesystemWriteFailed)
			return
		}
		x.block.Inc(stats.FilesystemWriteCompleted)
	})
}

// openAgain replaces the file. When the new one cannot be opened the old one stays in use (Envoy stops writing then; a log that still
// arrives somewhere is worth more) and the failure is counted.
func (x *file) openAgain() {
	if x.c == nil {
		return
	}
	w, c, err := x.owner.openPath(x.path)
	if err != nil {
		x.block.Inc(stats.FilesystemReopenFailed)
		return
	}
	_ = x.c.Close()
	x.w, x.c = w, c
}
