// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func (s *Session) response(r Response, out []Action) []Action {
	s.now = max(s.now, r.Now)
	if !s.open {
		return out // the stream was closed while the response was on its way up
	}
	s.answered = true
	st := s.byURL[r.TypeURL]
	if st == nil || !st.started {
		return append(out, Read{})
	}
	st.nonce = r.Nonce
	s.last++
	b := &batch{st: st, stream: s.stream, version: r.Version, nonce: r.Nonce, at: s.now}
	s.batches[s.last] = b
	d := Deliver{Batch: s.last, TypeURL: st.URL, Version: r.Version, Nonce: r.Nonce}
	twice := duplicates(r)
	heartbeats := s.sort(st, r, twice, b, &d)
	if s.cfg.Variant == SotW {
		d.Full = st.FullState && !(heartbeats > 0 && heartbeats == len(r.Resources))
		if d.Full && !slices.ContainsFunc(r.Resources, func(x Raw) bool { return x.Broken }) {
			d.Removed = absent(st, r)
		}
	} else {
		d.Removed = s.removed(st, r, twice)
	}
	d.Rejected = slices.Clone(b.rejected)
	return append(out, d)
}

// duplicates returns the names that occur twice among the resources, or in both the resources and the removals. Unnamed resources are not
// compared: they are broken in some way that their decoding will tell.
func duplicates(r Response) map[string]string {
	seen := make(map[string]struct{}, len(r.Resources))
	var twice map[string]string
	add := func(n, why string) {
		if twice == nil {
			twice = map[string]string{}
		}
		twice[n] = why
	}
	for i := range r.Resources {
		n := r.Resources[i].Name
		if _, dup := seen[n]; dup && n != "" {
			add(n, "duplicate name %q in one response")
		}
		seen[n] = struct{}{}
	}
	for _, n := range r.Removed {
		if _, dup := seen[n]; dup && n != "" {
			add(n, "name %q is both in resources and in removed_resources")
		}
	}
	return twice
}

// sort puts each resource where it belongs: to the caller, refreshed, refused, or nowhere (nobody asked). It returns the heartbeat count.
func (s *Session) sort(st *typeState, r Response, twice map[string]string, b *batch, d *Deliver) int {
	heartbeats := 0
	told := map[string]bool{}
	for i := range r.Resources {
		raw := &r.Resources[i]
		if !raw.HasBody {
			heartbeats++
		}
		if why, dup := twice[raw.Name]; dup {
			if !told[raw.Name] {
				told[raw.Name] = true
				b.rejected = append(b.rejected, Rejection{raw.Name, fmt.Sprintf(why, raw.Name)})
			}
			continue
		}
		if !s.wanted(st, raw) {
			continue
		}
		if raw.HasBody {
			d.Changed = append(d.Changed, *raw)
			b.changed = append(b.changed, mark{raw.Name, raw.Version, raw.TTL})
			continue
		}
		h, ok := st.have[raw.Name]
		switch {
		case ok && h.accepted && (s.cfg.Variant == SotW || h.version == raw.Version):
			h.deadline = s.deadline(s.now, raw.TTL)
			st.have[raw.Name] = h
			d.Refreshed = append(d.Refreshed, raw.Name)
		case s.cfg.Variant == Delta:
			b.rejected = append(b.rejected, Rejection{raw.Name, fmt.Sprintf("resource %q has no body and is not a heartbeat of the version held", raw.Name)})
		}
	}
	return heartbeats
}

// wanted reports whether anybody asked for the resource. An unnamed SotW resource is passed on so that its decoding can name the fault.
func (s *Session) wanted(st *typeState, raw *Raw) bool {
	if st.wildcard || (raw.Name == "" && s.cfg.Variant == SotW) {
		return true
	}
	_, ok := st.want[raw.Name]
	return ok
}

// absent lists what a full-state response does not hold any more, sorted.
func absent(st *typeState, r Response) []string {
	present := make(map[string]struct{}, len(r.Resources))
	for i := range r.Resources {
		present[r.Resources[i].Name] = struct{}{}
	}
	var gone []string
	for n := range st.have {
		if _, ok := present[n]; !ok {
			gone = append(gone, n)
		}
	}
	slices.Sort(gone)
	for _, n := range gone {
		delete(st.have, n)
	}
	return gone
}

