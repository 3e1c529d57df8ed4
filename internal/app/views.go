// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"net"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sidecar/dataplane/sys"
	"sidecar/internal/admin"
	"sidecar/xds/controller"
)

// errorList gathers errors so that all of them can be told at once.
type errorList []error

func (e *errorList) add(err error) {
	if err != nil {
		*e = append(*e, err)
	}
}

func (e errorList) join() error { return errors.Join(e...) }

func (a *App) adminState() adminv3.ServerInfo_State { return adminv3.ServerInfo_State(a.State()) }

// serverInfo is /server_info; there is one hot restart epoch only.
func (a *App) serverInfo() *adminv3.ServerInfo {
	up := durationpb.New(time.Since(a.started).Truncate(time.Second))
	return &adminv3.ServerInfo{Version: Version(), HotRestartVersion: "disabled", UptimeCurrentEpoch: up, UptimeAllEpochs: up, Node: a.boot.Node,
		CommandLineOptions: a.commandLine()}
}

func (a *App) commandLine() *adminv3.CommandLineOptions {
	o := a.opt
	c := &adminv3.CommandLineOptions{BaseId: uint64(o.BaseID), Concurrency: uint32(o.Concurrency), ConfigPath: o.ConfigPath, ConfigYaml: o.ConfigYAML,
		AllowUnknownStaticFields: o.AllowUnknownStatic, RejectUnknownDynamicFields: o.RejectUnknownDynamic,
		IgnoreUnknownDynamicFields: o.IgnoreUnknownDynamic, SkipDeprecatedLogs: o.SkipDeprecatedLogs, AdminAddressPath: o.AdminAddressPath,
		LogLevel: o.LogLevel, ComponentLogLevel: o.ComponentLogLevel, LogFormat: o.LogFormat, LogPath: o.LogPath, ServiceCluster: o.ServiceCluster,
		ServiceNode: o.ServiceNode, ServiceZone: o.ServiceZone, FileFlushInterval: durationpb.New(o.FileFlush),
		DrainTime: durationpb.New(o.DrainTime), ParentShutdownTime: durationpb.New(o.ParentShutdownTime),
		DisableHotRestart: true, RestartEpoch: o.RestartEpoch, StatsTag: o.StatsTags, EnableFineGrainLogging: o.FineGrainLogging}
	if o.LocalAddressV6 {
		c.LocalAddressIpVersion = adminv3.CommandLineOptions_v6
	}
	if o.DrainImmediate {
		c.DrainStrategy = adminv3.CommandLineOptions_Immediate
	}
	switch o.Mode {
	case Validate:
		c.Mode = adminv3.CommandLineOptions_Validate
	case InitOnly:
		c.Mode = adminv3.CommandLineOptions_InitOnly
	}
	return c
}

// configDump puts the bootstrap in front of what the controller holds.
func (a *App) configDump(q admin.DumpQuery) []proto.Message {
	out := []proto.Message{&adminv3.BootstrapConfigDump{Bootstrap: a.boot.Proto, LastUpdated: timestamppb.New(a.started)}}
	return append(out, a.ctl.ConfigDump(controller.Query{Endpoints: q.IncludeEDS, Name: q.Name})...)
}

// listeners is /listeners: active listeners in order of acceptance with the addresses that they are really bound to. Listeners that do not bind, and
// those whose sockets were closed by a drain, keep their configured address, as in Envoy.
func (a *App) listeners() *adminv3.Listeners {
	bound := a.fleet.Bound()
	out := &adminv3.Listeners{}
	for _, l := range a.ctl.ListenerAddresses() {
		st := &adminv3.ListenerStatus{Name: l.Name}
		for i, want := range l.Addresses {
			addr := realAddress(want, bound[l.Name])
			if i == 0 {
				st.LocalAddress = addr
			} else {
				st.AdditionalLocalAddresses = append(st.AdditionalLocalAddresses, addr)
			}
		}
		out.ListenerStatuses = append(out.ListenerStatuses, st)
	}
	return out
}

// realAddress fills in the port that the kernel picked for port 0.
func realAddress(want *corev3.Address, bound []sys.Addr) *corev3.Address {
	w := want.GetSocketAddress()
	if w == nil || w.GetPortValue() != 0 {
		return want
	}
	for _, b := range bound {
		if b.IP.IsValid() && b.IP.Addr().String() == w.GetAddress() {
			return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: w.GetAddress(),
				PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(b.IP.Port())}}}}
		}
	}
	return want
}

