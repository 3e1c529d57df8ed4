// SPDX-License-Identifier: Apache-2.0

// Package app builds the whole program from its rooms and owns its life: command line, start-up, signals, drain, exit code. It is the only place
// where the control tower and the worker tower meet.
package app

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fleet"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
	"sidecar/ebpf"
	"sidecar/internal/export"
	"sidecar/internal/resolve"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/bootstrap"
	"sidecar/xds/controller"
	"sidecar/xds/registry"
)

// App is one running sidecar.
type App struct {
	// Immutable after build
	opt      *Options
	boot     *bootstrap.Config
	reg      *stats.Registry
	files    *export.Files
	steerer  *ebpf.Steerer
	shared   *worker.Shared
	fleet    *fleet.Fleet
	ctl      *controller.Controller
	resolver *resolve.Resolver
	log      logger
	server   *stats.Block
	started  time.Time
	admin    io.Closer

	// Control
	layers *runtimeLayers

	// Atomic
	state    atomic.Int32 // controller.State
	failed   atomic.Bool  // /healthcheck/fail
	draining atomic.Bool
	quit     chan struct{}
	quitOnce atomic.Bool
	settle   sync.Once
}

// logger is the application log.
type logger interface {
	Log(level, component, format string, args ...any)
}

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	opt, err := Parse(args, stdout)
	switch {
	case errors.Is(err, ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, err)
		return 1
	case opt.Version:
		fmt.Fprintf(stdout, "\nsidecar  version: %s\n\n", Version())
		return 0
	}
	boot, err := bootstrap.Load(bootstrap.Options{Path: opt.ConfigPath, ConfigYAML: opt.ConfigYAML, AllowUnknown: opt.AllowUnknownStatic,
		ServiceNode: opt.ServiceNode, ServiceCluster: opt.ServiceCluster, ServiceZone: opt.ServiceZone})
	if err != nil {
		return configError(stderr, opt, err)
	}
	a, err := build(opt, boot, stderr)
	if err != nil {
		return configError(stderr, opt, err)
	}
	if opt.Mode == Validate {
		a.close()
		fmt.Fprintf(stdout, "configuration '%s' OK\n", opt.ConfigPath)
		return 0
	}
	return a.run()
}

// configError prints every error, each with its path, and returns the exit code.
func configError(w io.Writer, opt *Options, err error) int {
	leaves := registry.Flatten(err)
	name := opt.ConfigPath
	if name == "" {
		name = "--config-yaml"
	}
	fmt.Fprintf(w, "error initializing configuration '%s': %d error(s)\n", name, len(leaves))
	for _, e := range leaves {
		fmt.Fprintf(w, "  %s\n", e)
	}
	return 1
}

// build makes everything without opening anything that validate mode must not open.
func build(opt *Options, boot *bootstrap.Config, stderr io.Writer) (*App, error) {
	a := &App{opt: opt, boot: boot, shared: &worker.Shared{}, started: time.Now(), quit: make(chan struct{}), layers: newRuntimeLayers(boot)}
	a.state.Store(int32(controller.PreInitializing))
	lg, err := newLogger(opt, boot, stderr)
	if err != nil {
		return nil, err
	}
	a.log = lg
	a.reg = stats.NewRegistry(opt.Concurrency)
	a.resolver = resolve.New(resolve.Config{})
	a.files = export.NewFiles(export.Config{Workers: opt.Concurrency, Stats: a.reg, FlushInterval: opt.FileFlush, DryRun: opt.Mode == Validate})
	a.server = a.reg.Scope("server.", stats.ServerDef).Control()
	a.shared.MaxConns.Store(boot.MaxDownstreamConnections)
	var plane controller.Plane = dryPlane{}
	if opt.Mode != Validate {
		if err := a.buildFleet(); err != nil {
			return nil, err
		}
		plane = a.fleet
	}
	unknown := registry.UnknownWarn
	switch {
	case opt.RejectUnknownDynamic:
		unknown = registry.UnknownRefuse
	case opt.IgnoreUnknownDynamic:
		unknown = registry.UnknownIgnore
	}
	comp, err := a.compilers()
	if err != nil {
		return nil, err
	}
	a.ctl = controller.New(controller.Config{Bootstrap: boot, Plane: plane, Stats: a.reg, Compile: comp, Workers: opt.Concurrency, Resolver: dnsResolver{a.resolver},
		Seed: uint64(time.Now().UnixNano()), Log: a.log.Log, Unknown: unknown, ExplicitWildcard: opt.ExplicitWildcard,
		OnState: func(s controller.State) { a.setState(s) }})
	if err := a.ctl.Static(); err != nil {
		return nil, err
	}
	return a, nil
}

// dryPlane is the data plane of --mode validate: nothing is bound.
type dryPlane struct{}

func (dryPlane) Prepare(*snapshot.Listener) error { return nil }
func (dryPlane) Discard(*snapshot.Listener)       {}
func (dryPlane) Publish(*snapshot.Snapshot)       {}
func (dryPlane) Adopted() uint64                  { return 0 }
func (dryPlane) Reap()                            {}
func (dryPlane) Start()                           {}

