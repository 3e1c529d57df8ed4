// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// newDemandRig is a rig whose proxy asks for its cluster; what it asks for comes by the channel.
func newDemandRig(t *testing.T, wait sys.Nanos) (*rig, chan filter.Demand) {
	asked := make(chan filter.Demand, 8)
	r := newRig(t, func(p *snapshot.TCPProxy) { p.OnDemand = &filter.ClusterSource{Wait: wait} })
	r.fc.TCP.DemandScope = r.reg.Scope("tcp.t.", stats.TCPDemandDef)
	r.env.Ask = func(d filter.Demand) bool {
		asked <- d
		return true
	}
	return r, asked
}

// demands checks the four counters, in the order of their names, and that nobody waits any more.
func (r *rig) demands(want [4]int64) {
	r.t.Helper()
	r.empty()
	var got [4]int64
	r.call(func() {
		for i := range got {
			got[i] = r.fc.TCP.DemandScope.Block(1).Load(i)
		}
		if n := r.env.demands.Len(); n != 0 {
			r.t.Errorf("%d still held", n)
		}
	})
	if got != want {
		r.t.Errorf("attempt, missing, success, timeout: %v, want %v", got, want)
	}
}

const noCluster = "TcpConnectionEnd NC rx=0 tx=0 att=0 local=tcp_initializion_failure:3 detected=Normal/Normal fail=-"

func TestDemand_WhenTheClusterIsFound_ThenAllThatWaitForItGoOn(t *testing.T) {
	r, asked := newDemandRig(t, 60*sys.Second)
	r.start()
	a, b := r.dial(), r.dial()
	if d := <-asked; d.Name != "c" || len(asked) != 0 {
		t.Fatalf("asked for %v and %d more", d, len(asked))
	}
	_, _ = a.Write([]byte("early"))
	_ = a.CloseWrite()
	addr := r.backend(echo)
	r.call(func() {
		r.b = snapshot.NewBuilder(r.env.Snap, r.in)
		r.cluster("c", 1<<20, unlimited, addr)
		r.env.Snap = r.b.Freeze()
		r.env.Answered(filter.Demand{Clusters: r.fc.TCP.OnDemand, Name: "c"})
	})
	if got := readAll(t, a); got != "early" {
		t.Errorf("got %q", got)
	}
	_ = b.CloseWrite()
	if got := readAll(t, b); got != "" {
		t.Errorf("got %q", got)
	}
	r.demands([4]int64{2, 0, 2, 0})
}

func TestDemand_WhenThereIsNoCluster_ThenTheConnectionIsClosed(t *testing.T) {
	for _, x := range []struct {
		name string
		wait sys.Nanos
		then func(r *rig)
		want [4]int64
		log  string
	}{
		{"missing", 60 * sys.Second, func(r *rig) { r.env.Answered(filter.Demand{Clusters: r.fc.TCP.OnDemand, Name: "c"}) }, [4]int64{1, 1, 0, 0}, noCluster},
		{"late", 10 * sys.Millisecond, func(*rig) {}, [4]int64{1, 0, 0, 1}, noCluster},
		{"no time at all", 0, func(*rig) {}, [4]int64{1, 0, 0, 1}, noCluster},
		{"drained", 60 * sys.Second, func(r *rig) { r.left.Each(func(m *conn.Member) { m.H.Drain(conn.DrainNow) }) }, [4]int64{1, 0, 0, 0}, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			r, asked := newDemandRig(t, x.wait)
			r.start()
			c := r.dial()
			<-asked
			r.call(func() { x.then(r) })
			if got := readAll(t, c); got != "" {
				t.Errorf("got %q", got)
			}
			if got := r.log(1); x.log != "" && got != x.log {
				t.Errorf("log %q", got)
			}
			r.demands(x.want)
		})
	}
}

func TestDemand_WhenNobodyCanBeAsked_ThenTheConnectionIsClosed(t *testing.T) {
	r, _ := newDemandRig(t, 60*sys.Second)
	r.env.Ask = func(filter.Demand) bool { return false }
	r.start()
	if got := readAll(t, r.dial()); got != "" {
		t.Errorf("got %q", got)
	}
	if got := r.log(1); got != noCluster {
		t.Errorf("log %q", got)
	}
	r.demands([4]int64{1, 0, 0, 0})
}
