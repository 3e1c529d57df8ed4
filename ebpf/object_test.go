// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"regexp"
	"slices"
	"testing"

	cebpf "github.com/cilium/ebpf"
)

// The committed object is checked without loading it, so everywhere.
func TestObject_WhenRead_ThenItFitsTheGoSide(t *testing.T) {
	spec, err := loadSteer()
	must(t, "loadSteer", err)
	for name, want := range map[string]cebpf.MapSpec{
		"load":  {Type: cebpf.Array, KeySize: 4, ValueSize: 128, MaxEntries: MaxWorkers, Flags: 1 << 10},
		"socks": {Type: cebpf.ReusePortSockArray, KeySize: 4, ValueSize: 8, MaxEntries: MaxWorkers},
		"stats": {Type: cebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 6},
	} {
		m := spec.Maps[name]
		if m == nil || m.Type != want.Type || m.KeySize != want.KeySize || m.ValueSize != want.ValueSize ||
			m.MaxEntries != want.MaxEntries || m.Flags != want.Flags {
			t.Errorf("map %s: %+v, want %+v", name, m, want)
		}
	}
	for name, want := range map[string]cebpf.AttachType{
		"steer_migrate": cebpf.AttachSkReuseportSelectOrMigrate,
		"steer_select":  cebpf.AttachSkReuseportSelect,
	} {
		p := spec.Programs[name]
		if p == nil || p.Type != cebpf.SkReuseport || p.AttachType != want || p.License != "Dual BSD/GPL" {
			t.Errorf("program %s: %+v", name, p)
		}
	}
	for _, name := range []string{"nworkers", "backlog", "stall_ns"} {
		if v := spec.Variables[name]; v == nil || !v.Constant() {
			t.Errorf("variable %s is not a constant", name)
		}
	}
}

var absolute = regexp.MustCompile(`\x00/[a-zA-Z0-9_.-]+/[a-zA-Z0-9_./-]*`)

func TestObject_WhenCommitted_ThenItNamesNoMachine(t *testing.T) {
	for name, object := range map[string][]byte{"steer": _SteerBytes, "probe": _ProbeBytes} {
		if path := absolute.Find(object); path != nil {
			t.Errorf("%s: path %q", name, path)
		}
	}
	if !slices.Equal(modeNames[:], []string{"ebpf", "ebpf_select", "incoming_cpu", "classic_bpf", "plain"}) {
		t.Error("mode names are part of the admin interface")
	}
}