func (a *App) buildFleet() error {
	for _, s := range tuneRuntime(a.opt.Concurrency) {
		a.log.Log("info", "main", "%s", s)
	}
	so := ebpf.Options{Logf: func(f string, v ...any) { a.log.Log("info", "main", "steering: "+f, v...) }}
	if a.opt.Steering != "" {
		m, err := ebpf.ParseMode(a.opt.Steering)
		if err != nil {
			return fmt.Errorf("--steering: %w", err)
		}
		so.Force = &m
	}
	a.steerer = ebpf.New(a.opt.Concurrency, so)
	loop.OnPanic = func(w int, reason any) {
		a.shared.Panics.Add(1)
		a.log.Log("critical", "main", "worker %d: a connection was closed after an internal error: %v", w, reason)
	}
	local := localIP(a.opt.LocalAddressV6)
	seed := uint64(time.Now().UnixNano())
	var err error
	a.fleet, err = fleet.New(fleet.Config{Workers: a.opt.Concurrency, Shared: a.shared, Steering: steering{a.steerer},
		Worker: func(i int, k sys.Kernel) (*worker.Worker, error) {
			return worker.New(worker.Config{Index: i, Kernel: k, Seed: seed + uint64(i)*0x9e3779b97f4a7c15, Shared: a.shared, Load: a.steerer.Slot(i),
				LocalIP: local, LogFlush: sys.Nanos(a.opt.FileFlush)})
		}})
	return err
}

// steering adapts ebpf.Steerer to what the fleet wants.
type steering struct{ s *ebpf.Steerer }

func (x steering) Attach(key string, fds []int) { _, _ = x.s.Attach(key, fds) }
func (x steering) Detach(key string)            { x.s.Detach(key) }
func (x steering) Slot(w int) worker.LoadSlot   { return x.s.Slot(w) }

// localIP is the node's address: what x-forwarded-for gets for a loopback peer.
func localIP(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.MustParseAddr("127.0.0.1")
}

func (a *App) setState(s controller.State) {
	a.state.Store(int32(s))
	live := int64(0)
	if s == controller.Live {
		live = 1
		a.settle.Do(func() { time.AfterFunc(time.Second, settleMemory) })
	}
	a.server.Set(stats.ServerLive, live)
}

// State is what /server_info and /ready show.
func (a *App) State() controller.State {
	if a.failed.Load() {
		return controller.Draining
	}
	return controller.State(a.state.Load())
}

// run serves until told to end.
func (a *App) run() int {
	if err := a.openAdmin(); err != nil {
		a.log.Log("critical", "main", "admin: %v", err)
		a.close()
		return 1
	}
	for _, w := range a.boot.Warnings {
		a.log.Log("warning", "config", "bootstrap: %s", w.String())
	}
	for _, s := range a.opt.Ignored {
		a.log.Log("debug", "main", "%s", s)
	}
	a.server.Set(stats.ServerConcurrency, int64(a.opt.Concurrency))
	a.server.Set(stats.ServerHotRestartEpoch, int64(a.opt.RestartEpoch))
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE)
	go a.ctl.Run()
	a.ctl.Post(func() {}) // the first event starts initialisation
	flush := time.NewTicker(a.boot.StatsFlushInterval)
	defer flush.Stop()
	for {
		select {
		case s := <-sig:
			switch s {
			case syscall.SIGTERM, syscall.SIGINT:
				a.log.Log("warning", "main", "caught %s: draining", s)
				return a.drainAndExit(sig)
			case syscall.SIGUSR1:
				a.files.Reopen()
			}
		case <-a.quit:
			return a.drainAndExit(sig)
		case <-flush.C:
			a.flushStats()
		}
		if a.opt.Mode == InitOnly && a.State() == controller.Live {
			a.close()
			return 0
		}
	}
}

// Quit asks the program to end as SIGTERM does. Any goroutine.
func (a *App) Quit() {
	if a.quitOnce.CompareAndSwap(false, true) {
		close(a.quit)
	}
}

// drainAndExit lets requests in flight finish: listeners are emptied and closed, every response says Connection: close, idle connections go, and
// the process ends when nothing is left, at the deadline, or at once on a second signal.
func (a *App) drainAndExit(sig <-chan os.Signal) int {
	if a.fleet == nil || a.State() == controller.PreInitializing || a.State() == controller.Initializing {
		a.close()
		return 0
	}
	a.draining.Store(true)
	a.fleet.StopListeners(false)
	a.fleet.Drain(worker.DrainOrder{Mode: conn.DrainIdle, Sticky: true})
	deadline := time.NewTimer(a.opt.TerminationDrain)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case s := <-sig:
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				a.log.Log("warning", "main", "second signal: exiting now")
				a.close()
				return 0
			}
		case <-deadline.C:
			a.log.Log("warning", "main", "drain deadline reached with %d connection(s) open", a.connections())
			a.close()
			return 0
		case <-poll.C:
			if a.connections() == 0 {
				a.close()
				return 0
			}
		}
	}
}

// connections is the number of open downstream connections.
func (a *App) connections() int64 {
	var n int64
	a.reg.Each(func(s *stats.Scope) {
		if s.Def == stats.ListenerDef {
			v, _ := s.Value(stats.ListenerDownstreamCxActive)
			n += v
		}
	})
	return n
}

func (a *App) close() {
	if a.ctl != nil && a.opt.Mode != Validate {
		a.ctl.Close()
	}
	if a.fleet != nil {
		a.fleet.Stop()
	}
	if a.admin != nil {
		_ = a.admin.Close()
	}
	a.resolver.Close()
	a.files.Close()
	if a.steerer != nil {
		a.steerer.Close()
	}
}

// flushStats updates gauges that nobody pushes.
func (a *App) flushStats() {
	a.server.Set(stats.ServerState, int64(a.State()))
	a.server.Set(stats.ServerUptime, int64(time.Since(a.started).Seconds()))
	a.server.Set(stats.ServerTotalConnections, a.connections())
}

// Version is what --version and /server_info print.
func Version() string { return "0.1.0/" + "1.40.0" + "/Clean/RELEASE/Go" }
