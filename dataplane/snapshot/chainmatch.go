// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"
)

// ChainInput is what filter chain matching looks at.
type ChainInput struct {
	Dst, Src, DirectSrc netip.AddrPort // not valid for Unix sockets
	SNI                 string
	Transport           string // "raw_buffer" or "tls"
	ALPN                []string
}

// ChainIndex is the compiled form of all filter_chain_match of a listener. The order of criteria is Envoy's and fixed: destination port,
// destination IP, server name, transport protocol, application protocol, direct source IP, source type, source IP, source port. At each
// step the most specific branch is taken and there is no way back. Immutable.
type ChainIndex struct {
	ports map[uint16]*prefixes[*sniNode]
}

type sniNode struct {
	exact, suffix map[string]*transportNode // suffix keys start with '.'
	any           *transportNode
}

type transportNode struct{ m map[string]*alpnNode }
type alpnNode struct {
	m map[string]*prefixes[*typeNode]
}
type typeNode struct{ by [3]*prefixes[*portNode] }
type portNode struct{ m map[uint16]*FilterChain }

// prefixes is a longest-prefix table; any is the default without address.
type prefixes[T any] struct {
	list []prefixEntry[T] // longest first
	any  T
	has  bool
}

type prefixEntry[T any] struct {
	p netip.Prefix
	v T
}

func (t *prefixes[T]) find(a netip.Addr) (v T, ok bool) {
	if a.IsValid() {
		a = a.Unmap().WithZone("")
		for i := range t.list {
			if t.list[i].p.Contains(a) {
				return t.list[i].v, true
			}
		}
	}
	return t.any, t.has
}

func (t *prefixes[T]) at(p netip.Prefix, mk func() T) T {
	if !p.IsValid() {
		if !t.has {
			t.any, t.has = mk(), true
		}
		return t.any
	}
	for i := range t.list {
		if t.list[i].p == p {
			return t.list[i].v
		}
	}
	e := prefixEntry[T]{p, mk()}
	t.list = append(t.list, e)
	sort.SliceStable(t.list, func(i, j int) bool { return t.list[i].p.Bits() > t.list[j].p.Bits() })
	return e.v
}

func orAny[T any](l []T) []T {
	if len(l) == 0 {
		var zero T
		return []T{zero}
	}
	return l
}

