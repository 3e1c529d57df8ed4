// SPDX-License-Identifier: Apache-2.0

// Package export carries telemetry out of the process: access-log files and the standard streams. Each destination has one goroutine; workers
// only ever touch the rings of accesslog.Sink.
package export

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

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
	// Stdout and Stderr replace the standard streams in tests; nil means the process's own.
	Stdout, Stderr io.Writer
	// DryRun checks paths without opening anything (--mode validate).
	DryRun bool
}

// Files owns every file sink of the process. Safe for concurrent use by the control side.
type Files struct {
	// Immutable
	cfg   Config
	scope *stats.Scope

	// Control, under mu
	mu     sync.Mutex
	files  map[string]*file
	closed bool
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
	return &Files{cfg: cfg, scope: cfg.Stats.Scope("filesystem.", stats.FilesystemDef), files: map[string]*file{}}
}

// FlushInterval is the interval at which workers call accesslog.Writer.Flush.
func (f *Files) FlushInterval() time.Duration { return f.cfg.FlushInterval }

// Open returns the sink of path, opening the file (append, created with mode 0644 as Envoy does) on first use, and counts a reference.
// The error is Envoy's: unable to open file '/x': reason.
func (f *Files) Open(path string) (*accesslog.Sink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, fmt.Errorf("unable to open file '%s': shutting down", path)
	}
	if x := f.files[path]; x != nil {
		x.refs++
		return x.sink, nil
	}
	x := &file{path: path, owner: f, stop: make(chan struct{}), reopen: make(chan struct{}, 1), done: make(chan struct{}), refs: 1}
	x.sink = accesslog.NewSink(path, f.cfg.Workers, f.scope)
	x.block = f.scope.Control()
	if !f.cfg.DryRun {
		w, c, err := f.open(path)
		if err != nil {
			return nil, fmt.Errorf("unable to open file '%s': %w", path, reason(err))
		}
		x.w, x.c = w, c
		go x.run()
	} else {
		close(x.done)
	}
	f.files[path] = x
	return x.sink, nil
}

// reason strips the path that os errors repeat.
func reason(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

func (f *Files) open(path string) (io.Writer, io.Closer, error) {
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

// Release drops one reference; the last one writes what is left and closes the file. The caller guarantees that no worker logs to the sink
// any more.
func (f *Files) Release(s *accesslog.Sink) {
	f.mu.Lock()
	x := f.files[s.Path]
	if x == nil || x.sink != s {
		f.mu.Unlock()
		return
	}
	x.refs--
	last := x.refs == 0
	if last {
		delete(f.files, s.Path)
	}
	f.mu.Unlock()
	if last {
		x.close()
	}
}

// Reopen makes every file be opened again (SIGUSR1, POST /reopen_logs); it does not wait.
func (f *Files) Reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.files {
		select {
		case x.reopen <- struct{}{}:
		default:
		}
	}
}

// Close writes what workers have handed over and closes every file. Call it after the workers have stopped and flushed.
func (f *Files) Close() {
	f.mu.Lock()
	list := f.files
	f.files, f.closed = map[string]*file{}, true
	f.mu.Unlock()
	for _, x := range list {
		x.close()
	}
}

// file is one destination and its goroutine.
type file struct {
	// Immutable
	path         string
	owner        *Files
	sink         *accesslog.Sink
	stop, reopen chan struct{}
	done         chan struct{}
	block        *stats.Block

	// Control, under Files.mu
	refs int

	// the goroutine's own
	w io.Writer
	c io.Closer
}

func (x *file) close() {
	close(x.stop)
	<-x.done
}

func (x *file) run() {
	defer close(x.done)
	tick := time.NewTicker(x.owner.cfg.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-x.sink.Wake():
			x.drain()
		case <-tick.C:
			x.block.Inc(stats.FilesystemFlushedByTimer)
			x.drain()
		case <-x.reopen:
			x.drain()
			x.openAgain()
		case <-x.stop:
			x.drain()
			if x.c != nil {
				_ = x.c.Close() // nothing useful can be done about it; the data was written
			}
			return
		}
	}
}

func (x *file) drain() {
	x.sink.Drain(func(chunk []byte) {
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
	w, c, err := x.owner.open(x.path)
	if err != nil {
		x.block.Inc(stats.FilesystemReopenFailed)
		return
	}
	_ = x.c.Close()
	x.w, x.c = w, c
}
