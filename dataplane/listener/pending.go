// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/inspect"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// pending is a connection between accept and its protocol: listener filters look at its first bytes in place, then the filter chain is chosen.
// It lives until the hand-over; the protocol gets the bytes as unread input.
type pending struct {
	// Worker
	task    loop.Task
	timer   loop.Timer
	member  conn.Member
	l       *Listener
	c       *conn.Conn
	info    *accesslog.ConnInfo
	next    int // index of the filter that runs
	hops    int // listeners visited by use_original_dst
	counted bool
	drain   bool
}

// maxHops bounds hand-overs between listeners.
const maxHops = 4

// start runs the filters that need no bytes and arms the deadline if one needs them.
func (p *pending) start() {
	if !p.run() {
		if !p.counted {
			p.counted = true
			p.l.block.Inc(stats.ListenerDownstreamPreCxActive)
		}
		if t := p.l.Cfg.FiltersTimeout; t > 0 {
			p.l.L.Arm(&p.timer, p.l.L.Now()+t)
		}
	}
}

// Chain is not known yet.
func (p *pending) Chain() *snapshot.FilterChain { return nil }

// Drain: nothing was promised to this connection yet; it is only remembered, or closed when insisted on.
func (p *pending) Drain(m conn.DrainMode) {
	if m == conn.DrainNow {
		p.close()
		return
	}
	p.drain = true
}

// Poison closes the connection after a contained panic.
func (p *pending) Poison(any) { p.close() }

// Advance goes on with the filters.
func (p *pending) Advance(sys.Nanos) loop.Step {
	if p.c == nil {
		return loop.Done
	}
	if p.timer.Fired() {
		p.l.block.Inc(stats.ListenerDownstreamPreCxTimeout)
		if !p.l.Cfg.ContinueOnTimeout {
			p.close()
			return loop.Done
		}
		p.next = len(p.l.Cfg.Filters)
	}
	p.run()
	return loop.Idle
}

// run goes through the filters; true means that the connection was handed over or closed.
func (p *pending) run() bool {
	for p.next < len(p.l.Cfg.Filters) {
		f := &p.l.Cfg.Filters[p.next]
		if f.Disabled != nil && f.Disabled.Eval(p.info.Local.IP.Port()) {
			p.next++
			continue
		}
		switch p.filter(f) {
		case inspect.NeedMore:
			switch p.c.Fill() {
			case conn.More:
				continue
			case conn.EOF, conn.Failed:
				p.l.block.Inc(stats.ListenerDownstreamListenerFilterRemoteClose)
				p.close()
				return true
			}
			return false
		case inspect.Reject:
			p.l.block.Inc(stats.ListenerDownstreamListenerFilterError)
			p.close()
			return true
		}
		p.next++
	}
	p.handOver()
	return true
}

func (p *pending) filter(f *snapshot.ListenerFilter) inspect.Verdict {
	switch f.Kind {
	case snapshot.FilterOriginalDst:
		p.originalDst()
		return inspect.Match
	case snapshot.FilterProxyProtocol:
		return p.proxyProtocol(f)
	case snapshot.FilterTLSInspector:
		return p.tlsInspector(f)
	case snapshot.FilterHTTPInspector:
		return p.httpInspector(f)
	}
	return inspect.Match
}

func (p *pending) originalDst() {
	local := p.info.DirectLocal
	if local.IsUnix() {
		return
	}
	dst, e := p.l.L.K.OriginalDst(p.c.FD(), local.IP.Addr().Is6())
	if e != 0 || dst == local {
		return // TPROXY and direct connections: the socket's own address is the destination
	}
	p.info.Local, p.info.RequestedDst = dst, dst
}

