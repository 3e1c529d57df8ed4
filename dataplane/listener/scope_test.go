// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"testing"

	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

func TestSetConfig_WhenTheStatisticsMove_ThenLiveConnectionsMoveWithThem(t *testing.T) {
	r := newRig(t)
	old := r.config("old", nil)
	x, a := r.listen(old, "127.0.0.1:0", false)
	r.dial(a)
	r.turns()
	next := r.config("new", func(c *snapshot.Listener) { c.MaxConns = 2 }) // another address: other names
	x.SetConfig(next)
	if n, m := r.count(old, stats.ListenerDownstreamCxActive), r.count(next, stats.ListenerDownstreamCxActive); n != 0 || m != 1 {
		t.Errorf("%d active in the old scope, %d in the new one", n, m)
	}
	r.served[0].close()
	if n := r.count(next, stats.ListenerDownstreamCxActive); n != 0 {
		t.Errorf("%d active at the end", n)
	}
	r.dial(a)
	r.turns()
	if len(r.served) != 2 {
		t.Error("a negative count refuses connections")
	}
}
