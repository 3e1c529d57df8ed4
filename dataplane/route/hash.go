// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"math/bits"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

// SetCookie is a cookie that a hash policy wants the response to set: Policy says how, Value is its value.
type SetCookie struct {
	Policy *HashPolicy
	Value  [16]byte // hex
}

// maxHashValues bounds how many lines of one repeated header are sorted before hashing; further lines are left out.
const maxHashValues = 64

// HashOf computes the hash of a request for consistent load balancing, equal to Envoy's bit for bit: every policy that yields a value is
// folded in after a rotation by one; a terminal policy ends it once there is a value. src is the downstream address for source_ip. q may be
// nil (TCP): then only source_ip counts. cookie, when not nil, is to be added to the response.
func HashOf(ps []HashPolicy, q *Query, src sys.Addr) (hash uint64, ok bool, cookie *SetCookie) {
	for i := range ps {
		p := &ps[i]
		h, is := p.hash(q, src)
		if !is && p.Kind == HashCookie && p.TTL != Unset && q != nil {
			if cookie == nil {
				cookie = newCookie(p, q)
			}
			h, is = match.XXHash64(cookie.Value[:], 0), true
		}
		if is {
			if ok {
				hash = bits.RotateLeft64(hash, 1)
			}
			hash ^= h
			ok = true
		}
		if p.Terminal && ok {
			break
		}
	}
	return hash, ok, cookie
}

func (p *HashPolicy) hash(q *Query, src sys.Addr) (uint64, bool) {
	if q == nil && p.Kind != HashSourceIP {
		return 0, false
	}
	switch p.Kind {
	case HashHeader:
		return p.hashHeader(q.Head)
	case HashCookie:
		v, ok := match.CookieValue(q.Head, p.Cookie)
		if !ok || len(v) == 0 {
			return 0, false
		}
		return match.XXHash64(v, 0), true
	case HashSourceIP:
		if src.IsUnix() || !src.IP.IsValid() {
			return 0, false
		}
		var buf [64]byte
		return match.XXHash64(src.AppendIP(buf[:0]), 0), true
	case HashQuery:
		v, ok := match.QueryParam(q.Head.Path(), p.Query)
		if !ok {
			return 0, false
		}
		return match.XXHash64(v, 0), true
	}
	return 0, false
}

func (p *HashPolicy) hashHeader(h *httpmsg.Head) (uint64, bool) {
	if ps := match.PseudoOf(p.Header.Name); ps != match.PseudoNone {
		v, ok := match.PseudoValue(ps, h)
		if !ok {
			return 0, false
		}
		return match.XXHash64(p.rewritten(v), 0), true
	}
	i := h.FindKey(p.Header, 0)
	if i < 0 {
		return 0, false
	}
	next := h.FindKey(p.Header, i+1)
	if next < 0 {
		return match.XXHash64(p.rewritten(h.Value(i)), 0), true
	}
	var stack [maxHashValues][]byte
	n := 0
	for ; i >= 0 && n < len(stack); i = h.FindKey(p.Header, i+1) {
		v := p.rewritten(h.Value(i))
		j := n
		for ; j > 0 && bytes.Compare(stack[j-1], v) > 0; j-- {
			stack[j] = stack[j-1]
		}
		stack[j] = v
		n++
	}
	var sum uint64
	for _, v := range stack[:n] {
		sum = match.XXHash64(v, sum)
	}
	return sum, true
}

func (p *HashPolicy) rewritten(v []byte) []byte {
	if p.Regex == nil {
		return v
	}
	return p.Regex.AppendReplaceAll(nil, v, p.Subst)
}

// newCookie makes the value of a generated cookie: the hash of both addresses of the downstream connection, so that requests that race on one
// connection get the same.
func newCookie(p *HashPolicy, q *Query) *SetCookie {
	var buf [128]byte
	b := buf[:0]
	if q.Rec != nil && q.Rec.Conn != nil {
		b = q.Rec.Conn.Remote.Append(b)
		if q.Rec.Conn.ConnSide != nil {
			b = q.Rec.Conn.Local.Append(b)
		}
	}
	h := match.XXHash64(b, 0)
	c := &SetCookie{Policy: p}
	const digits = "0123456789abcdef"
	for i := range c.Value {
		c.Value[i] = digits[h>>(60-4*i)&15]
	}
	return c
}

// Append appends the value of the Set-Cookie field.
func (c *SetCookie) Append(b []byte) []byte {
	p := c.Policy
	b = append(b, p.Cookie...)
	b = append(b, `="`...)
	b = append(b, c.Value[:]...)
	b = append(b, '"')
	if p.TTL > 0 {
		b = append(b, "; Max-Age="...)
		b = appendUint(b, uint64(p.TTL/sys.Second))
	}
	if p.Path != "" {
		b = append(b, "; Path="...)
		b = append(b, p.Path...)
	}
	for _, a := range p.Attrs {
		b = append(b, "; "...)
		b = append(b, a.Name...)
		if a.Value != "" {
			b = append(b, '=')
			b = append(b, a.Value...)
		}
	}
	return append(b, "; HttpOnly"...)
}