func (p *pending) proxyProtocol(f *snapshot.ListenerFilter) inspect.Verdict {
	b := f.Scope.Block(p.l.L.Worker() + 1)
	h, v := inspect.ProxyHeader(p.c.In(), true, true)
	v2 := h.Version == 2
	switch v {
	case inspect.NeedMore:
		return v
	case inspect.NoMatch:
		if f.AllowRequestsWithoutProxy {
			b.Inc(stats.ProxyProtocolNotFoundAllowed)
			return inspect.Match
		}
		b.Inc(stats.ProxyProtocolNotFoundDisallowed)
		return inspect.Reject
	case inspect.Reject:
		b.Inc(pick(v2, stats.ProxyProtocolVersionsV2Error, stats.ProxyProtocolVersionsV1Error))
		return v
	}
	if v2 && f.DisallowV2 || !v2 && f.DisallowV1 {
		b.Inc(pick(v2, stats.ProxyProtocolVersionsV2Disallowed, stats.ProxyProtocolVersionsV1Disallowed))
		if f.AllowRequestsWithoutProxy {
			return inspect.Match
		}
		return inspect.Reject
	}
	b.Inc(pick(v2, stats.ProxyProtocolVersionsV2Found, stats.ProxyProtocolVersionsV1Found))
	if h.Src.IsValid() {
		p.info.Remote = sys.AddrOf(h.Src)
		p.info.Local = sys.AddrOf(h.Dst)
	}
	p.tlvs(f, h.TLVs)
	p.c.Discard(h.Len)
	return inspect.Match
}

func pick(first bool, a, b int) int {
	if first {
		return a
	}
	return b
}

func (p *pending) tlvs(f *snapshot.ListenerFilter, list []byte) {
	if len(f.Rules) == 0 {
		return
	}
	for {
		typ, value, rest, ok := inspect.NextTLV(list)
		if !ok {
			return
		}
		list = rest
		for i := range f.Rules {
			if r := &f.Rules[i]; r.Type == typ {
				if p.info.DynamicMeta == nil {
					p.info.DynamicMeta = map[string]any{}
				}
				ns, _ := p.info.DynamicMeta[r.Namespace].(map[string]any)
				if ns == nil {
					ns = map[string]any{}
					p.info.DynamicMeta[r.Namespace] = ns
				}
				ns[r.Key] = string(value)
			}
		}
	}
}

func (p *pending) tlsInspector(f *snapshot.ListenerFilter) inspect.Verdict {
	if p.info.SNI != "" || p.info.Transport == "tls" {
		return inspect.Match
	}
	var mem [inspect.HelloMem]byte
	h, v := inspect.ClientHello(p.c.In(), inspect.MaxClientHello, mem[:])
	if v == inspect.NeedMore {
		return v
	}
	b := f.Scope.Block(p.l.L.Worker() + 1)
	if v != inspect.Match {
		// Not TLS, or not a ClientHello that can be read: the connection goes on as plain bytes, as Envoy's does.
		b.Inc(stats.TLSInspectorTlsNotFound)
		return inspect.Match
	}
	b.Inc(stats.TLSInspectorTlsFound)
	p.info.Transport = "tls"
	if len(h.ServerName) > 0 {
		b.Inc(stats.TLSInspectorSniFound)
		p.info.SNI = string(h.ServerName)
	} else {
		b.Inc(stats.TLSInspectorSniNotFound)
	}
	found := false
	for list := h.ALPN; len(list) > 0; {
		var name []byte
		name, list = inspect.NextProtocol(list)
		p.info.ALPN = append(p.info.ALPN, string(name))
		found = true
	}
	b.Inc(pick(found, stats.TLSInspectorAlpnFound, stats.TLSInspectorAlpnNotFound))
	b.Record(stats.TLSInspectorBytesProcessed, uint64(len(p.c.In())))
	return inspect.Match
}

