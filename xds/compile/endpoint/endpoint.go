// SPDX-License-Identifier: Apache-2.0

// Package endpoint compiles load assignments (EDS, static, DNS) to plain host set input.
package endpoint

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/sys"
	"sidecar/xds/registry"
)

// errorsMax bounds the errors reported for one assignment; further ones are counted.
const errorsMax = 32

// Compile turns a decoded and validated assignment of a STATIC or EDS cluster into host set input. at is the path of the assignment inside its
// resource ("" for EDS). Advisory findings go to rep; every bad field comes back in one joined error, up to a limit. Endpoints that only have
// the usual fields take a path that costs no reflection. The caller sets Input.Dedup (EDS) and Input.Now.
func Compile(cla *endpointv3.ClusterLoadAssignment, at registry.Path, unknown registry.UnknownFields, rep *registry.Report) (hostset.Input, error) {
	c := compiler{at: at, unknown: unknown, rep: rep}
	in := c.assignment(cla)
	return in, c.join()
}

type compiler struct {
	at      registry.Path
	unknown registry.UnknownFields
	rep     *registry.Report
	errs    []error
	dropped int
	dns     *DNS // addresses are names, and become targets here
}

func (c *compiler) join() error {
	if c.dropped > 0 {
		c.errs = append(c.errs, &registry.FieldError{Path: c.at.Field("endpoints"), Err: fmt.Errorf("%d more errors", c.dropped)})
	}
	return errors.Join(c.errs...)
}

func (c *compiler) fail(at registry.Path, format string, args ...any) {
	if len(c.errs) >= errorsMax {
		c.dropped++
		return
	}
	c.errs = append(c.errs, &registry.FieldError{Path: at, Err: fmt.Errorf(format, args...)})
}

// walk checks the set fields of m against the tables and tells whether all are fine.
func (c *compiler) walk(m proto.Message, at registry.Path) bool {
	ok := true
	for _, f := range schema.Walk(m, at, c.unknown) {
		if f.Class == registry.ClassAdvisory {
			c.rep.Warn(f)
			continue
		}
		ok = false
		c.fail(f.Path, "%s", f.Reason)
	}
	return ok
}

func (c *compiler) assignment(cla *endpointv3.ClusterLoadAssignment) hostset.Input {
	top := &endpointv3.ClusterLoadAssignment{ClusterName: cla.GetClusterName(), Policy: cla.GetPolicy(), NamedEndpoints: cla.GetNamedEndpoints()}
	top.ProtoReflect().SetUnknown(cla.ProtoReflect().GetUnknown())
	c.walk(top, c.at)
	in := c.policy(cla.GetPolicy())
	in.Localities = make([]hostset.LocalityInput, 0, len(cla.GetEndpoints()))
	for i, l := range cla.GetEndpoints() {
		at := c.at.Index("endpoints", i)
		c.locality(l, at)
		if l.GetPriority() > hostset.MaxPriority {
			c.fail(at.Field("priority"), "%d is above the limit of %d", l.GetPriority(), hostset.MaxPriority)
			continue
		}
		in.Localities = append(in.Localities, hostset.LocalityInput{
			Locality: hostset.Locality{Region: l.GetLocality().GetRegion(), Zone: l.GetLocality().GetZone(), SubZone: l.GetLocality().GetSubZone()},
			Priority: l.GetPriority(), Weight: l.GetLoadBalancingWeight().GetValue(), Endpoints: c.endpoints(l.GetLbEndpoints(), at, len(in.Localities)),
		})
	}
	return in
}

// locality checks the fields of a locality itself.
func (c *compiler) locality(l *endpointv3.LocalityLbEndpoints, at registry.Path) {
	if l.GetMetadata() == nil && l.GetProximity() == nil && l.GetLbConfig() == nil && len(l.ProtoReflect().GetUnknown()) == 0 {
		return
	}
	bare := &endpointv3.LocalityLbEndpoints{Metadata: l.GetMetadata(), Proximity: l.GetProximity(), LbConfig: l.GetLbConfig()}
	bare.ProtoReflect().SetUnknown(l.ProtoReflect().GetUnknown())
	c.walk(bare, at)
}

