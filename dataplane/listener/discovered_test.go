// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"testing"

	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

func TestDiscovered_WhenThereIsNoConfiguration_ThenConnectionsAreClosedAndCounted(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) {
		c.Default = &snapshot.FilterChain{Name: "all", DrainKey: 7, Discovered: true}
		c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterMissing, Name: "lf"}}
	})
	x, a := r.listen(cfg, "127.0.0.1:0", false)
	expect := func(what string, served int, missing, network, total int64) {
		t.Helper()
		before := len(r.served)
		c := r.dial(a)
		r.turns()
		if closed := r.closed(c); closed != (served == before) || len(r.served) != served {
			t.Errorf("%s: %d served, closed %v", what, len(r.served), closed)
		}
		for id, want := range map[int]int64{stats.ListenerExtensionConfigMissing: missing, stats.ListenerNetworkExtensionConfigMissing: network,
			stats.ListenerDownstreamCxTotal: total, stats.ListenerDownstreamCxActive: int64(served)} {
			if got := r.count(cfg, id); got != want {
				t.Errorf("%s: %s is %d, want %d", what, stats.ListenerDef.Stats[id].Name, got, want)
			}
		}
	}
	expect("nothing", 0, 1, 0, 0)
	// A listener filter that looks at nothing, then the filter chain: each is a listener that differs in nothing else.
	filters := []snapshot.ListenerFilter{{Kind: snapshot.FilterOriginalDst, Name: "lf"}}
	if gone := x.SetConfig(cfg.With(filters, nil)); gone != nil {
		t.Error("connections are drained")
	}
	expect("without a network filter", 0, 1, 1, 1)
	found := *cfg.Default
	found.Discovered, found.TCP = false, &snapshot.TCPProxy{}
	x.SetConfig(cfg.With(filters, map[*snapshot.FilterChain]*snapshot.FilterChain{cfg.Default: &found}))
	expect("both", 1, 1, 1, 2)
	if r.served[0].fc != &found {
		t.Error("served by another chain")
	}
	if gone := x.SetConfig(cfg); gone != nil {
		t.Error("connections are drained")
	}
	expect("nothing again", 1, 2, 1, 2)
	if r.active != 1 {
		t.Errorf("%d places are taken", r.active)
	}
}