// NewChainIndex compiles the matches of chains; two chains that match the same thing are an error that names both.
func NewChainIndex(chains []*FilterChain) (*ChainIndex, error) {
	x := &ChainIndex{ports: map[uint16]*prefixes[*sniNode]{}}
	for _, c := range chains {
		if err := x.add(c); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func (x *ChainIndex) add(c *FilterChain) error {
	m := &c.Match
	ips := x.ports[m.DestPort]
	if ips == nil {
		ips = &prefixes[*sniNode]{}
		x.ports[m.DestPort] = ips
	}
	for _, dst := range orAny(m.DestRanges) {
		sni := ips.at(dst, func() *sniNode {
			return &sniNode{exact: map[string]*transportNode{}, suffix: map[string]*transportNode{}}
		})
		for _, name := range orAny(m.ServerNames) {
			tn, err := sni.at(name)
			if err != nil {
				return err
			}
			an := tn.m[m.Transport]
			if an == nil {
				an = &alpnNode{m: map[string]*prefixes[*typeNode]{}}
				tn.m[m.Transport] = an
			}
			for _, alpn := range orAny(m.ALPN) {
				if err := an.add(alpn, c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (n *sniNode) at(name string) (*transportNode, error) {
	mk := func() *transportNode { return &transportNode{m: map[string]*alpnNode{}} }
	name = strings.ToLower(name)
	switch {
	case name == "":
		if n.any == nil {
			n.any = mk()
		}
		return n.any, nil
	case strings.HasPrefix(name, "*."):
		k := name[1:]
		if n.suffix[k] == nil {
			n.suffix[k] = mk()
		}
		return n.suffix[k], nil
	case name[0] == '.': // Envoy's other way to write a wildcard
		if n.suffix[name] == nil {
			n.suffix[name] = mk()
		}
		return n.suffix[name], nil
	case strings.Contains(name, "*"):
		return nil, fmt.Errorf("partial wildcards are not supported in server_names: %s", name)
	}
	if n.exact[name] == nil {
		n.exact[name] = mk()
	}
	return n.exact[name], nil
}

func (n *alpnNode) add(alpn string, c *FilterChain) error {
	m := &c.Match
	direct := n.m[alpn]
	if direct == nil {
		direct = &prefixes[*typeNode]{}
		n.m[alpn] = direct
	}
	for _, ds := range orAny(m.DirectSourceRanges) {
		tn := direct.at(ds, func() *typeNode { return &typeNode{} })
		if tn.by[m.SourceType] == nil {
			tn.by[m.SourceType] = &prefixes[*portNode]{}
		}
		for _, src := range orAny(m.SourceRanges) {
			pn := tn.by[m.SourceType].at(src, func() *portNode { return &portNode{m: map[uint16]*FilterChain{}} })
			for _, port := range orAny(m.SourcePorts) {
				if old := pn.m[port]; old != nil {
					return fmt.Errorf("filter chain '%s' has the same matching rules defined as '%s'", c.Name, old.Name)
				}
				pn.m[port] = c
			}
		}
	}
	return nil
}

// Find returns the filter chain for a connection, nil when none matches.
func (x *ChainIndex) Find(in *ChainInput) *FilterChain {
	ips := x.ports[in.Dst.Port()]
	if ips == nil || in.Dst.Port() == 0 {
		if ips = x.ports[0]; ips == nil {
			return nil
		}
	}
	sni, ok := ips.find(in.Dst.Addr())
	if !ok {
		return nil
	}
	tn := sni.find(in.SNI)
	if tn == nil {
		return nil
	}
	an := tn.m[in.Transport]
	if an == nil {
		if an = tn.m[""]; an == nil {
			return nil
		}
	}
	return an.find(in)
}

func (n *sniNode) find(name string) *transportNode {
	if name != "" {
		if t := n.exact[name]; t != nil {
			return t
		}
		for rest := name; len(n.suffix) > 0; {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				break
			}
			if t := n.suffix[rest[i:]]; t != nil {
				return t
			}
			rest = rest[i+1:]
		}
	}
	return n.any
}

func (n *alpnNode) find(in *ChainInput) *FilterChain {
	var direct *prefixes[*typeNode]
	for _, p := range in.ALPN {
		if direct = n.m[p]; direct != nil {
			break
		}
	}
	if direct == nil {
		if direct = n.m[""]; direct == nil {
			return nil
		}
	}
	tn, ok := direct.find(in.DirectSrc.Addr())
	if !ok {
		return nil
	}
	kind := 2
	if s := in.Src.Addr().Unmap(); !s.IsValid() || s == loopback4 || s == netip.IPv6Loopback() || s == in.Dst.Addr().Unmap() {
		kind = 1
	}
	src := tn.by[kind]
	if src == nil {
		if src = tn.by[0]; src == nil {
			return nil
		}
	}
	pn, ok := src.find(in.Src.Addr())
	if !ok {
		return nil
	}
	if c := pn.m[in.Src.Port()]; c != nil {
		return c
	}
	return pn.m[0]
}

// loopback4 is the one IPv4 loopback address that Envoy knows; 127.0.0.2 is external to it unless it is the destination too.
var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Choose returns the chain for a connection or the default chain.
func (l *Listener) Choose(in *ChainInput) *FilterChain {
	c := l.Default
	if l.Match != nil {
		if m := l.Match.Find(in); m != nil {
			c = m
		}
	}
	if c != nil && c.Discovered {
		if f := l.Found[c]; f != nil {
			return f
		}
	}
	return c
}
