// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"net/netip"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

// detectAddress asks original_ip_detection_extensions in their order for the client's address: trusted tells that it may make the request an
// internal one. Nobody knowing leaves the peer; ok is false when an extension insists on an address and the request was answered.
func (x *Exchange) detectAddress() (a netip.Addr, trusted, ok bool) {
	for i := range x.ch.h.IPDetection {
		d := &x.ch.h.IPDetection[i]
		found := false
		if d.Custom {
			if a, found = x.addressIn(d.Header); !found && d.RejectStatus != 0 {
				x.ch.hcm.Inc(stats.HCMDownstreamRqRejectedViaIpDetection)
				x.local = localReply{status: d.RejectStatus, details: "rejecting_because_detection_failed"}
				x.to(stReply)
				return a, false, false
			}
			trusted = d.Trusted
		} else {
			a, trusted, found = x.addressInXFF(d)
			if d.AppendXFF {
				x.appendXFF(x.req.Find(httpmsg.IDForwardedFor, 0))
			}
		}
		if found {
			return a, trusted, true
		}
	}
	return netip.Addr{}, false, true
}

// addressIn reads the first field of that name as an address.
func (x *Exchange) addressIn(k httpmsg.Key) (netip.Addr, bool) {
	i := x.req.FindKey(k, 0)
	if i < 0 {
		return netip.Addr{}, false
	}
	return httpmsg.ParseAddr(x.req.Value(i))
}

// addressInXFF reads x-forwarded-for from its right end: the element behind the trusted hops, which is trusted when it is the only one, or, if the
// peer is in a trusted range, the first element that is not (the leftmost one when all are).
func (x *Exchange) addressInXFF(d *snapshot.IPDetection) (a netip.Addr, trusted, ok bool) {
	if len(d.Ranges) == 0 {
		item, n, ok := x.req.ForwardedFor(int(d.Hops))
		if ok {
			a, ok = httpmsg.ParseAddr(item)
		}
		return a, n == 1, ok
	}
	if peer := x.side.Remote.IP; !peer.IsValid() || !within(d.Ranges, peer.Addr()) {
		return a, false, false
	}
	at := x.req.Find(httpmsg.IDForwardedFor, 0) // repeated fields were joined
	if at < 0 {
		return a, false, false
	}
	for list, i := x.req.Value(at), 0; i >= 0; {
		i = bytes.LastIndexByte(list, ',')
		if a, ok = httpmsg.ParseAddr(bytes.TrimSpace(list[i+1:])); !ok {
			return netip.Addr{}, false, false
		}
		if i < 0 || !within(d.Ranges, a) {
			break
		}
		list = list[:i]
	}
	return a, false, true
}

// within tells whether one of the ranges holds a. An IPv4-mapped address in a header is an IPv6 one, as in Envoy; peers come unmapped.
func within(ranges []netip.Prefix, a netip.Addr) bool {
	for _, p := range ranges {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
