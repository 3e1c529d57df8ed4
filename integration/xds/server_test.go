// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
)

// TestServer_WhenARealOneMovesEverything_ThenEachVersionTakesEffectWithoutLoss runs against go-control-plane's own server and snapshot cache, which
// stays silent unless a request names all resources of the snapshot.
func TestServer_WhenARealOneMovesEverything_ThenEachVersionTakesEffectWithoutLoss(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		for _, ordered := range []bool{false, true} {
			if delta && ordered {
				continue // SotW only
			}
			t.Run(fmt.Sprintf("ordered=%v", ordered), func(t *testing.T) {
				s, err := testctl.NewServer(testctl.Config{Ordered: ordered})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				a, b := newBackend(t, "A"), newBackend(t, "B")
				p1, p2 := port(t), port(t)
				set := func(v int, back *backend) {
					t.Helper()
					r := testctl.Resources{Listeners: []types.Resource{rdsListener("l", p1, "r", 0), inlineListener(fmt.Sprintf("m%d", v), p2, fmt.Sprintf("c%d", v))},
						Routes: []types.Resource{routes("r", fmt.Sprintf("c%d", v))}}
					for i := v; i < v+50; i++ {
						c := edsCluster(fmt.Sprintf("c%d", i), 0)
						c.ConnectTimeout = durationpb.New(time.Second + time.Duration(v))
						r.Clusters = append(r.Clusters, c)
						r.Endpoints = append(r.Endpoints, assignment(c.Name, back.port))
					}
					if err := s.Set("t", fmt.Sprint(v), r); err != nil {
						t.Fatal(err)
					}
				}
				set(0, a)
				x := start(t, options{ctl: s.Addr(), delta: delta})
				c, m := newClient(t, p1), newClient(t, p2)
				m.http.Transport = &oneShot // its listener is another one in every version
				c.answers(t, 200, "A")
				m.answers(t, 200, "A")
				l := newLoad(t, p1, 2, false, time.Millisecond, good)
				for v := 1; v <= 20; v++ {
					back := a
					if v%2 == 1 {
						back = b
					}
					set(v, back)
					c.answers(t, 200, back.name)
					m.answers(t, 200, back.name)
				}
				l.stop(t)
				x.wants(map[string]int64{"cluster_manager.active_clusters": 51, "cluster_manager.warming_clusters": 0, "listener_manager.total_listeners_active": 2,
					"cluster_manager.cds.update_rejected": 0, "listener_manager.lds.update_rejected": 0})
				for _, r := range s.Requests() {
					if r.Nacked {
						t.Errorf("NACK: %s", r.Error)
					}
				}
			})
		}
	})
}