func (c *compiler) endpoints(list []*endpointv3.LbEndpoint, at registry.Path, local int) []hostset.Endpoint {
	out := make([]hostset.Endpoint, 0, len(list))
	for i, lb := range list {
		var here registry.Path // made only when something has to be said
		if !plain(lb) {
			here = at.Index("lb_endpoints", i)
			if !c.walk(lb, here) {
				continue
			}
		}
		var ep hostset.Endpoint
		switch ip, ok := plainAddress(lb); {
		case c.dns != nil:
			t, ok := c.target(lb, at.Index("lb_endpoints", i))
			if !ok {
				continue
			}
			t.local, t.index = local, len(out)
			c.dns.Targets = append(c.dns.Targets, t)
		case ok && here == "":
			ep.Addr = ip
		case !c.address(lb.GetEndpoint(), at.Index("lb_endpoints", i).Field("endpoint"), &ep):
			continue
		}
		ep.Hostname = lb.GetEndpoint().GetHostname()
		ep.Weight = lb.GetLoadBalancingWeight().GetValue()
		ep.Health = health(lb.GetHealthStatus())
		setMetadata(&ep, lb.GetMetadata())
		out = append(out, ep)
	}
	return out
}

// plain tells whether an endpoint has no other fields than the usual ones, all of which are honoured.
func plain(lb *endpointv3.LbEndpoint) bool {
	ep := lb.GetEndpoint()
	if ep == nil || ep.HealthCheckConfig != nil || ep.AdditionalAddresses != nil || ep.ObservabilityName != "" {
		return false
	}
	sa := ep.GetAddress().GetSocketAddress()
	if sa == nil || sa.Protocol != corev3.SocketAddress_TCP || sa.ResolverName != "" || sa.NetworkNamespaceFilepath != "" {
		return false
	}
	if _, ok := sa.PortSpecifier.(*corev3.SocketAddress_PortValue); !ok {
		return false
	}
	return len(lb.ProtoReflect().GetUnknown()) == 0 && len(ep.ProtoReflect().GetUnknown()) == 0 &&
		len(ep.Address.ProtoReflect().GetUnknown()) == 0 && len(sa.ProtoReflect().GetUnknown()) == 0
}

// plainAddress returns the IP address of an endpoint that has one in its simplest form.
func plainAddress(lb *endpointv3.LbEndpoint) (sys.Addr, bool) {
	sa := lb.GetEndpoint().GetAddress().GetSocketAddress()
	ip, err := netip.ParseAddr(sa.GetAddress())
	if err != nil || ip.Zone() != "" || sa.GetPortValue() > math.MaxUint16 {
		return sys.Addr{}, false
	}
	return sys.AddrOf(netip.AddrPortFrom(ip, uint16(sa.GetPortValue()))), true
}

// address compiles the addresses of an endpoint.
func (c *compiler) address(ep *endpointv3.Endpoint, at registry.Path, out *hostset.Endpoint) bool {
	a, err := Address(ep.GetAddress(), at.Field("address"))
	if err != nil {
		c.errs = append(c.errs, err)
		return false
	}
	out.Addr = a
	for i, more := range ep.GetAdditionalAddresses() {
		where := at.Index("additional_addresses", i)
		b, err := Address(more.GetAddress(), where.Field("address"))
		switch {
		case err != nil:
			c.errs = append(c.errs, err)
			return false
		case a.IsUnix() || b.IsUnix():
			c.fail(where, "additional addresses are only supported for IP addresses")
			return false
		}
		out.Extra = append(out.Extra, b)
	}
	return true
}

// pathMax is the longest Unix socket path of Linux.
const pathMax = 108

