// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"fmt"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

// ScopeFragmentsMax bounds the fragments of a scope key.
const ScopeFragmentsMax = 16

// ScopesRef stands for the scoped routes of HTTP connection managers: how they make the key of a request. Snapshots hold the Scopes that the key
// is looked up in. Immutable.
type ScopesRef struct {
	Name     string
	Builders []ScopeFragment // at most ScopeFragmentsMax
}

// ScopeFragment makes one fragment of the key: it is a header_value_extractor.
type ScopeFragment struct {
	Key    httpmsg.Key
	Pseudo match.Pseudo
	// Separator cuts the header's value into elements; "" makes the whole value the only one.
	Separator string
	// KeySeparator, when not "", chooses by name: the fragment is what follows it in the first element that it cuts behind ElementKey.
	KeySeparator, ElementKey string
	// Index chooses by number.
	Index int
}

// Scope is one scoped route configuration.
type Scope struct {
	Name  string
	Key   []string
	Table *TableRef
	// OnDemand scopes have their route configuration fetched when the first request needs it.
	OnDemand bool
}

// Scopes is an immutable index of scopes by their keys.
type Scopes struct {
	byHash map[uint64][]Scope
}

// NewScopes makes the index. Two scopes must not have the same key.
func NewScopes(list []Scope) (*Scopes, error) {
	s := &Scopes{byHash: make(map[uint64][]Scope, len(list))}
	for _, x := range list {
		var h uint64
		key := make([][]byte, len(x.Key))
		for i, f := range x.Key {
			key[i] = []byte(f)
			h = match.XXHash64(key[i], h)
		}
		if old := s.find(h, key); old != nil {
			return nil, fmt.Errorf("scope key conflict found, first scope is '%s', second scope is '%s'", old.Name, x.Name)
		}
		s.byHash[h] = append(s.byHash[h], x)
	}
	return s, nil
}

func (s *Scopes) find(hash uint64, key [][]byte) *Scope {
	list := s.byHash[hash]
next:
	for i := range list {
		if len(list[i].Key) != len(key) {
			continue
		}
		for j, f := range list[i].Key {
			if string(key[j]) != f {
				continue next
			}
		}
		return &list[i]
	}
	return nil
}

// Find returns the route configuration in whose scope the request is, nil when it has none.
func (s *Scopes) Find(ref *ScopesRef, h *httpmsg.Head) *TableRef {
	if x := s.Of(ref, h); x != nil {
		return x.Table
	}
	return nil
}

// Of returns the scope of a request, nil when it has no complete key or nobody has that key.
func (s *Scopes) Of(ref *ScopesRef, h *httpmsg.Head) *Scope {
	var key [ScopeFragmentsMax][]byte
	var hash uint64
	for i := range ref.Builders {
		v, ok := ref.Builders[i].extract(h)
		if !ok {
			return nil
		}
		key[i] = v
		hash = match.XXHash64(v, hash)
	}
	return s.find(hash, key[:len(ref.Builders)])
}

// extract returns the fragment of a request.
func (f *ScopeFragment) extract(h *httpmsg.Head) ([]byte, bool) {
	rest, ok := f.header(h)
	if !ok {
		return nil, false
	}
	for i, more := 0, true; more; i++ {
		el := rest
		if more = false; f.Separator != "" {
			if at := indexString(rest, f.Separator); at >= 0 {
				el, rest, more = rest[:at], rest[at+len(f.Separator):], true
			}
		}
		if f.KeySeparator == "" {
			if i == f.Index {
				return el, true
			}
			continue
		}
		at := indexString(el, f.KeySeparator)
		switch {
		case at < 0 && string(el) == f.ElementKey:
			return nil, true
		case at >= 0 && string(el[:at]) == f.ElementKey:
			return el[at+len(f.KeySeparator):], true
		}
	}
	return nil, false
}

// indexString is bytes.Index for a separator that is kept as text; the one of one byte, which is the rule, needs no conversion.
func indexString(b []byte, sep string) int {
	if len(sep) == 1 {
		return bytes.IndexByte(b, sep[0])
	}
	for i := 0; i+len(sep) <= len(b); i++ {
		if string(b[i:i+len(sep)]) == sep {
			return i
		}
	}
	return -1
}

// header returns the first value of the header.
func (f *ScopeFragment) header(h *httpmsg.Head) ([]byte, bool) {
	switch f.Pseudo {
	case match.PseudoNone:
		return h.GetKey(f.Key)
	case match.PseudoAuthority:
		return h.Host(), true
	case match.PseudoPath:
		return h.Path(), true
	case match.PseudoMethod:
		return h.A.Bytes(h.MethodName), true
	case match.PseudoScheme:
		return h.A.Bytes(h.Scheme), true
	}
	return nil, false
}
