// SPDX-License-Identifier: Apache-2.0

package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/dataplane/match"
	"sidecar/internal/admin"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/bootstrap"
	"sidecar/xds/controller"
)

// tuneRuntime sets the Go runtime for latency. The data plane allocates nothing per request, so the collector runs for control work and TLS handshakes only
// (see collector); a P more than there are workers keeps sysmon from taking a worker's P at each system call (measured: 11 to 19 % of CPU at moderate load). What a pod
// injects for another program (GOMAXPROCS, GOMEMLIMIT) is overridden. It returns what to tell the operator.
func tuneRuntime(workers int) []string {
	var say []string
	procs := workers + 1
	if v := os.Getenv("GOMAXPROCS"); v != "" && v != strconv.Itoa(procs) {
		say = append(say, "GOMAXPROCS="+v+" from the environment is overridden: "+strconv.Itoa(procs)+" (workers + 1)")
	}
	runtime.GOMAXPROCS(procs)
	limit := cgroupMemory()
	if v := os.Getenv("GOMEMLIMIT"); v != "" {
		say = append(say, "GOMEMLIMIT="+v+" from the environment is overridden: the limit comes from the cgroup")
	}
	if limit > 0 {
		debug.SetMemoryLimit(limit - limit/10)
	} else {
		debug.SetMemoryLimit(1<<63 - 1)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return say
}

// cgroupMemory is memory.max of the cgroup, 0 when there is none.
func cgroupMemory() int64 {
	for _, p := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && v > 0 && v < 1<<50 {
			return v
		}
	}
	return 0
}

// runtimeLayers is the layered runtime: static layers, layers over xDS and the admin layer, in order.
type runtimeLayers struct {
	layers []bootstrap.RuntimeLayer
	stats  *stats.Block
}

func newRuntimeLayers(b *bootstrap.Config, reg *stats.Registry) *runtimeLayers {
	return &runtimeLayers{layers: b.Runtime, stats: reg.Scope("runtime.", stats.RuntimeDef).Control()}
}

// build makes one generation of final values.
func (r *runtimeLayers) build(now controller.RuntimeValues) *match.Runtime {
	vals := map[string]match.Value{}
	for i := range r.layers {
		layerValues(&r.layers[i], now, vals)
	}
	r.count(len(vals), len(now.Admin))
	return match.NewRuntime(vals)
}

// layerValues adds the values of one layer to out.
func layerValues(l *bootstrap.RuntimeLayer, now controller.RuntimeValues, out map[string]match.Value) {
	switch {
	case l.Admin:
		for k, v := range now.Admin {
			out[k] = textValue(v)
		}
	case l.RTDS != nil:
		flattenRuntime("", now.RTDS[l.Name], out)
	default:
		flattenRuntime("", l.Static, out)
	}
}

// hasAdmin tells whether there is a layer for /runtime_modify.
func (r *runtimeLayers) hasAdmin() bool {
	return slices.ContainsFunc(r.layers, func(l bootstrap.RuntimeLayer) bool { return l.Admin })
}

// entries lists every key with its text in each layer ("" where it is not set) and the value in force.
func (r *runtimeLayers) entries(now controller.RuntimeValues) (names []string, out []admin.RuntimeEntry) {
	at := map[string]int{}
	for i, l := range r.layers {
		names = append(names, l.Name)
		vals := map[string]match.Value{}
		layerValues(&r.layers[i], now, vals)
		for k, v := range vals {
			n, ok := at[k]
			if !ok {
				n = len(out)
				at[k] = n
				out = append(out, admin.RuntimeEntry{Key: k, Layers: make([]string, len(r.layers))})
			}
			out[n].Layers[i] = v.Text
			out[n].Final = v.Text // layers are in order: the last one that has the key wins
		}
	}
	return names, out
}

// modifyRuntime is /runtime_modify: it answers when the workers have the new values, or after a moment.
func (a *App) modifyRuntime(set map[string]string) error {
	var before uint64
	a.ctl.Call(callTimeout, func() { before = a.ctl.Epoch() })
	a.ctl.SetRuntime(set)
	for end := time.Now().Add(actTimeout); a.fleet.Adopted() <= before && time.Now().Before(end); {
		time.Sleep(200 * time.Microsecond)
	}
	return nil
}

// count updates the runtime's statistics after a generation of values was made.
func (r *runtimeLayers) count(keys, overrides int) {
	b := r.stats
	b.Inc(stats.RuntimeLoadSuccess)
	b.Inc(stats.RuntimeOverrideDirNotExists) // there are no disk layers
	b.Set(stats.RuntimeNumKeys, int64(keys))
	b.Set(stats.RuntimeNumLayers, int64(len(r.layers)))
	b.Set(stats.RuntimeAdminOverridesActive, int64(min(overrides, 1)))
}

// flattenRuntime turns nested structs into dotted keys; a struct with numerator is a FractionalPercent.
func flattenRuntime(prefix string, s *structpb.Struct, out map[string]match.Value) {
	for k, v := range s.GetFields() {
		key := k
		if prefix != "" {
			key = prefix + "." + k
		}
		switch x := v.GetKind().(type) {
		case *structpb.Value_StructValue:
			if f, ok := fraction(x.StructValue); ok {
				out[key] = f
				continue
			}
			flattenRuntime(key, x.StructValue, out)
		case *structpb.Value_NumberValue:
			out[key] = match.Value{Text: strconv.FormatFloat(x.NumberValue, 'g', -1, 64), Num: x.NumberValue, IsNum: true}
		case *structpb.Value_BoolValue:
			out[key] = match.Value{Text: strconv.FormatBool(x.BoolValue), Bool: x.BoolValue, IsBool: true}
		case *structpb.Value_StringValue:
			out[key] = textValue(x.StringValue)
		}
	}
}

func fraction(s *structpb.Struct) (match.Value, bool) {
	n, ok := s.GetFields()["numerator"]
	if !ok {
		return match.Value{}, false
	}
	den := uint32(100)
	switch s.GetFields()["denominator"].GetStringValue() {
	case "TEN_THOUSAND":
		den = 10000
	case "MILLION":
		den = 1000000
	}
	return match.Value{IsFrac: true, Percent: match.Fraction{Num: uint32(n.GetNumberValue()), Den: den}, Text: s.String()}, true
}

func textValue(s string) match.Value {
	v := match.Value{Text: s}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		v.Num, v.IsNum = f, true
	}
	if s == "true" || s == "false" {
		v.Bool, v.IsBool = s == "true", true
	}
	return v
}
