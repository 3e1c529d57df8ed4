// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

func TestIPDetection_WhenExtensionsAreAsked_ThenTheFirstThatKnowsDecides(t *testing.T) {
	ranges := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
	custom := snapshot.IPDetection{Custom: true, Header: httpmsg.KeyOf("x-real-ip")}
	trusting := snapshot.IPDetection{Custom: true, Header: httpmsg.KeyOf("x-real-ip"), Trusted: true}
	strict := snapshot.IPDetection{Custom: true, Header: httpmsg.KeyOf("x-real-ip"), RejectStatus: 429}
	const self = "192.0.2.7"
	for _, tc := range []struct {
		name, head string
		list       []snapshot.IPDetection
		want       string // client address, or status of the refusal
		internal   bool
		xff        string
	}{
		{"header", "x-real-ip: 5.5.5.5", []snapshot.IPDetection{custom}, "5.5.5.5", false, ""},
		{"first of two fields", "x-real-ip: 5.5.5.5\r\nx-real-ip: 6.6.6.6", []snapshot.IPDetection{custom}, "5.5.5.5", false, ""},
		{"header with a list", "x-real-ip: 5.5.5.5, 6.6.6.6", []snapshot.IPDetection{custom}, self, false, ""},
		{"header missing", "a: b", []snapshot.IPDetection{custom}, self, false, ""},
		{"internal, but not trusted", "x-real-ip: 10.1.1.1", []snapshot.IPDetection{custom}, "10.1.1.1", false, ""},
		{"internal and trusted", "x-real-ip: 10.1.1.1", []snapshot.IPDetection{trusting}, "10.1.1.1", true, ""},
		{"refused", "x-real-ip: five", []snapshot.IPDetection{strict}, "429", false, ""},
		{"first knows, second would refuse", "x-forwarded-for: 1.1.1.1", []snapshot.IPDetection{{}, strict}, "1.1.1.1", false, "1.1.1.1"},
		{"hops", "x-forwarded-for: 1.1.1.1, 2.2.2.2", []snapshot.IPDetection{{Hops: 1}}, "1.1.1.1", false, "1.1.1.1, 2.2.2.2"},
		{"too few hops", "x-forwarded-for: 1.1.1.1", []snapshot.IPDetection{{Hops: 1}}, self, false, "1.1.1.1"},
		{"one trusted element", "x-forwarded-for: 10.1.1.1", []snapshot.IPDetection{{AppendXFF: true}}, "10.1.1.1", true, "10.1.1.1,192.0.2.7"},
		{"ranges: first that is not trusted", "x-forwarded-for: 1.1.1.1, 2.2.2.2 ,10.1.1.1", []snapshot.IPDetection{{Ranges: ranges}}, "2.2.2.2", false,
			"1.1.1.1, 2.2.2.2 ,10.1.1.1"},
		{"ranges: all trusted", "x-forwarded-for: 10.2.2.2\r\nx-forwarded-for: 10.1.1.1", []snapshot.IPDetection{{Ranges: ranges}}, "10.2.2.2", false,
			"10.2.2.2,10.1.1.1"},
		{"ranges: not an address", "x-forwarded-for: 1.1.1.1, x, 10.1.1.1", []snapshot.IPDetection{{Ranges: ranges}}, self, false, "1.1.1.1, x, 10.1.1.1"},
		{"ranges: none there", "a: b", []snapshot.IPDetection{{Ranges: ranges, AppendXFF: true}}, self, false, "192.0.2.7"},
		{"ranges: peer is not trusted", "x-forwarded-for: 1.1.1.1", []snapshot.IPDetection{{Ranges: ranges[1:]}}, self, false, "1.1.1.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.hcm.IPDetection = tc.list
			r.hcm.InternalRanges = ranges[1:]
			c := r.dial()
			c.write("GET / HTTP/1.1\r\nhost: a\r\n" + tc.head + "\r\n\r\n")
			r.turn()
			u := r.ups[0].accept()
			if u == nil {
				got, _ := c.read()
				r.want("client", got, "HTTP/1.1 "+tc.want)
				if n := r.hcmStat(stats.HCMDownstreamRqRejectedViaIpDetection); n != 1 {
					t.Errorf("downstream_rq_rejected_via_ip_detection is %d", n)
				}
				return
			}
			x := r.server().x
			conn := x.rec.Conn
			if got := conn.Remote.IP.Addr().String(); got != tc.want {
				t.Errorf("client is %s", got)
			}
			if got := x.has(xInternal); got != tc.internal {
				t.Errorf("internal is %v", got)
			}
			if got := string(x.req.Get(httpmsg.IDForwardedFor)); got != tc.xff {
				t.Errorf("x-forwarded-for is %q", got)
			}
		})
	}
}
