// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/sys"
	"sidecar/xds/registry"
)

// Address compiles a listening address: TCP over v4 or v6, a Unix path, or an abstract Unix name ("@name"). compat is ipv4_compat; mode is the
// file mode of a Unix path.
func Address(c *registry.Ctx, field registry.Path, a *corev3.Address) (addr sys.Addr, compat bool, mode uint32, err error) {
	switch v := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		sa := v.SocketAddress
		at := field.Field("socket_address")
		if sa.GetProtocol() != corev3.SocketAddress_TCP {
			return addr, false, 0, c.Errorf(at.Field("protocol"), "only TCP is supported")
		}
		if sa.GetNamedPort() != "" {
			return addr, false, 0, c.Errorf(at.Field("named_port"), "named ports need a resolver; use port_value")
		}
		if sa.GetResolverName() != "" {
			return addr, false, 0, c.Errorf(at.Field("resolver_name"), "custom resolvers are not supported")
		}
		if sa.GetNetworkNamespaceFilepath() != "" {
			return addr, false, 0, c.Errorf(at.Field("network_namespace_filepath"), "listening in another network namespace is not supported")
		}
		if sa.GetPortValue() > 65535 {
			return addr, false, 0, c.Errorf(at.Field("port_value"), "value must be less than or equal to 65535")
		}
		ip, perr := netip.ParseAddr(sa.GetAddress())
		if perr != nil {
			return addr, false, 0, c.Errorf(at.Field("address"), "malformed IP address: %s", sa.GetAddress())
		}
		return sys.AddrOf(netip.AddrPortFrom(ip, uint16(sa.GetPortValue()))), sa.GetIpv4Compat(), 0, nil
	case *corev3.Address_Pipe:
		p := v.Pipe.GetPath()
		if p == "" {
			return addr, false, 0, c.Errorf(field.Field("pipe").Field("path"), "must not be empty")
		}
		if len(p) > 107 {
			return addr, false, 0, c.Errorf(field.Field("pipe").Field("path"), "Path \"%s\" exceeds maximum UNIX domain socket path size of 108.", p)
		}
		if p[0] == 0 {
			p = "@" + p[1:]
		}
		return sys.Addr{Path: p}, false, v.Pipe.GetMode(), nil
	case *corev3.Address_EnvoyInternalAddress:
		return addr, false, 0, c.Errorf(field.Field("envoy_internal_address"), "%w: internal listeners", registry.ErrLater)
	}
	return addr, false, 0, c.Errorf(field, "an address is required")
}
