// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"net/netip"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// With auto_sni or auto_san_validation a request says what its upstream is called in TLS. Connections made for one name must not carry requests for
// another, so each name has pools of its own, which live as long as they have connections.

const (
	// maxNamed bounds the pools with a name of one cluster. Beyond it the least recently used one that carries no request goes.
	maxNamed = 1024
	// evictLooks is how many pools are looked at for one that carries no request.
	evictLooks = 16
	// maxName is the longest name; Envoy's TLS library takes no longer one either.
	maxName = 255
	// namedSweep is how often pools without connections are forgotten.
	namedSweep = 5 * sys.Second
)

// named is a pool with a name.
type named struct {
	// Worker
	p            *pool.Pool
	key          namedKey
	spelled      string // the name as the request had it for which the pool was made
	newer, older *named
}

type namedKey struct {
	h    *hostset.Host
	at   int    // see poolAt
	name string // lower case
}

// names are the pools with names of one cluster, and the order of their last use.
type names struct {
	// Worker
	byKey          map[namedKey]*named
	newest, oldest *named
}

// ServerName is the name that a request with head r has for its upstream: the host of :authority, or what override_auto_sni_header says. Nothing when
// the cluster does not ask. It is a view of the head's arena.
func (c *Cluster) ServerName(r *httpmsg.Head) httpmsg.Span {
	n := &c.cfg.Names
	if !n.SNI && !n.SAN {
		return httpmsg.Span{}
	}
	s := r.Authority
	if n.Header.Name != "" {
		if i := r.FindKey(n.Header, 0); i >= 0 && r.List[i].Value.Len > 0 {
			s = r.List[i].Value
		}
	}
	b := r.A.Bytes(s)
	s.Len = uint32(len(httpmsg.StripPort(b)))
	if b = b[:s.Len]; len(b) > 2 && b[0] == '[' && b[len(b)-1] == ']' {
		s.Off, s.Len = s.Off+1, s.Len-2
	}
	return s
}

// isIP tells whether a name is an IP address.
func isIP(name []byte) bool {
	if bytes.IndexByte(name, ':') < 0 {
		for _, c := range name {
			if c != '.' && (c < '0' || c > '9') {
				return false
			}
		}
	}
	_, err := netip.ParseAddr(string(name))
	return err == nil
}

// wanted tells what name is for a connection to h: the server name, one that its certificate must have, or both.
func (c *Cluster) wanted(h *hostset.Host, name []byte) (sni, san bool) {
	if len(name) == 0 || c.cfg.Transport(h.Metadata) == nil {
		return false, false
	}
	return c.cfg.Names.SNI && !isIP(name), c.cfg.Names.SAN
}

// Nameless tells whether a request has no name although the certificate of h must have it (auto_san_validation): :authority, or the header in its
// place, is but a port.
func (c *Cluster) Nameless(h *hostset.Host, name []byte) bool {
	return len(name) == 0 && c.cfg.Names.SAN && c.cfg.Transport(h.Metadata) != nil
}

// named returns the pool of h for name.
func (c *Cluster) named(h *hostset.Host, prio int, codec pool.Codec, name []byte, sni, san bool) *pool.Pool {
	if len(name) > maxName {
		return nil
	}
	lower := c.m.name[:len(name)]
	for i, b := range name {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		lower[i] = b
	}
	at := poolAt(prio, codec)
	if n := c.names.byKey[namedKey{h, at, string(lower)}]; n != nil {
		if n.spelled == string(name) || !n.p.Empty() {
			c.names.touch(n)
			return n.p
		}
		c.forget(n) // a connection tells the name as its first request has it
	}
	if !c.room(prio) {
		return nil
	}
	cfg := c.config(h, prio, codec)
	n := &named{key: namedKey{h, at, string(lower)}, spelled: string(name)}
	if sni {
		cfg.SNI = n.spelled
	}
	if san {
		cfg.SAN = n.spelled
	}
	n.p = c.newPool(cfg)
	if c.names.byKey == nil {
		c.names.byKey = map[namedKey]*named{}
	}
	c.names.byKey[n.key] = n
	c.names.push(n)
	c.m.wakeIn(namedSweep)
	if c.retired {
		n.p.Drain()
	}
	return n.p
}

// room makes room for one more pool with connections: max_connection_pools, which the workers share, and maxNamed. False means that every pool that was
// looked at carries a request.
func (c *Cluster) room(prio int) bool {
	full := c.cfg.Limits.Pools[prio].Load() >= int64(c.cfg.Breakers[prio].MaxPools)
	if !full && len(c.names.byKey) < maxNamed {
		return true
	}
	n := c.names.oldest
	for range evictLooks {
		if n == nil {
			break
		}
		if _, connecting, busy, waiting := n.p.Counts(); connecting+busy+waiting == 0 && (!full || n.key.at%priorities == prio && !n.p.Empty()) {
			c.forget(n)
			return true
		}
		n = n.newer
	}
	c.Block.Inc(stats.ClusterUpstreamCxPoolOverflow)
	return false
}

// forget drains a pool and drops it: what is still busy is closed by the pool itself when its request is over.
func (c *Cluster) forget(n *named) {
	n.p.Drain()
	c.names.unlink(n)
	delete(c.names.byKey, n.key)
}

// sweepNames forgets the pools that have no connections and returns when to look again, 0 for never.
func (c *Cluster) sweepNames() sys.Nanos {
	for _, n := range c.names.byKey {
		if n.p.Empty() {
			c.forget(n)
		}
	}
	if len(c.names.byKey) == 0 {
		return 0
	}
	return namedSweep
}

// touch makes n the newest.
func (x *names) touch(n *named) {
	if x.newest != n {
		x.unlink(n)
		x.push(n)
	}
}

func (x *names) push(n *named) {
	n.newer, n.older = nil, x.newest
	if x.newest != nil {
		x.newest.newer = n
	} else {
		x.oldest = n
	}
	x.newest = n
}

func (x *names) unlink(n *named) {
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		x.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		x.oldest = n.newer
	}
	n.newer, n.older = nil, nil
}
