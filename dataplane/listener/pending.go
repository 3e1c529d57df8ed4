// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net/netip"

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
	home    *Listener // whose slab it is
	next    int       // index of the filter that runs
	hops    int       // listeners visited by use_original_dst
	counted bool      // in downstream_pre_cx_active
	bound   bool      // task and timer are initialised
}

// free gives the place back; nothing refers to it any more.
func (p *pending) free() {
	p.c, p.info, p.member.H = nil, nil, nil
	p.home.pendings.Put(p)
}

// maxHops bounds hand-overs between listeners.
const maxHops = 4

// start runs the filters that need no bytes and arms the deadline if one needs them. A filter without a configuration ends the connection before any
// filter has seen it.
func (p *pending) start() {
	if p.l.Cfg.Missing() {
		p.l.block.Inc(stats.ListenerExtensionConfigMissing)
		p.close()
		return
	}
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

// Drain: nothing was promised to this connection yet; it closes only when insisted on. The protocol asks the listener whether it drains.
func (p *pending) Drain(m conn.DrainMode) {
	if m == conn.DrainNow || m == conn.DrainEnd {
		p.close()
	}
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
	case snapshot.FilterMissing: // since the connection was accepted
		return inspect.Reject
	}
	return inspect.Match
}

func (p *pending) originalDst() {
	local := p.info.DirectLocal
	if p.c.Internal() {
		p.passedDst()
		return
	}
	if local.IsUnix() {
		return
	}
	dst, e := p.l.L.K.OriginalDst(p.c.FD(), local.IP.Addr().Is6())
	if e != 0 || dst == local {
		if p.l.Cfg.Transparent {
			p.info.Own().RequestedDst = local // TPROXY: the socket's own address is the destination
		}
		return // a direct connection
	}
	p.setLocal(dst)
	p.info.Own().RequestedDst = dst
}

// passedDst restores what the client's transport socket passed on for this filter: of an internal connection the only way to have addresses.
func (p *pending) passedDst() {
	meta, _ := p.info.Extra().DynamicMeta["envoy.filters.listener.original_dst"].(map[string]any)
	if dst, ok := passedAddr(meta, "local"); ok {
		p.setLocal(dst)
		p.info.Own().RequestedDst = dst
	}
	if src, ok := passedAddr(meta, "remote"); ok {
		p.info.SetRemote(src)
	}
}

func passedAddr(meta map[string]any, key string) (sys.Addr, bool) {
	text, _ := meta[key].(string)
	a, err := netip.ParseAddrPort(text)
	return sys.AddrOf(a), err == nil
}

// setLocal restores the destination: the connection gets a side of its own.
func (p *pending) setLocal(a sys.Addr) {
	s := *p.info.ConnSide
	s.Local = a
	p.info.ConnSide = &s
}

func (p *pending) proxyProtocol(f *snapshot.ListenerFilter) inspect.Verdict {
	b := f.Scope.Block(p.l.L.Worker() + 1)
	h, v := inspect.ProxyHeader(p.c.In(), true, true)
	v2 := len(p.c.In()) > 0 && p.c.In()[0] == '\r'
	switch v {
	case inspect.NeedMore:
		return v
	case inspect.NoMatch:
		if f.AllowRequestsWithoutProxy {
			b.Inc(stats.ProxyProtocolNotFoundAllowed)
			return inspect.Match
		}
		b.Inc(stats.ProxyProtocolNotFoundDisallowed)
		countError(f, p.l.L.Worker()+1)
		return inspect.Reject
	case inspect.Reject:
		countError(f, p.l.L.Worker()+1)
		b.Inc(pick(v2, stats.ProxyProtocolVersionsV2Error, stats.ProxyProtocolVersionsV1Error))
		return v
	}
	b.Inc(pick(v2, stats.ProxyProtocolVersionsV2Found, stats.ProxyProtocolVersionsV1Found)) // also when it is disallowed
	if v2 && f.DisallowV2 || !v2 && f.DisallowV1 {
		b.Inc(pick(v2, stats.ProxyProtocolVersionsV2Disallowed, stats.ProxyProtocolVersionsV1Disallowed))
		if f.AllowRequestsWithoutProxy {
			return inspect.Match
		}
		return inspect.Reject
	}
	if h.Src.IsValid() {
		p.info.SetRemote(sys.AddrOf(h.Src))
		p.setLocal(sys.AddrOf(h.Dst))
	}
	p.tlvs(f, h.TLVs)
	p.c.Discard(h.Len)
	p.c.BytesIn -= uint64(h.Len) // not bytes of the connection that was proxied
	return inspect.Match
}

// countError counts under Envoy's older name, which has no prefix.
func countError(f *snapshot.ListenerFilter, shard int) {
	if f.ErrScope != nil {
		f.ErrScope.Block(shard).Inc(stats.ProxyProtoErrorTotal)
	}
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
				x := p.info.Own()
				if x.DynamicMeta == nil {
					x.DynamicMeta = map[string]any{}
				}
				ns, _ := x.DynamicMeta[r.Namespace].(map[string]any)
				if ns == nil {
					ns = map[string]any{}
					x.DynamicMeta[r.Namespace] = ns
				}
				ns[r.Key] = string(value)
			}
		}
	}
}

