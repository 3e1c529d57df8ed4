// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

func TestMirror_WhenTheClusterSpeaksHTTP2_ThenTheCopyIsAStream(t *testing.T) {
	r := newRig(t, 1)
	b := newBackend(t)
	row := r.cluster("m", b.Addr)
	row.Protocol = snapshot.UpstreamHTTP2
	f := *r.route().Forward
	f.Mirrors = []route.Mirror{{Cluster: row.Ref}}
	r.route().Forward = &f
	c := r.dial()
	ask := func() {
		c.write("POST /p HTTP/1.1\r\nhost: x.test\r\ncontent-length: 5\r\n\r\nhello")
		r.turn()
	}
	ask()
	u := r.ups[0].accept()
	r.ups = append(r.ups, b)
	r.ups[0], r.ups[1] = r.ups[1], r.ups[0]
	m := r.acceptH2()
	got, _ := m.frames()
	if !strings.HasPrefix(got, "1 HEADERS :method=POST ") || !strings.HasSuffix(got, "\n1 DATA end hello") {
		t.Fatal(got)
	}
	m.headers(1, false, ":status", "204")
	m.data(1, "", true)
	m.send()
	u.read()
	u.write(ok3)
	r.turn()
	c.read()
	ask()
	if got, _ := m.frames(); !strings.HasPrefix(got, "3 HEADERS :method=POST ") {
		t.Fatal(got)
	}
	must(t, m.fr.WriteRSTStream(3, xh2.ErrCodeInternal))
	m.send()
	u.read()
	u.write(ok3)
	r.turn()
	if n := r.env.shadows.Live(); n != 0 {
		t.Errorf("%d mirrored requests are in flight", n)
	}
	if n := r.stat(stats.ClusterDef, "cluster.m.", stats.ClusterUpstreamRqRxReset); n != 1 {
		t.Errorf("upstream_rq_rx_reset is %d", n)
	}
	if n := r.stat(stats.ClusterDef, "cluster.m.", stats.ClusterUpstreamRqActive); n != 0 {
		t.Errorf("upstream_rq_active is %d", n)
	}
	r.check()
}
