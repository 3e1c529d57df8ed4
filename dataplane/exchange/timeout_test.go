// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

func TestGrpcTimeout_WhenTheNumberIsTooLong_ThenTheUnitGrows(t *testing.T) {
	for ms, want := range map[uint64]string{
		0: "0m", 150: "150m", 99_999_999: "99999999m", 100_000_000: "100000S", 99_999_999_999: "99999999S", 100_000_000_000: "1666666M",
		6_000_000_000_000: "1666666H", 1 << 62: "99999999H",
	} {
		if got := string(appendGrpcTimeout(nil, ms)); got != want {
			t.Errorf("%d ms: %q, want %q", ms, got, want)
		}
	}
}

func TestMaxStreamDuration_WhenTheUpstreamDoesNotAnswerInTime_ThenTheTryEnds(t *testing.T) {
	for _, answered := range []bool{false, true} {
		r := newRig(t, 1)
		c := r.dial()
		c.write("GET / HTTP/1.1\r\nhost: a\r\nx-envoy-upstream-stream-duration-ms: 100\r\n\r\n")
		r.turn()
		up := r.ups[0].accept()
		r.turn()
		if got, _ := up.read(); strings.Contains(got, "stream-duration") {
			t.Errorf("the upstream sees %q", got)
		}
		if answered {
			up.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
			r.turn()
		}
		r.wait(101 * sys.Millisecond)
		got, _ := c.read()
		if answered {
			r.want("client", got, "200 OK", "\r\n\r\nhalf")
		} else {
			r.want("client", got, "504 Gateway Timeout", "\r\n\r\nupstream max stream duration reached")
		}
		if n := r.clusterStat(stats.ClusterUpstreamRqMaxDurationReached); n != 1 {
			t.Errorf("answered %v: max_duration_reached %d", answered, n)
		}
		if n := r.clusterStat(stats.ClusterUpstreamCxActive); n != 0 {
			t.Errorf("answered %v: the upstream connection stays", answered)
		}
		c.close()
		r.turn()
		r.check()
	}
}

func TestMaxAge_WhenThereIsJitter_ThenConnectionsLiveUpToThatMuchLonger(t *testing.T) {
	const d, j, n = 100 * sys.Second, 10 * sys.Second, 1000
	r := newRig(t, 0)
	r.publish()
	r.hcm.MaxConnDuration, r.hcm.MaxConnJitter = d, j
	ch := r.env.chainOf(r.lis, r.fc)
	defer ch.release()
	var tenths [10]int
	for id := range uint64(n) {
		info := r.connInfo()
		info.ID = id
		more := ch.maxAge(info) - r.l.Now() - d
		if more < 0 || more >= j {
			t.Fatalf("connection %d lives %v longer", id, more)
		}
		if ch.maxAge(info)-r.l.Now()-d != more {
			t.Fatal("asked twice it is another age")
		}
		r.hcm.DrainTimeout, r.hcm.DrainJitter = sys.Second, j
		if ch.drainTime(info) != sys.Second+more {
			t.Fatal("draining has another share")
		}
		tenths[more*10/j]++
	}
	for i, got := range tenths {
		if got < n/20 || got > n/5 {
			t.Errorf("%d of %d live %d to %d tenths of the jitter longer", got, n, i, i+1)
		}
	}
}