func (p *pending) httpInspector(f *snapshot.ListenerFilter) inspect.Verdict {
	if p.info.Transport == "tls" {
		return inspect.Match // Envoy inspects plain connections only
	}
	version, v := inspect.HTTP(p.c.In())
	if v == inspect.NeedMore {
		return v
	}
	b := f.Scope.Block(p.l.L.Worker() + 1)
	if v != inspect.Match {
		b.Inc(stats.HTTPInspectorHttpNotFound)
		return inspect.Match
	}
	switch version {
	case httpmsg.HTTP10:
		b.Inc(stats.HTTPInspectorHttp10Found)
		p.info.ALPN = []string{"http/1.0"}
	case httpmsg.HTTP2:
		b.Inc(stats.HTTPInspectorHTTP2Found)
		p.info.ALPN = []string{"h2c"}
	default:
		b.Inc(stats.HTTPInspectorHttp11Found)
		p.info.ALPN = []string{"http/1.1"}
	}
	return inspect.Match
}

// handOver finds the listener of the restored destination, then the filter chain, then its protocol.
func (p *pending) handOver() {
	x := p.l
	if p.info.RequestedDst != (sys.Addr{}) && x.Cfg.UseOriginalDst || x.Cfg.UseOriginalDst && p.info.Local != p.info.DirectLocal || x.Cfg.UseOriginalDst && x.Cfg.Transparent {
		if to := x.host.ByDestination(p.info.Local); to != nil && to != x && p.hops < maxHops {
			p.moveTo(to)
			return
		}
	}
	x.L.Disarm(&p.timer)
	p.uncount()
	in := snapshot.ChainInput{Dst: p.info.Local.IP, Src: p.info.Remote.IP, DirectSrc: p.info.DirectRemote.IP, SNI: p.info.SNI,
		Transport: p.info.Transport, ALPN: p.info.ALPN}
	fc := x.Cfg.Choose(&in)
	if fc == nil || fc.HTTP == nil && fc.TCP == nil {
		p.noChain(fc)
		return
	}
	p.info.FilterChain = fc.Name
	c := p.c
	p.c = nil
	x.L.Cancel(&p.task)
	x.host.Serve(c, x, fc, p.info, &p.member)
}

func (p *pending) uncount() {
	if p.counted {
		p.counted = false
		p.l.block.Dec(stats.ListenerDownstreamPreCxActive)
	}
}

// moveTo hands the connection to another listener of this worker (use_original_dst): it leaves the books of the first and runs the filters of the
// second.
func (p *pending) moveTo(to *Listener) {
	p.uncount()
	p.l.L.Disarm(&p.timer)
	p.member.Leave()
	p.l = to
	p.next = 0
	p.hops++
	p.info.Listener = to.Cfg.Name
	to.block.Inc(stats.ListenerDownstreamCxTotal)
	if to.perW != nil {
		to.perW.Inc(stats.ListenerWorkerDownstreamCxTotal)
	}
	if !to.admit() {
		c := p.c
		p.c = nil
		c.Close()
		return
	}
	to.enter()
	to.Members.Join(&p.member)
	p.c.SetLimit(to.Cfg.BufferLimit)
	p.start()
}

// noChain closes a connection that nothing serves, and says so in the listener's log.
func (p *pending) noChain(fc *snapshot.FilterChain) {
	x := p.l
	if fc == nil {
		x.block.Inc(stats.ListenerNoFilterChainMatch)
	}
	if len(x.Cfg.AccessLogs) > 0 {
		var r accesslog.Record
		r.Reset()
		r.Conn, r.Start, r.End = p.info, p.info.Start, x.L.Wall()-p.info.Start
		r.Type = accesslog.TCPConnectionEnd
		if fc == nil {
			r.Flags = fault.FlagNR
			r.Details = "filter_chain_not_found"
		}
		x.host.Log(x.Cfg.AccessLogs, &r)
	}
	p.close()
}

func (p *pending) close() {
	if p.c == nil {
		return
	}
	p.uncount()
	p.l.L.Disarm(&p.timer)
	p.l.L.Cancel(&p.task)
	p.c.Close()
	p.c = nil
	p.member.Leave()
}
