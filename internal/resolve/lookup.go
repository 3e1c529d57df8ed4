// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Exchange sends one query to one server and returns its answer.
type Exchange func(ctx context.Context, q *dns.Msg, server netip.AddrPort, tcp bool) (*dns.Msg, error)

const (
	addrsMax = 256
	aliasMax = 16
)

// network is the Exchange of production: a new socket with a random port for each query.
func network(ctx context.Context, q *dns.Msg, server netip.AddrPort, tcp bool) (*dns.Msg, error) {
	c := &dns.Client{Net: "udp"}
	if tcp {
		c.Net = "tcp"
	}
	if opt := q.IsEdns0(); opt != nil {
		c.UDPSize = opt.UDPSize()
	}
	if d, ok := ctx.Deadline(); ok {
		c.Timeout = time.Until(d)
	}
	m, _, err := c.ExchangeContext(ctx, q, server.String())
	return m, err
}

// lookup resolves name. fixed tells that the answer can never change.
func (r *Resolver) lookup(ctx context.Context, name string, o *Options) (res Result, fixed bool) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return Result{Addrs: []netip.Addr{ip}}, true // whatever its family, as in Envoy
	}
	key := strings.ToLower(strings.TrimSuffix(name, "."))
	if _, ok := dns.IsDomainName(name); !ok || key == "" {
		return Result{Err: fmt.Errorf("%q is no domain name", name)}, true
	}
	sys, hosts := r.system.read(key)
	if len(hosts) == 0 && (key == "localhost" || strings.HasSuffix(key, ".localhost")) { // RFC 6761 section 6.3
		hosts = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	if list := pick(o.Family, hosts); len(list) > 0 {
		return Result{Addrs: list}, false
	}
	q := query{r: r, o: o, servers: sys.servers, tries: sys.tries, timeout: sys.timeout, rotate: sys.rotate || o.Rotate}
	if len(o.Servers) > 0 && (!o.Fallback || r.system.missing()) {
		q.servers = o.Servers
	}
	if o.Tries > 0 {
		q.tries = o.Tries
	}
	if o.Timeout > 0 {
		q.timeout = o.Timeout
	}
	return q.resolve(ctx, candidates(name, &sys, o.NoSearch)), false
}

// missing tells whether the system names no server of its own.
func (s *system) missing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confAt == fileStamp{}
}

// pick returns the addresses that a lookup family wants of those that are known.
func pick(family uint8, list []netip.Addr) []netip.Addr {
	var four, six []netip.Addr
	for _, ip := range list {
		if ip.Is4() {
			four = append(four, ip)
		} else {
			six = append(six, ip)
		}
	}
	switch family {
	case V4Only:
		return four
	case V6Only:
		return six
	case V4Preferred:
		if len(four) > 0 {
			return four
		}
		return six
	case All:
		return append(four, six...)
	}
	if len(six) > 0 {
		return six
	}
	return four
}

// candidates are the full names to try: with search domains by the rules of resolv.conf.
func candidates(name string, c *conf, noSearch bool) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	full := name + "."
	if noSearch || len(c.search) == 0 {
		return []string{full}
	}
	var out []string
	for _, s := range c.search {
		if n := name + "." + strings.Trim(s, ".") + "."; len(n) <= 255 {
			out = append(out, n)
		}
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{full}, out...)
	}
	return append(out, full)
}

// query is one lookup against servers.
type query struct {
	r       *Resolver
	o       *Options
	servers []netip.AddrPort
	tries   int
	timeout time.Duration
	rotate  bool
}

// resolve tries the candidates until one has an address. A failure ends it: another candidate could be another host.
func (q *query) resolve(ctx context.Context, names []string) Result {
	for _, name := range names {
		res := q.families(ctx, name)
		if res.Err != nil || len(res.Addrs) > 0 {
			return res
		}
	}
	return Result{}
}

