// SPDX-License-Identifier: Apache-2.0

package app

import (
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/controller"
)

// Bounds of the end of the process.
const (
	// farewell is how long keep-alive connections get at the end of the process to hear with a response that they are over. Closing an idle
	// connection while its client sends the next request costs that request, so only those that stay silent this long are closed unasked.
	farewell = 500 * time.Millisecond
	// drainPoll is how often the end of the process looks whether connections are left.
	drainPoll = 10 * time.Millisecond
	// callTimeout bounds a question to the workers.
	callTimeout = time.Second
	// actTimeout bounds how long an admin action waits for the workers to have taken it up, so that its answer can be relied upon.
	actTimeout = 100 * time.Millisecond
)

// run serves until told to end and returns the exit code.
func (a *App) run() int {
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE)
	defer signal.Stop(sig)
	if err := a.openAdmin(); err != nil {
		a.log.Log("critical", "main", "error initializing admin server: %v", err)
		a.close()
		return 1
	}
	a.greet()
	a.stateGauges()
	a.running = true
	go a.ctl.Run()
	a.ctl.Post(func() {}) // the first event starts initialisation
	live := a.live
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
				a.reopenLogs()
			}
		case <-a.quit:
			a.log.Log("warning", "main", "asked to quit: draining")
			return a.drainAndExit(sig)
		case <-live:
			live = nil
			if a.opt.Mode == InitOnly {
				a.log.Log("info", "main", "init_only: initialization is complete")
				a.close()
				return 0
			}
		case <-flush.C:
			a.flushStats()
		}
	}
}

// greet writes what an operator should know at the start.
func (a *App) greet() {
	for _, w := range a.boot.Warnings {
		a.log.Log("warning", "config", "bootstrap: %s", w.String())
	}
	for _, s := range a.opt.Ignored {
		a.log.Log("debug", "main", "%s", s)
	}
	a.log.Log("info", "main", "sidecar %s: %d worker(s), steering %s, admin %s", Version(), a.opt.Concurrency, a.steerer.Mode(), addressText(a.adminAddr))
	a.server.Set(stats.ServerHotRestartEpoch, int64(a.opt.RestartEpoch))
	if a.opt.BaseIDPath != "" {
		if err := os.WriteFile(a.opt.BaseIDPath, []byte(strconv.FormatUint(uint64(a.opt.BaseID), 10)), 0o644); err != nil {
			a.log.Log("critical", "main", "cannot open base id output file %s for writing: %v", a.opt.BaseIDPath, err)
		}
	}
}

// setState is told by the controller, on its goroutine. Live becomes visible when every worker has adopted the configuration that made it so.
func (a *App) setState(s controller.State) {
	if s != controller.Live {
		a.showState(s)
		return
	}
	epoch := a.ctl.Epoch()
	go func() {
		for !a.fleet.Settle(epoch, time.Second) {
			select {
			case <-a.quit:
				return
			default:
				a.log.Log("warning", "main", "waiting for the workers to adopt the first configuration")
			}
		}
		a.server.Record(stats.ServerInitializationTimeMs, uint64(time.Since(a.started).Milliseconds()))
		a.showState(controller.Live)
		close(a.live)
		time.AfterFunc(firstRest, func() { a.rest(tired) })
	}()
}

func (a *App) showState(s controller.State) {
	a.state.Store(int32(s))
	a.stateGauges()
}

