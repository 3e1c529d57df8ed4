// SPDX-License-Identifier: Apache-2.0

// Package app builds the whole program from its rooms and owns its life: command line, start-up, signals, drain, exit code. It is the only place
// where the control tower and the worker tower meet.
package app

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/fleet"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
	"sidecar/ebpf"
	"sidecar/internal/admin"
	"sidecar/internal/export"
	"sidecar/internal/resolve"
	"sidecar/internal/telemetry/log"
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
	services *export.Services
	steerer  *ebpf.Steerer
	shared   *worker.Shared
	fleet    *fleet.Fleet
	ctl      *controller.Controller
	resolver *resolve.Resolver
	log      *log.Manager
	logFile  *logFile // --log-path, else nil
	server   *stats.Block
	process  *stats.Block
	started  time.Time
	plan     adminPlan

	// Control
	layers  *runtimeLayers
	admin   *admin.Server // nil without an admin address
	resting resting
	running bool // the controller's goroutine was started

	adminAddr net.Addr // nil without an admin server

	// Atomic
	state    atomic.Int32 // controller.State
	failed   atomic.Bool  // /healthcheck/fail
	drains   drains
	quit     chan struct{} // closed by Quit
	live     chan struct{} // closed when every worker serves the first complete configuration
	quitOnce sync.Once
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
	case opt.HotRestartVersion:
		fmt.Fprintln(stdout, "disabled") // what Envoy prints with --disable-hot-restart
		return 0
	}
	boot, err := bootstrap.Load(bootstrap.Options{Path: opt.ConfigPath, ConfigYAML: opt.ConfigYAML, AllowUnknown: opt.AllowUnknownStatic,
		ServiceNode: opt.ServiceNode, ServiceCluster: opt.ServiceCluster, ServiceZone: opt.ServiceZone})
	if err != nil {
		return configError(stderr, opt, everyFault(opt, boot, err))
	}
	a, err := build(opt, boot, stderr)
	if err != nil {
		a.close()
		return configError(stderr, opt, err)
	}
	if opt.Mode == Validate {
		a.close()
		fmt.Fprintf(stdout, "configuration '%s' OK\n", opt.ConfigPath)
		return 0
	}
	return a.run()
}

// everyFault adds to what is wrong with a bootstrap what is wrong with the resources in it, so that an operator sees all of it at once. Nothing is
// opened.
func everyFault(opt *Options, boot *bootstrap.Config, err error) error {
	if boot == nil {
		return err
	}
	dry := *opt
	dry.Mode, dry.LogLevel, dry.ComponentLogLevel = Validate, "off", ""
	a, more := build(&dry, boot, io.Discard)
	a.close()
	known := map[registry.Path]bool{}
	out := registry.Flatten(err)
	for _, e := range out {
		var fe *registry.FieldError
		if errors.As(e, &fe) {
			known[fe.Path] = true
		}
	}
	for _, e := range registry.Flatten(more) {
		var fe *registry.FieldError
		if errors.As(e, &fe) && told(known, fe.Path) {
			continue
		}
		out = append(out, e)
	}
	return errors.Join(out...)
}

