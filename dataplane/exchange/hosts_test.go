// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

func TestReconcile_WhenHostsAndClustersChange_ThenPoolsFollow(t *testing.T) {
	r := newRig(t, 2)
	r.row = r.cluster("c", r.ups[0].Addr)
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	c.read()

	// The host is replaced: its idle connection goes, the next request uses the new one.
	spec := lb.Default(lb.RoundRobin)
	row := *r.row
	row.Hosts = spec.Build(row.Hosts, hostset.Input{Localities: []hostset.LocalityInput{{Endpoints: []hostset.Endpoint{{Addr: r.ups[1].Addr}}}}})
	r.rowOf["c"], r.row = &row, &row
	r.publish()
	r.wait(100 * sys.Millisecond)
	if _, eof := u.read(); !eof {
		t.Error("the connection to the removed host is still open")
	}
	c.write(get)
	r.turn()
	u2 := r.ups[1].accept()
	if u2 == nil {
		t.Fatal("the new host was not used")
	}
	u2.read()

	// The cluster changes while the request is in flight: the request ends well, then its connection goes.
	cfg := *row.ClusterConfig
	next := row
	next.ClusterConfig = &cfg
	r.rowOf["c"], r.row = &next, &next
	r.publish()
	u2.write(ok3)
	r.turn()
	got, _ := c.read()
	r.want("client", got, "200 OK")
	if _, eof := u2.read(); !eof {
		t.Error("the connection of the replaced cluster is still open")
	}

	// The cluster goes: 503 NC.
	b := snapshot.NewBuilder(r.env.Snap, r.in)
	b.SetCluster(next.Ref, nil)
	s := b.Freeze()
	r.env.Up.Reconcile(r.env.Snap, s)
	r.env.Snap = s
	c.write(get)
	r.turn()
	got, _ = c.read()
	r.want("client", got, "503 Service Unavailable", "content-length: 0\r\n")
	if l := r.log[len(r.log)-1]; !strings.HasPrefix(l, "503 NC cluster_not_found") {
		t.Errorf("log %q", l)
	}
	r.wait(10 * sys.Second)
	r.check()
}

func TestOriginalDst_WhenDestinationsVary_ThenHostsOnDemandAndCleanedUp(t *testing.T) {
	r := newRig(t, 1)
	row := *r.cluster("c")
	cfg := *row.ClusterConfig
	cfg.Type, cfg.CleanupInterval = snapshot.ClusterOriginalDst, sys.Second
	cfg.OrigDst = &snapshot.OriginalDst{}
	row.ClusterConfig = &cfg
	r.rowOf["c"], r.row = &row, &row
	r.publish()
	c := r.dial()
	info := r.server().Place.Info
	side := *info.ConnSide
	side.Local = r.ups[0].Addr // where the client meant to go
	info.ConnSide = &side
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "200 OK")
	r.wait(3 * sys.Second)
	if _, eof := u.read(); !eof {
		t.Error("the on-demand host was not cleaned up")
	}
	r.check()
}

func TestPool_WhenThereAreTooManyPools_ThenNoHealthyUpstream(t *testing.T) {
	r := newRig(t, 1)
	r.logs("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST%")
	r.row.Breakers[0].MaxPools = 0
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: x.test\r\n\r\n")
	r.turn()
	if want := "503 UH no_healthy_upstream -"; len(r.log) != 1 || r.log[0] != want {
		t.Errorf("log %q, want %q", r.log, want)
	}
	for id, want := range map[int]int64{stats.ClusterUpstreamCxPoolOverflow: 1, stats.ClusterUpstreamCxNoneHealthy: 0} {
		if v := r.clusterStat(id); v != want {
			t.Errorf("counter %d is %d, want %d", id, v, want)
		}
	}
	r.check()
}