func memoryInfo() *adminv3.Memory {
	m := readMemory()
	return &adminv3.Memory{Allocated: uint64(m.allocated), HeapSize: uint64(m.heap), PageheapUnmapped: uint64(m.unmapped), PageheapFree: uint64(m.free),
		TotalThreadCache: uint64(m.threads), TotalPhysicalBytes: uint64(m.resident)}
}

// runtimeEntries is /runtime: every key with its value in each layer.
func (a *App) runtimeEntries() (names []string, out []admin.RuntimeEntry) {
	var now controller.RuntimeValues
	a.ctl.Call(callTimeout, func() { now = a.ctl.Runtime() })
	return a.layers.entries(now)
}

func (a *App) rejections() []admin.Rejection {
	var out []admin.Rejection
	for _, r := range a.ctl.Rejections() {
		out = append(out, admin.Rejection{Type: r.Type.URL(), Name: r.Name, Version: r.Version, Findings: r.Details, Since: r.Since})
	}
	return out
}

// warnings are the advisory findings of the bootstrap and of accepted resources.
func (a *App) warnings() []admin.Rejection {
	var out []admin.Rejection
	if len(a.boot.Warnings) > 0 {
		w := admin.Rejection{Type: "type.googleapis.com/" + string(a.boot.Proto.ProtoReflect().Descriptor().FullName()), Name: "bootstrap", Since: a.started}
		for _, f := range a.boot.Warnings {
			w.Findings = append(w.Findings, f.String())
		}
		out = append(out, w)
	}
	for _, w := range a.ctl.Warnings() {
		out = append(out, admin.Rejection{Type: w.Type.URL(), Name: w.Name, Findings: w.Findings, Since: w.Since})
	}
	return out
}

// steeringInfo is /steering: the rung of the ladder in use and why no better one, for the process and for each listener; what every worker carries, and how
// many connections have changed their worker.
func (a *App) steeringInfo() any {
	type rung struct {
		Mode   string `json:"mode"`
		Reason string `json:"reason,omitempty"`
	}
	type listener struct {
		Key    string `json:"listener"`
		Mode   string `json:"mode"`
		Reason string `json:"reason,omitempty"`
	}
	type load struct {
		Worker      int    `json:"worker"`
		Score       int    `json:"score"`
		Connections int    `json:"connections"`
		Requests    int    `json:"requests"`
		BusyPercent int    `json:"busy_percent"`
		MovedIn     uint64 `json:"moved_in"`
		MovedOut    uint64 `json:"moved_out"`
	}
	out := struct {
		Mode      string            `json:"mode"`
		Reason    string            `json:"reason,omitempty"`
		Ladder    []rung            `json:"ladder"`
		Workers   []load            `json:"workers"`
		Listeners []listener        `json:"listeners"`
		Counters  map[string]uint64 `json:"counters,omitempty"`
	}{Mode: a.steerer.Mode().String(), Reason: a.steerer.Reason(), Ladder: []rung{}, Workers: []load{}, Listeners: []listener{}}
	for i, l := range a.fleet.Loads() {
		out.Workers = append(out.Workers, load{i, l.Score, l.Connections, l.Requests, l.BusyPercent, l.MovedIn, l.MovedOut})
	}
	for _, r := range a.steerer.Ladder() {
		out.Ladder = append(out.Ladder, rung{r.Mode.String(), r.Reason})
	}
	for _, l := range a.steerer.Listeners() {
		key, _, _ := strings.Cut(l.Key, "#")
		out.Listeners = append(out.Listeners, listener{key, l.Mode.String(), l.Reason})
	}
	if st, err := a.steerer.Stats(); err == nil {
		out.Counters = map[string]uint64{"selected": st.Selected, "migrated": st.Migrated, "unhealthy": st.Unhealthy, "empty": st.Empty,
			"refused": st.Refused, "fallback": st.Fallback}
	}
	return out
}

// addressText prints where the admin server listens, for the log.
func addressText(a net.Addr) string {
	if a == nil {
		return "none"
	}
	return a.String()
}
