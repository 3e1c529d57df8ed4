// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/inspect"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

const bodyLength = httpmsg.BodyLength

// perRoute finds the most specific configuration of a filter: weighted cluster, route, virtual host, table; off tells that it is disabled there.
func perRoute(e *route.Entry, wc *route.WeightedCluster, name string) (cfg any, off bool) {
	var first []route.PerFilter
	if wc != nil {
		first = wc.PerFilter
	}
	levels := [...][]route.PerFilter{first, e.PerFilter, e.VHost.PerFilter, e.VHost.Table.PerFilter}
	for _, l := range levels {
		for i := range l {
			if l[i].Filter == name {
				return l[i].Config, l[i].Disabled
			}
		}
	}
	return nil, false
}

// allowUpgrade settles an upgrade or CONNECT request; false means that it was refused with 403.
func (x *Exchange) allowUpgrade(e *route.Entry) bool {
	req := &x.req
	connect := req.Method == httpmsg.MethodConnect
	if !connect && !req.Upgrade {
		return e == nil || e.Forward == nil || !e.Forward.ConnectPost || req.Method != httpmsg.MethodPost || x.terminatePost()
	}
	kind := []byte("connect")
	if !connect {
		kind = req.Get(httpmsg.IDUpgrade)
	}
	if e == nil {
		if ok, _ := x.upgradeEnabled(nil, kind, connect); ok {
			x.ch.hcm.Inc(stats.HCMDownstreamCxUpgradesTotal) // Envoy has begun one
		}
		x.ch.hcm.Inc(stats.HCMNoRoute)
		x.replyKind(fault.RouteNotFound)
		x.local.close = true
		x.early()
		return false
	}
	ok, terminate := x.upgradeEnabled(e, kind, connect)
	if !ok {
		x.ch.hcm.Inc(stats.HCMDownstreamRqWsOnNonWsRoute)
		x.nameCluster(e)
		x.replyKind(fault.UpgradeFailed)
		return false
	}
	if terminate {
		x.fl |= xTerminate
	}
	x.fl |= xUpgrade | xTunnel
	x.ch.hcm.Inc(stats.HCMDownstreamCxUpgradesTotal)
	x.ch.hcm.Inc(stats.HCMDownstreamCxUpgradesActive)
	// Such a request has no end before the answer: no route timeout, no service time, and a refusal is an early answer.
	x.fl &^= xReqEnd
	x.reqDone = 0
	return true
}

// terminatePost makes a POST a tunnel that ends here (allow_post): its content and that of the answer are the bytes.
func (x *Exchange) terminatePost() bool {
	if x.has(xPrebuf) {
		x.replyKind(fault.UpgradeFailed)
		return false
	}
	x.fl |= xUpgrade | xTerminate
	x.fl &^= xReqEnd
	x.reqDone = 0
	return true
}

// postHTTP1 tells whether the client's end of the tunnel is the content of messages in HTTP/1.
func (x *Exchange) postHTTP1() bool {
	return x.has(xTerminate) && x.reqIn.s == nil && x.req.Method == httpmsg.MethodPost
}

// nameCluster notes the cluster that the route names for a request that does not get there, as Envoy's log has it.
func (x *Exchange) nameCluster(e *route.Entry) {
	if e.Forward == nil {
		return
	}
	if c, ok := e.Forward.Choose(&x.q); ok {
		if row := x.env.Snap.Cluster(c.Ref); row != nil {
			x.rec.Cluster, x.rec.ClusterRaw, x.rec.ClusterMeta = row.StatName, row.Name, row.Metadata
		}
	}
}

// upgradeEnabled looks at the route's upgrade_configs first, then at the connection manager's.
func (x *Exchange) upgradeEnabled(e *route.Entry, kind []byte, connect bool) (ok, terminate bool) {
	if e != nil && e.Forward != nil {
		for i := range e.Forward.Upgrades {
			if u := &e.Forward.Upgrades[i]; equalFold(kind, u.Type) {
				return u.Enabled, u.Enabled && connect && u.Connect
			}
		}
	}
	for i := range x.ch.h.Upgrades {
		if u := &x.ch.h.Upgrades[i]; equalFold(kind, u.Type) {
			return u.Enabled, false
		}
	}
	return false, false
}

// equalFold compares b, in any case, with a lower-case string.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// connectRaw starts the raw connection of a CONNECT that ends here (connect_config).
func (x *Exchange) connectRaw(now sys.Nanos) {
	x.tcp.Init(x.task)
	name := x.req.A.Bytes(x.upName)
	if x.cl.Nameless(x.host, name) {
		x.unhost()
		x.upstreamFailed(now, fault.NoHealthyUpstream)
		return
	}
	k, e := x.cl.ConnectTCP(&x.tcp, x.host, name, x.task)
	if k != fault.None {
		x.errno, x.why = e, x.tcp.Why()
		x.poolFailed(now, k)
		return
	}
	x.to(stWaitPool)
}

// rawAnswer looks at the raw connection; once it is up the client gets its 200 and the tunnel runs.
func (x *Exchange) rawAnswer(now sys.Nanos) bool {
	done, k, e := x.tcp.Poll(now)
	if !done {
		return false
	}
	if k != fault.None {
		x.errno, x.why = e, x.tcp.Why()
		x.poolFailed(now, k)
		return true
	}
	r := &x.rec
	r.UpstreamRemote = x.tcp.C.Remote()
	r.PoolReady = int64(now - x.tryStart)
	a, b := x.tcp.Connected()
	r.UpConnStart, r.UpConnDone = x.since(a), x.since(b)
	x.upstreamTLS(x.tcp.C, true)
	if x.needsLocal() {
		r.UpstreamLocal = x.tcp.C.Local()
	}
	if v := x.entry.Forward.ConnectProxy; v > 0 {
		b := inspect.AppendProxyHeader(x.env.L.Enc(), v, x.side.Remote.IP, x.side.Local.IP)
		x.tcp.C.Send(b, nil)
		x.env.L.SetEnc(b)
	}
	x.resp.Reset(&x.respA)
	x.resp.Status, x.resp.Version = 200, httpmsg.HTTP11
	out := x.toClient()
	x.startTunnel(now, &out)
	x.sent(&out)
	return true
}

// releaseBehind closes the raw connection, if there is one, of a stream that ended first and an upstream that has followed.
func (x *Exchange) releaseBehind() {
	if x.tcp.C != nil {
		x.meterTry()
		x.tcp.EndBehind()
	}
}

// releaseRaw closes the raw connection.
func (x *Exchange) releaseRaw() {
	if x.tcp.C != nil {
		x.meterTry()
		x.tcp.End(x.has(xUpFirst), true)
	}
}