// told tells whether a fault at path, or at something in it or around it, is known already.
func told(known map[registry.Path]bool, path registry.Path) bool {
	for k := range known {
		if strings.HasPrefix(string(k), string(path)) || strings.HasPrefix(string(path), string(k)) {
			return true
		}
	}
	return false
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

// build makes everything without opening anything that validate mode must not open. The App is returned also with an error, for its close.
func build(opt *Options, boot *bootstrap.Config, stderr io.Writer) (*App, error) {
	a := &App{opt: opt, boot: boot, shared: &worker.Shared{}, started: time.Now(), quit: make(chan struct{}),
		live: make(chan struct{})}
	a.state.Store(int32(controller.PreInitializing))
	if err := a.openLog(stderr); err != nil {
		return a, err
	}
	a.reg = stats.NewRegistry(opt.Concurrency)
	a.layers = newRuntimeLayers(boot, a.reg)
	a.resolver = resolve.New(resolve.Config{})
	a.files = export.NewFiles(export.Config{Workers: opt.Concurrency, Stats: a.reg, FlushInterval: opt.FileFlush, FlushSize: opt.FileFlushMin << 10,
		DryRun: opt.Mode == Validate})
	node, err := proto.Marshal(boot.Node)
	if err != nil {
		return a, err
	}
	a.services = export.NewServices(opt.Concurrency, a.reg, node, opt.Mode == Validate)
	a.server = a.reg.Scope("server.", stats.ServerDef).Control()
	a.shared.MaxConns.Store(boot.MaxDownstreamConnections)
	var plane controller.Plane = dryPlane{}
	if opt.Mode != Validate {
		if err := a.buildFleet(); err != nil {
			return a, err
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
	static := registry.UnknownRefuse
	if opt.AllowUnknownStatic {
		static = registry.UnknownIgnore
	}
	comp, err := a.compilers()
	if err != nil {
		return a, err
	}
	a.ctl = controller.New(controller.Config{Bootstrap: boot, Plane: plane, Stats: a.reg, Compile: comp, Workers: opt.Concurrency, Resolver: dnsResolver{a.resolver},
		Seed: uint64(time.Now().UnixNano()), Log: a.log.Log, Unknown: unknown, UnknownStatic: static, ExplicitWildcard: opt.ExplicitWildcard,
		OnState: a.setState})
	return a, errors.Join(a.planAdmin(), a.ctl.Static())
}

// dryPlane is the data plane of --mode validate: nothing is bound.
type dryPlane struct{}

func (dryPlane) Prepare(*snapshot.Listener) error { return nil }
func (dryPlane) Discard(*snapshot.Listener)       {}
func (dryPlane) Publish(*snapshot.Snapshot)       {}
func (dryPlane) Adopted() uint64                  { return 0 }
func (dryPlane) Answer([]filter.Demand)           {}
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
	a.process = a.reg.Scope("sidecar.", processDef).Control()
	a.process.Set(processSteeringMode, int64(a.steerer.Mode()))
	loop.OnPanic = func(w int, reason any) {
		a.shared.Panics.Add(1)
		a.process.Inc(processWorkerPanics)
		a.log.Log("critical", "main", "worker %d: a connection was closed after an internal error: %v", w, reason)
	}
	a.server.Set(stats.ServerConcurrency, int64(a.opt.Concurrency))
	local := localIP(a.opt.LocalAddressV6)
	seed := uint64(time.Now().UnixNano())
	var err error
	a.fleet, err = fleet.New(fleet.Config{Workers: a.opt.Concurrency, Shared: a.shared, Steering: steering{a.steerer},
		OnError: func(err error) { a.log.Log("error", "main", "%v", err) },
		Worker: func(i int, k sys.Kernel) (*worker.Worker, error) {
			return worker.New(worker.Config{Index: i, Kernel: k, Seed: seed + uint64(i)*0x9e3779b97f4a7c15, Shared: a.shared, Load: a.steerer.Slot(i),
				LocalIP: local, LogFlush: sys.Nanos(a.opt.FileFlush),
				DrainTime: sys.Nanos(a.opt.DrainTime), DrainImmediate: a.opt.DrainImmediate,
				InternalBuffer: a.boot.InternalBuffer, Ask: func(d filter.Demand) bool { return a.ctl.Demand(d) }})
		}})
	if err == nil {
		collectFor(a.fleet.Handshakes)
	}
	return err
}

// steering adapts ebpf.Steerer to what the fleet wants.
type steering struct{ s *ebpf.Steerer }

func (x steering) Attach(key string, fds []int) { _, _ = x.s.Attach(key, fds) }
func (x steering) Detach(key string)            { x.s.Detach(key) }
func (x steering) Slot(w int) worker.LoadSlot   { return x.s.Slot(w) }

// localIP is the node's address: what x-forwarded-for gets for a loopback peer. As in Envoy it is the first address of an interface that is not
// loopback and of the wanted family, else the loopback address.
func localIP(v6 bool) netip.Addr {
	addrs, _ := net.InterfaceAddrs() // on failure there are none, and the loopback address it is
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && !ip.IsLoopback() && ip.Is4() != v6 {
			return ip
		}
	}
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Version is what --version and /server_info print.
func Version() string { return "0.1.0/" + "1.40.0" + "/Clean/RELEASE/Go" }