func (s *Session) removed(st *typeState, r Response, twice map[string]string) []string {
	var gone []string
	seen := make(map[string]struct{}, len(r.Removed))
	for _, n := range r.Removed {
		if _, dup := twice[n]; dup {
			continue
		}
		if _, again := seen[n]; again {
			continue
		}
		seen[n] = struct{}{}
		if _, ok := st.want[n]; !ok && !st.wildcard {
			continue
		}
		delete(st.have, n)
		gone = append(gone, n)
	}
	return gone
}

// deadline is when a TTL counted from at is over; 0 = never.
func (s *Session) deadline(at, ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return 0
	}
	s.ttls = true
	return at + ttl
}

// verdict keeps the books and answers (or withholds the answer), then lets gathered subscription changes go and the next response come.
func (s *Session) verdict(v Verdict, out []Action) []Action {
	b, ok := s.batches[v.Batch]
	if !ok {
		return out
	}
	delete(s.batches, v.Batch)
	st := b.st
	refused := append(b.rejected, v.Rejected...)
	s.account(b, refused)
	if b.stream != s.stream || !s.open {
		return out // applied, but the stream it came on is gone: the new one was told, or will be, what is held
	}
	a := answer{nonce: b.nonce}
	if len(refused) > 0 {
		a.nack, a.text = true, nackText(refused)
	}
	if s.cfg.Variant == SotW {
		st.waiting = st.waiting[:0] // only the last nonce is ever answered
	}
	st.waiting = append(st.waiting, a)
	switch {
	case !v.Hold:
		out = s.release(st, out)
	case len(st.waiting) > HeldMax:
		out = s.answer(st, st.waiting[0], out)
		st.waiting = slices.Delete(st.waiting, 0, 1)
	}
	return append(s.flush(out), Read{})
}

// account records the versions and deadlines of what was accepted, and that what was refused exists.
func (s *Session) account(b *batch, refused []Rejection) {
	st := b.st
	bad := make(map[string]struct{}, len(refused))
	for _, r := range refused {
		bad[r.Name] = struct{}{}
	}
	for _, r := range b.rejected {
		st.known(r.Name)
	}
	for _, m := range b.changed {
		_, asked := st.want[m.name]
		_, no := bad[m.name]
		switch {
		case m.name == "" || (!asked && !st.wildcard): // unnamed, or unsubscribed before the verdict
		case no:
			st.known(m.name)
		default:
			st.have[m.name] = held{version: m.version, deadline: s.deadline(b.at, m.ttl), accepted: true}
		}
	}
	if len(refused) == 0 {
		st.version = b.version
	}
}

// known remembers that a refused resource exists, so that its absence from a later full state can be told.
func (st *typeState) known(name string) {
	if _, ok := st.have[name]; !ok && st.FullState && name != "" {
		st.have[name] = held{}
	}
}

func (s *Session) release(st *typeState, out []Action) []Action {
	for _, a := range st.waiting {
		out = s.answer(st, a, out)
	}
	st.waiting = nil
	return out
}

func (s *Session) answer(st *typeState, a answer, out []Action) []Action {
	m := Send{TypeURL: st.URL, Nonce: a.nonce, Nack: a.nack, Error: a.text}
	if s.cfg.Variant == SotW {
		return s.request(st, m, out)
	}
	m.Node = !s.spoke
	s.spoke = true
	return append(out, m)
}

// nackText names every refused resource, sorted, up to NackTextMax bytes, then says how many more there are.
func nackText(refused []Rejection) string {
	slices.SortStableFunc(refused, func(a, b Rejection) int { return strings.Compare(a.Name, b.Name) })
	const room = 64 // for the count at the end
	var b strings.Builder
	for i, r := range refused {
		text := strings.ToValidUTF8(r.Text, "\uFFFD")
		if text == "" {
			text = fmt.Sprintf("resource %q rejected", r.Name)
		}
		if b.Len()+len(text)+1 > NackTextMax-room {
			if i == 0 {
				b.WriteString(strings.ToValidUTF8(text[:NackTextMax-room-1], ""))
				i++
			}
			if n := len(refused) - i; n > 0 {
				fmt.Fprintf(&b, "\nand %d more", n)
			}
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(text)
	}
	return b.String()
}
