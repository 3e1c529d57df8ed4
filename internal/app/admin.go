// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/match"
	"sidecar/internal/admin"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
	accesslogcompile "sidecar/xds/compile/accesslog"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/compile/statsconfig"
	"sidecar/xds/registry"
)

// adminLinger is how long admin requests in flight may take when the process ends.
const adminLinger = 500 * time.Millisecond

// adminPlan is the compiled admin section of the bootstrap and stats_config.
type adminPlan struct {
	view  *stats.View
	logs  []*accesslog.Logger
	allow func(path string) bool // nil allows every path
}

// planAdmin compiles the parts of the bootstrap that only the admin server needs. Every fault is returned, joined.
func (a *App) planAdmin() error {
	rep := &registry.Report{}
	var errs errorList
	fixed, err := statsTags(a.opt.StatsTags)
	errs.add(err)
	tags, cfg, err := statsconfig.Compile(&registry.Ctx{Path: "stats_config", Report: rep}, a.boot.Proto.GetStatsConfig(), fixed)
	errs.add(err)
	a.plan.view = stats.NewView(a.reg, tags, cfg)
	logs := &accesslogcompile.Compiler{Sinks: a.files, Services: logServices{a}}
	for i, al := range a.boot.Admin.AccessLog {
		if p := a.boot.Admin.AccessLogPath; p != "" && al.GetTypedConfig() == nil {
			al = fileLog(p)
		}
		l, err := logs.Compile(&registry.Ctx{Path: registry.Path("admin").Index("access_log", i), Report: rep}, al)
		errs.add(err)
		a.plan.logs = append(a.plan.logs, l)
	}
	var allow []match.String
	for i, p := range a.boot.Admin.AllowPaths {
		m, err := matcher.String(&registry.Ctx{Path: "admin", Report: rep}, registry.Path("").Index("allow_paths", i), p)
		errs.add(err)
		allow = append(allow, m)
	}
	if len(allow) > 0 {
		a.plan.allow = func(path string) bool {
			return slices.ContainsFunc(allow, func(m match.String) bool { return m.MatchString(path) })
		}
	}
	return errs.join()
}

// fileLog is what access_log_path means.
func fileLog(path string) *accesslogv3.AccessLog {
	cfg, err := anypb.New(&filev3.FileAccessLog{Path: path})
	if err != nil {
		panic(err) // cannot happen: the message is complete and registered
	}
	return &accesslogv3.AccessLog{Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: cfg}}
}

// statsTags reads the --stats-tag flags: NAME:VALUE, the name alphanumeric, the value without dots, no name twice.
func statsTags(flags []string) (out []stats.Tag, err error) {
	var errs errorList
	for _, f := range flags {
		name, value, ok := strings.Cut(f, ":")
		bad := strings.ContainsFunc(name, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
		switch {
		case !ok || name == "" || value == "" || bad || strings.Contains(value, "."):
			errs.add(fmt.Errorf("error: misformatted stats-tag '%s'", f))
		case slices.ContainsFunc(out, func(t stats.Tag) bool { return t.Name == name && t.Value != value }):
			errs.add(fmt.Errorf("error: stats-tag '%s' is given with several values", name))
		default:
			out = append(out, stats.Tag{Name: name, Value: value})
		}
	}
	return out, errs.join()
}

// openAdmin starts the admin server; a bootstrap without an admin address has none.
func (a *App) openAdmin() error {
	if a.boot.Admin.Network == "" {
		return nil
	}
	ln, err := admin.Listen(a.boot.Admin.Network, a.boot.Admin.Address, os.FileMode(a.boot.Admin.Mode))
	if err != nil {
		return fmt.Errorf("admin.address: cannot bind '%s': %w", a.boot.Admin.Address, err)
	}
	a.adminAddr = ln.Addr()
	a.writeAdminAddress(ln.Addr())
	a.admin = admin.New(admin.Config{Sources: a.sources(), AccessLogs: a.plan.logs, Allow: a.plan.allow})
	go func() { _ = a.admin.Serve(ln) }() // ends with Close
	return nil
}

func (a *App) closeAdmin() {
	if a.admin == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminLinger)
	defer cancel()
	_ = a.admin.Close(ctx) // requests that do not end in time are cut
}

// writeAdminAddress is --admin-address-path. As in Envoy, a file that cannot be written does not stop the start.
func (a *App) writeAdminAddress(addr net.Addr) {
	if a.opt.AdminAddressPath == "" {
		return
	}
	if err := os.WriteFile(a.opt.AdminAddressPath, []byte(addr.String()), 0o644); err != nil {
		a.log.Log("critical", "main", "cannot open admin address output file %s for writing: %v", a.opt.AdminAddressPath, err)
	}
}

// sources is what the admin server may see and do. None of it waits for a worker.
func (a *App) sources() admin.Sources {
	s := admin.Sources{
		Stats: a.plan.view, Registry: a.reg, Logging: a.log,
		State: a.adminState, ServerInfo: a.serverInfo, ConfigDump: a.configDump,
		Clusters: a.ctl.ClusterStatuses, Listeners: a.listeners, InitDump: a.ctl.InitDump, Certs: a.ctl.Certificates, Secrets: func() any { return a.ctl.SecretStatuses() }, Memory: memoryInfo,
		Runtime: a.runtimeEntries, Rejected: a.rejections, Warnings: a.warnings, Steering: a.steeringInfo,
		DrainListeners: func(d admin.Drain) { a.drainListeners(d.Graceful, d.SkipExit, d.InboundOnly) },
		HealthCheck:    a.setHealth, Quit: a.Quit, ReopenLogs: a.reopenLogs,
	}
	if a.layers.hasAdmin() {
		s.RuntimeModify = a.modifyRuntime
	}
	return s
}
