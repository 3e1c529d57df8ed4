// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/sys"
	"sidecar/xds/compile/endpoint"
	"sidecar/xds/registry"
)

// bind compiles upstream_bind_config (the cluster's own, or the cluster manager's) and upstream_connection_options.
func (s *state) bind() {
	d := &s.out.Dial
	d.NoDelay = true
	if k := s.cl.GetUpstreamConnectionOptions().GetTcpKeepalive(); k != nil {
		d.KeepAlive = true
		d.KeepCnt = int(k.GetKeepaliveProbes().GetValue())
		d.KeepIdle = int(k.GetKeepaliveTime().GetValue())
		d.KeepIntvl = int(k.GetKeepaliveInterval().GetValue())
	}
	b, at := s.cl.GetUpstreamBindConfig(), registry.Path("upstream_bind_config")
	if b == nil {
		b, at = s.env.DefaultBind, "cluster_manager.upstream_bind_config"
	}
	if b == nil {
		return
	}
	d.FreeBind = b.GetFreebind().GetValue()
	d.Opts = s.sockOpts(b.GetSocketOptions(), at)
	s.sources(b, at)
}

// sources sets the source address of each family. An address of the other family is bound all the same when there is only one, and connecting
// fails then, as in Envoy.
func (s *state) sources(b *corev3.BindConfig, at registry.Path) {
	var list []sys.Addr
	add := func(sa *corev3.SocketAddress, at registry.Path) {
		a, err := endpoint.SocketAddress(sa, s.c.Path.Join(at))
		if err != nil {
			s.fail(err)
			return
		}
		list = append(list, a)
	}
	more := len(b.GetExtraSourceAddresses()) + len(b.GetAdditionalSourceAddresses())
	switch {
	case b.GetSourceAddress() == nil && more > 0:
		s.failf(at, "extra source addresses cannot be given without source_address")
		return
	case len(b.GetExtraSourceAddresses()) > 0 && len(b.GetAdditionalSourceAddresses()) > 0:
		s.failf(at, "extra_source_addresses and additional_source_addresses exclude each other")
		return
	case more > 1:
		s.failf(at, "only one extra source address, of the other IP version, is supported")
		return
	case b.GetSourceAddress() == nil:
		return
	}
	add(b.GetSourceAddress(), at.Field("source_address"))
	for i, e := range b.GetExtraSourceAddresses() {
		add(e.GetAddress(), at.Index("extra_source_addresses", i).Field("address"))
	}
	for i, e := range b.GetAdditionalSourceAddresses() {
		add(e, at.Index("additional_source_addresses", i))
	}
	if len(list) != 1+more {
		return
	}
	d := &s.out.Dial
	d.Bind = list[0]
	if more == 0 {
		return
	}
	v4 := func(a sys.Addr) bool { return a.IP.Addr().Is4() }
	if v4(list[0]) == v4(list[1]) {
		s.failf(at, "two source addresses have the same IP version")
		return
	}
	six := *d
	if v4(list[0]) {
		six.Bind = list[1]
	} else {
		d.Bind = list[1]
	}
	s.out.DialV6 = &six
}

func (s *state) sockOpts(list []*corev3.SocketOption, at registry.Path) []sys.SockOpt {
	var out []sys.SockOpt
	for i, o := range list {
		so := sys.SockOpt{Level: int(o.GetLevel()), Name: int(o.GetName())}
		switch v := o.GetValue().(type) {
		case *corev3.SocketOption_IntValue:
			so.Int = int(v.IntValue)
		case *corev3.SocketOption_BufValue:
			so.Buf = append([]byte{}, v.BufValue...)
		default:
			s.failf(at.Index("socket_options", i), "needs int_value or buf_value")
			continue
		}
		out = append(out, so)
	}
	return out
}