// families asks for the record types of the lookup family.
func (q *query) families(ctx context.Context, name string) Result {
	first, second := dns.TypeAAAA, dns.TypeA
	switch q.o.Family {
	case V4Only:
		return q.one(ctx, name, dns.TypeA)
	case V6Only:
		return q.one(ctx, name, dns.TypeAAAA)
	case V4Preferred:
		first, second = second, first
	case All:
		a, b := q.one(ctx, name, dns.TypeA), q.one(ctx, name, dns.TypeAAAA)
		switch {
		case a.Err != nil && b.Err != nil:
			return a
		case a.Err != nil:
			return b
		case b.Err != nil || len(b.Addrs) == 0:
			return a
		case len(a.Addrs) == 0:
			return b
		}
		return Result{Addrs: append(a.Addrs, b.Addrs...), TTL: min(a.TTL, b.TTL)}
	}
	res := q.one(ctx, name, first)
	if res.Err == nil && len(res.Addrs) > 0 {
		return res
	}
	other := q.one(ctx, name, second)
	if other.Err == nil && len(other.Addrs) == 0 && res.Err != nil {
		return res // nothing of the second family, and no answer about the first
	}
	return other
}

// one asks the servers for one type until one of them answers.
func (q *query) one(ctx context.Context, name string, typ uint16) Result {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	if q.o.EDNS > 0 {
		m.SetEdns0(q.o.EDNS, false)
	}
	start := 0
	if q.rotate {
		start = rand.IntN(len(q.servers))
	}
	var last error
	for range q.tries {
		for i := range q.servers {
			server := q.servers[(start+i)%len(q.servers)]
			res, again := q.ask(ctx, m, server)
			if !again {
				return res
			}
			last = fmt.Errorf("%s %s: %s: %w", dns.TypeToString[typ], name, server, res.Err)
			if ctx.Err() != nil {
				return Result{Err: errors.Join(ErrClosed, last)}
			}
		}
	}
	return Result{Err: last}
}

// ask asks one server; again tells that another one may know better.
func (q *query) ask(ctx context.Context, m *dns.Msg, server netip.AddrPort) (res Result, again bool) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	m.Id = dns.Id()
	in, err := q.r.exchange(ctx, m, server, q.o.TCP)
	if err == nil && in.Truncated && !q.o.TCP {
		in, err = q.r.exchange(ctx, m, server, true)
	}
	if err != nil {
		return Result{Err: plain(err)}, true
	}
	if !in.Response || in.Id != m.Id || len(in.Question) != 1 || in.Question[0].Qtype != m.Question[0].Qtype ||
		!strings.EqualFold(in.Question[0].Name, m.Question[0].Name) {
		return Result{Err: errors.New("the answer is to another question")}, true
	}
	switch in.Rcode {
	case dns.RcodeSuccess:
		return answer(in), false
	case dns.RcodeNameError:
		return Result{}, false
	}
	return Result{Err: fmt.Errorf("the server says %s", dns.RcodeToString[in.Rcode])}, true
}

// plain makes a timeout read the same whichever call met it.
func plain(err error) error {
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &ne) && ne.Timeout()) {
		return errors.New("timeout")
	}
	return err
}

// answer collects the addresses of a message, following aliases from the question.
func answer(m *dns.Msg) Result {
	name := m.Question[0].Name
	ttl := uint32(math.MaxUint32)
	for range aliasMax {
		alias := ""
		var out []netip.Addr
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			var ip netip.Addr
			var ok bool
			switch v := rr.(type) {
			case *dns.A:
				ip, ok = netip.AddrFromSlice(v.A.To4())
			case *dns.AAAA:
				ip, ok = netip.AddrFromSlice(v.AAAA.To16())
			case *dns.CNAME:
				alias = v.Target
				ttl = min(ttl, h.Ttl)
				continue
			}
			if !ok || h.Rrtype != m.Question[0].Qtype || slices.Contains(out, ip) || len(out) >= addrsMax {
				continue
			}
			out = append(out, ip)
			ttl = min(ttl, h.Ttl)
		}
		if len(out) > 0 {
			return Result{Addrs: out, TTL: time.Duration(ttl) * time.Second}
		}
		if alias == "" {
			break
		}
		name = alias
	}
	return Result{}
}