func (a *App) stateGauges() {
	s := a.State()
	a.server.Set(stats.ServerState, int64(s))
	live := int64(0)
	if s == controller.Live {
		live = 1
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

// Quit asks the program to end as SIGTERM does. Any goroutine; more calls change nothing.
func (a *App) Quit() { a.quitOnce.Do(func() { close(a.quit) }) }

// reopenLogs is SIGUSR1 and /reopen_logs.
func (a *App) reopenLogs() {
	a.files.Reopen()
	if a.logFile == nil {
		return
	}
	if err := a.logFile.reopen(); err != nil {
		a.log.Log("error", "main", "%v", err)
	}
}

// setHealth is /healthcheck/fail and /healthcheck/ok.
func (a *App) setHealth(fail bool) {
	a.failed.Store(fail)
	a.shared.CloseAll.Store(fail)
	a.fleet.Call(func(w *worker.Worker) { w.SetFailHealth(fail) })
	a.fleet.Connections(actTimeout) // an answer means that the call before it was made
	a.stateGauges()
}

// drains keeps what drain_listeners has begun.
type drains struct {
	mu           sync.Mutex
	all, inbound bool
}

// drainListeners is POST /drain_listeners. From now on responses announce the end of their connections. Listeners close at once, or at the end of
// the drain time when graceful, or never with skipExit. A second graceful drain of what drains already changes nothing.
func (a *App) drainListeners(graceful, skipExit, inboundOnly bool) {
	d := &a.drains
	d.mu.Lock()
	begun := d.all || inboundOnly && d.inbound
	d.all = d.all || !inboundOnly
	d.inbound = d.inbound || inboundOnly
	d.mu.Unlock()
	if !begun {
		a.fleet.Sequence(worker.DrainSequence{InboundOnly: inboundOnly, Length: sys.Nanos(a.opt.DrainTime), Immediate: a.opt.DrainImmediate})
		a.fleet.Connections(actTimeout)
	}
	switch {
	case skipExit:
	case !graceful:
		a.stopListeners(inboundOnly)
	case !begun:
		time.AfterFunc(a.opt.DrainTime, func() { a.stopListeners(inboundOnly) })
	}
}

func (a *App) stopListeners(inboundOnly bool) {
	if n := a.fleet.StopListeners(inboundOnly); n > 0 {
		a.reg.Scope("listener_manager.", stats.ListenerManagerDef).Control().Add(stats.ListenerManagerListenerStopped, int64(n))
	}
}

// drainAndExit lets requests in flight finish. Listening sockets are emptied and closed; every response says Connection: close; connections that
// stay idle for a moment are closed; the process ends when nothing is left, at the deadline, or at once on a second signal.
func (a *App) drainAndExit(sig <-chan os.Signal) int {
	select {
	case <-a.live:
	default:
		a.close() // nothing was served yet
		return 0
	}
	stopped := make(chan struct{})
	go func() {
		a.fleet.Drain(worker.DrainOrder{Mode: conn.DrainSoft, Sticky: true})
		a.stopListeners(false)
		close(stopped)
	}()
	deadline := time.NewTimer(a.opt.TerminationDrain)
	defer deadline.Stop()
	idle := time.NewTimer(min(farewell, a.opt.TerminationDrain/2))
	defer idle.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		select {
		case s := <-sig:
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				a.log.Log("warning", "main", "second signal: exiting now")
				return a.end(stopped)
			}
			if s == syscall.SIGUSR1 {
				a.reopenLogs()
			}
		case <-deadline.C:
			n, _ := a.fleet.Connections(callTimeout)
			a.log.Log("warning", "main", "drain deadline reached with %d connection(s) open", n)
			return a.end(stopped)
		case <-idle.C:
			a.fleet.Drain(worker.DrainOrder{Mode: conn.DrainIdle, Sticky: true})
		case <-poll.C:
			if a.drained(stopped) {
				return a.end(stopped)
			}
		}
	}
}

func (a *App) drained(stopped <-chan struct{}) bool {
	select {
	case <-stopped:
	default:
		return false
	}
	n, ok := a.fleet.Connections(callTimeout)
	return ok && n == 0
}

func (a *App) end(stopped <-chan struct{}) int {
	<-stopped // bounded: a wait for handshakes and for the workers' next turn
	a.close()
	a.log.Log("info", "main", "exiting")
	return 0
}

// close releases everything; also what a failed build has made so far.
func (a *App) close() {
	if a.running {
		a.ctl.Close()
	}
	if a.fleet != nil {
		a.fleet.Stop()
	}
	a.closeAdmin()
	if a.resolver != nil {
		a.resolver.Close()
	}
	if a.files != nil {
		a.files.Close()
	}
	if a.services != nil {
		a.services.Close()
	}
	if a.steerer != nil {
		a.steerer.Close()
	}
}