func (p *pending) tlsInspector(f *snapshot.ListenerFilter) inspect.Verdict {
	if p.info.Extra().Transport == "tls" {
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
	x := p.info.Own()
	x.Transport = "tls"
	if len(h.ServerName) > 0 {
		b.Inc(stats.TLSInspectorSniFound)
		x.SNI = string(h.ServerName)
	} else {
		b.Inc(stats.TLSInspectorSniNotFound)
	}
	found := false
	for list := h.ALPN; len(list) > 0; {
		var name []byte
		name, list = inspect.NextProtocol(list)
		x.ALPN = append(x.ALPN, string(name))
		found = true
	}
	b.Inc(pick(found, stats.TLSInspectorAlpnFound, stats.TLSInspectorAlpnNotFound))
	b.Record(stats.TLSInspectorBytesProcessed, uint64(len(p.c.In())))
	return inspect.Match
}

func (p *pending) httpInspector(f *snapshot.ListenerFilter) inspect.Verdict {
	if p.info.Extra().Transport == "tls" {
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
		p.info.Own().ALPN = http10
	case httpmsg.HTTP2:
		b.Inc(stats.HTTPInspectorHTTP2Found)
		p.info.Own().ALPN = h2c
	default:
		b.Inc(stats.HTTPInspectorHttp11Found)
		p.info.Own().ALPN = http11
	}
	return inspect.Match
}

// What http_inspector puts for ALPN; read only.
var http10, http11, h2c = []string{"http/1.0"}, []string{"http/1.1"}, []string{"h2c"}

// handOver finds the listener of the restored destination, then the filter chain, then its protocol.
func (p *pending) handOver() {
	x := p.l
	restored := p.info.Local != p.info.DirectLocal || x.Cfg.Transparent // with TPROXY the socket's own address is the original destination
	if x.Cfg.UseOriginalDst && restored && p.hops < maxHops {
		if to := x.host.ByDestination(p.info.Local); to != nil && to != x {
			p.moveTo(to)
			return
		}
	}
	x.L.Disarm(&p.timer)
	p.uncount()
	ex := p.info.Extra()
	in := snapshot.ChainInput{Dst: p.info.Local.IP, Src: p.info.Remote.IP, DirectSrc: p.info.DirectRemote().IP, SNI: ex.SNI,
		Transport: ex.Transport, ALPN: ex.ALPN}
	fc := x.Cfg.Choose(&in)
	if fc == nil || fc.HTTP == nil && fc.TCP == nil {
		p.noChain(fc)
		return
	}
	p.info.ConnSide = x.side(fc, p.info.ConnSide)
	x.L.Cancel(&p.task)
	x.enter()
	if fc.TLS != nil && !x.host.TLS().Accept(p.c, fc.TLS, fc.ConnectTimeout, p.info, x.block, x.Cfg.TLSStats.Block(x.L.Worker()+1)) {
		x.Cfg.TLSStats.NotReady(x.L.Worker()+1, stats.SSLSocketFactoryDownstreamNotReady)
		p.info.Own().TransportFailure = conn.SecretMissing
		x.exit(p.info.Start)
		p.close()
		return
	}
	x.host.Serve(p.c, x, fc, p.info, &p.member) // p.c stays until it returns: a panic inside closes it through Poison
	p.free()
}

// side adds the filter chain to a connection's side: shared, unless the destination was restored.
func (x *Listener) side(fc *snapshot.FilterChain, was *accesslog.ConnSide) *accesslog.ConnSide {
	if was.Local == was.DirectLocal {
		return x.sides.of(x, fc, was.Local)
	}
	s := newSide(x, fc, was.Local)
	s.DirectLocal = was.DirectLocal
	return s
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
	info := p.member.Info
	p.member.Info = nil // the listener that ends up with it logs it
	p.member.Leave()
	p.member.Info = info
	p.l = to
	p.next = 0
	p.hops++
	p.info.ConnSide = to.side(nil, p.info.ConnSide)
	if !to.admit() {
		p.c.Close()
		p.free()
		return
	}
	to.Members.Join(&p.member)
	p.c.SetLimit(to.Cfg.BufferLimit)
	p.start()
}

// noChain closes a connection that nothing serves, and says so in the listener's log.
func (p *pending) noChain(fc *snapshot.FilterChain) {
	x := p.l
	if fc == nil {
		x.block.Inc(stats.ListenerNoFilterChainMatch)
	} else { // its network filter has no configuration, or it has none; Envoy counts both alike
		x.block.Inc(stats.ListenerNetworkExtensionConfigMissing)
		x.enter()
		x.exit(p.info.Start)
	}
	if len(x.Cfg.AccessLogs) > 0 {
		var f fault.Flags
		details := ""
		if fc == nil {
			f, details = fault.FlagNR, "filter_chain_not_found"
		}
		x.log(p.info, f, details)
	}
	p.member.Info = nil
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
	p.member.Leave()
	p.free()
}
