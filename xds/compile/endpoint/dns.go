// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"math"
	"net/netip"
	"slices"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/sys"
	"sidecar/xds/registry"
)

// DNS is the load assignment of a STRICT_DNS or LOGICAL_DNS cluster: host set input whose endpoints have names instead of addresses.
type DNS struct {
	Logical bool
	Targets []Target // in the order of the assignment; one for each endpoint
	input   hostset.Input
}

// Target is one name to resolve.
type Target struct {
	Name  string // a DNS name or an IP literal
	Port  uint16
	local int // index of the locality and of the endpoint in input
	index int
}

// CompileDNS turns the assignment of a DNS cluster into targets. See Compile for paths, warnings and errors. A logical DNS cluster must have
// exactly one endpoint.
func CompileDNS(cla *endpointv3.ClusterLoadAssignment, logical bool, at registry.Path, unknown registry.UnknownFields, rep *registry.Report) (*DNS, error) {
	c := compiler{at: at, unknown: unknown, rep: rep}
	d := &DNS{Logical: logical}
	if logical && (len(cla.GetEndpoints()) != 1 || len(cla.GetEndpoints()[0].GetLbEndpoints()) != 1) {
		c.fail(at.Field("endpoints"), "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint")
		return nil, c.join()
	}
	c.dns = d
	d.input = c.assignment(cla)
	d.input.Dedup = true
	if err := c.join(); err != nil {
		return nil, err
	}
	return d, nil
}

func (c *compiler) target(ep *endpointv3.LbEndpoint, at registry.Path) (Target, bool) {
	where := at.Field("endpoint.address")
	sa := ep.GetEndpoint().GetAddress().GetSocketAddress()
	switch {
	case sa == nil:
		c.fail(where, "DNS clusters need a socket address with a name")
		return Target{}, false
	case len(ep.GetEndpoint().GetAdditionalAddresses()) > 0:
		c.fail(at.Field("endpoint.additional_addresses"), "additional addresses need an IP address, not a name")
		return Target{}, false
	case sa.GetPortValue() > math.MaxUint16:
		c.fail(where.Field("socket_address.port_value"), "%d is no port", sa.GetPortValue())
		return Target{}, false
	}
	return Target{Name: sa.GetAddress(), Port: uint16(sa.GetPortValue())}, true
}

// Input makes host set input of what the targets resolved to. answers returns the addresses of target i, best first; empty while it is not
// resolved. Strict DNS makes one endpoint of each address. Logical DNS makes one endpoint of the first address, or of the address that prev
// has as long as it is among the answers, so that a resolver that rotates its answers does not move the connections; the other answers are
// further addresses to try. When the name has no address any more, strict DNS has no host and logical DNS keeps the one it has, as in Envoy.
func (d *DNS) Input(prev *hostset.Hosts, answers func(i int) []netip.Addr) hostset.Input {
	in := d.input
	in.Localities = slices.Clone(in.Localities)
	for i := range in.Localities {
		in.Localities[i].Endpoints = nil
	}
	for i := range d.Targets {
		t := &d.Targets[i]
		l := &in.Localities[t.local]
		template := d.input.Localities[t.local].Endpoints[t.index]
		if template.Hostname == "" {
			template.Hostname = t.Name
		}
		list := answers(i)
		if d.Logical {
			if len(list) == 0 {
				if last := only(prev); last != nil {
					template.Addr, template.Extra = last.Addr, last.Extra
					l.Endpoints = append(l.Endpoints, template)
				}
				continue
			}
			template.Addr, template.Extra = logical(prev, list, t.Port)
			l.Endpoints = append(l.Endpoints, template)
			continue
		}
		for _, ip := range list {
			template.Addr = sys.AddrOf(netip.AddrPortFrom(ip, t.Port))
			l.Endpoints = append(l.Endpoints, template)
		}
	}
	return in
}

func logical(prev *hostset.Hosts, list []netip.Addr, port uint16) (sys.Addr, []sys.Addr) {
	first := list[0]
	if last := only(prev); last != nil && slices.Contains(list, last.Addr.IP.Addr()) {
		first = last.Addr.IP.Addr()
	}
	var extra []sys.Addr
	for _, ip := range list {
		if ip != first {
			extra = append(extra, sys.AddrOf(netip.AddrPortFrom(ip, port)))
		}
	}
	slices.SortFunc(extra, func(a, b sys.Addr) int { return a.IP.Compare(b.IP) }) // Extra is part of the identity: order must not matter
	return sys.AddrOf(netip.AddrPortFrom(first, port)), extra
}

// only returns the host of a logical DNS cluster, nil when it has none yet.
func only(h *hostset.Hosts) *hostset.Host {
	if h == nil {
		return nil
	}
	for i := range h.Priorities {
		if len(h.Priorities[i].Hosts) > 0 {
			return h.Priorities[i].Hosts[0].Host
		}
	}
	return nil
}