// Address compiles an address to connect to: an IP address with a port, or a Unix socket.
func Address(a *corev3.Address, at registry.Path) (sys.Addr, error) {
	fail := func(field registry.Path, format string, args ...any) (sys.Addr, error) {
		return sys.Addr{}, &registry.FieldError{Path: at.Join(field), Err: fmt.Errorf(format, args...)}
	}
	switch v := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		return SocketAddress(v.SocketAddress, at.Field("socket_address"))
	case *corev3.Address_Pipe:
		if p := v.Pipe.GetPath(); p == "" || strings.HasPrefix(p, "envoy://") || len(p) > pathMax || (p[0] != '@' && len(p) >= pathMax) {
			return fail("pipe.path", "%q must have 1 to %d bytes", p, pathMax-1)
		}
		return sys.Addr{Path: v.Pipe.GetPath()}, nil
	case *corev3.Address_EnvoyInternalAddress:
		i := v.EnvoyInternalAddress
		switch name := i.GetServerListenerName(); {
		case name == "":
			return fail("envoy_internal_address", "server_listener_name is required")
		case strings.Contains(name, "/"):
			return fail("envoy_internal_address.server_listener_name", "%q has a slash, which ends the name in an internal address", name)
		default:
			return sys.InternalAddr(name, i.GetEndpointId()), nil
		}
	}
	return fail("", "address must be set")
}

// SocketAddress compiles an IP address with a numeric port.
func SocketAddress(sa *corev3.SocketAddress, at registry.Path) (sys.Addr, error) {
	ip, err := netip.ParseAddr(sa.GetAddress())
	switch {
	case err != nil:
		return sys.Addr{}, &registry.FieldError{Path: at.Field("address"), Err: fmt.Errorf(
			"malformed IP address: %s; names need cluster type STRICT_DNS or LOGICAL_DNS", sa.GetAddress())}
	case ip.Zone() != "":
		return sys.Addr{}, &registry.FieldError{Path: at.Field("address"), Err: fmt.Errorf("IPv6 zones are not supported: %s", sa.GetAddress())}
	case sa.GetPortValue() > math.MaxUint16:
		return sys.Addr{}, &registry.FieldError{Path: at.Field("port_value"), Err: fmt.Errorf("%d is no port", sa.GetPortValue())}
	}
	return sys.AddrOf(netip.AddrPortFrom(ip, uint16(sa.GetPortValue()))), nil
}

func health(s corev3.HealthStatus) hostset.EDSHealth {
	switch s {
	case corev3.HealthStatus_HEALTHY:
		return hostset.EDSHealthy
	case corev3.HealthStatus_UNHEALTHY:
		return hostset.EDSUnhealthy
	case corev3.HealthStatus_DRAINING:
		return hostset.EDSDraining
	case corev3.HealthStatus_TIMEOUT:
		return hostset.EDSTimeout
	case corev3.HealthStatus_DEGRADED:
		return hostset.EDSDegraded
	case corev3.HealthStatus_UNKNOWN:
	}
	return hostset.EDSUnknown
}

func (c *compiler) policy(p *endpointv3.ClusterLoadAssignment_Policy) hostset.Input {
	at := c.at.Field("policy")
	in := hostset.Input{WeightedPriorityHealth: p.GetWeightedPriorityHealth()}
	if f := p.GetOverprovisioningFactor(); f != nil {
		if in.Overprovisioning = f.GetValue(); in.Overprovisioning == 0 {
			c.fail(at.Field("overprovisioning_factor"), "must be greater than 0")
		}
	}
	if n := len(p.GetDropOverloads()); n > 1 {
		c.fail(at.Field("drop_overloads"), "has %d categories; only one is supported (as in Envoy)", n)
		return in
	}
	for _, d := range p.GetDropOverloads() {
		den := map[typev3.FractionalPercent_DenominatorType]uint32{
			typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10000, typev3.FractionalPercent_MILLION: 1000000,
		}[d.GetDropPercentage().GetDenominator()]
		if den == 0 {
			c.fail(at.Index("drop_overloads", 0).Field("drop_percentage.denominator"), "unknown denominator")
			continue
		}
		in.Drop = append(in.Drop, hostset.Drop{Category: d.GetCategory(), Num: min(d.GetDropPercentage().GetNumerator(), den), Den: den})
	}
	return in
}
