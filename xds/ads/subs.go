// SPDX-License-Identifier: Apache-2.0

package ads

import "slices"

const wildcardName = "*"

func (s *Session) subscribe(e Subscribe) {
	st := s.byURL[e.TypeURL]
	if st == nil {
		st = s.addType(TypeConfig{URL: e.TypeURL})
	}
	if e.Wildcard && !st.wildcard {
		st.wildcard, st.dirty = true, true
	}
	for _, n := range e.Names {
		if _, ok := st.want[n]; ok && (!e.Again || s.cfg.Variant == SotW) {
			continue
		}
		st.want[n] = struct{}{}
		st.list, st.dirty = nil, true
		if st.started {
			st.adds[n] = struct{}{}
			delete(st.drops, n)
		}
	}
}

func (s *Session) unsubscribe(e Unsubscribe) {
	st := s.byURL[e.TypeURL]
	if st == nil {
		return
	}
	if e.Wildcard && st.wildcard {
		st.wildcard, st.dirty = false, true
		for n := range st.have {
			if _, ok := st.want[n]; !ok {
				delete(st.have, n)
			}
		}
	}
	for _, n := range e.Names {
		if _, ok := st.want[n]; !ok {
			continue
		}
		delete(st.want, n)
		delete(st.adds, n)
		st.list, st.dirty = nil, true
		if !st.wildcard {
			delete(st.have, n)
		}
		if _, told := st.sent[n]; told {
			st.drops[n] = struct{}{}
		}
	}
}

// flush sends gathered changes unless a batch of this stream still waits for its verdict: what the batch brings may change them again,
// and a control plane should see one request with all names, not one each.
func (s *Session) flush(out []Action) []Action {
	for _, b := range s.batches {
		if b.stream == s.stream {
			return out
		}
	}
	return s.flushNow(out)
}

func (s *Session) flushNow(out []Action) []Action {
	if !s.open {
		return out
	}
	for _, st := range s.types {
		if !st.dirty {
			continue
		}
		if s.cfg.Variant == Delta {
			out = s.flushDelta(st, out)
			continue
		}
		// A SotW request answers the last nonce by its form, so it must wait for a withheld answer.
		if len(st.waiting) == 0 {
			out = s.flushSotW(st, out)
		}
	}
	return out
}

func (s *Session) flushSotW(st *typeState, out []Action) []Action {
	st.dirty = false
	if !st.started && !st.active() {
		return out
	}
	return s.request(st, Send{Nonce: st.nonce}, out)
}

// request completes and emits a SotW request of the type: it always carries the full list and the last accepted version.
func (s *Session) request(st *typeState, m Send, out []Action) []Action {
	m.TypeURL, m.Version, m.Names = st.URL, st.version, s.fullNames(st)
	m.Node = !s.spoke || s.cfg.NodeInEvery
	s.spoke, st.started, st.dirty = true, true, false
	st.named = st.named || len(m.Names) > 0
	return append(out, m)
}

// fullNames is the SotW name list. The legacy wildcard is the empty list, which works only as long as no name was ever sent on the stream.
func (s *Session) fullNames(st *typeState) []string {
	if st.list == nil {
		st.list = sorted(st.want)
	}
	if st.wildcard && (len(st.list) > 0 || st.named || s.cfg.ExplicitWildcard) {
		return slices.Concat([]string{wildcardName}, st.list)
	}
	return st.list
}

func (s *Session) flushDelta(st *typeState, out []Action) []Action {
	st.dirty = false
	m := Send{TypeURL: st.URL}
	first := !st.started
	if first && !st.active() {
		return out
	}
	add := st.adds
	if first {
		add = st.want
	}
	m.Add, m.Remove = sorted(add), sorted(st.drops)
	for n := range add {
		st.sent[n] = struct{}{}
	}
	for n := range st.drops {
		delete(st.sent, n)
	}
	clear(st.adds)
	clear(st.drops)
	switch {
	case st.wildcard && !st.wildTo:
		// The legacy form is an empty list in the type's first request; anything else has to say it.
		if !first || len(m.Add) > 0 || s.cfg.ExplicitWildcard {
			m.Add = slices.Insert(m.Add, 0, wildcardName)
		}
	case !st.wildcard && st.wildTo:
		m.Remove = slices.Insert(m.Remove, 0, wildcardName)
	case !first && len(m.Add) == 0 && len(m.Remove) == 0:
		return out
	}
	st.wildTo = st.wildcard
	if first {
		m.Initial = initialVersions(st)
	}
	m.Node = !s.spoke
	s.spoke, st.started = true, true
	return append(out, m)
}

// initialVersions lists what is held and accepted; versions may be empty (servers that keep none still learn the names).
func initialVersions(st *typeState) map[string]string {
	out := map[string]string{}
	for n, h := range st.have {
		if h.accepted {
			out[n] = h.version
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
