// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// judge plays the server and the caller, and checks every action against the rules.
type judge struct {
	t       *testing.T
	s       *Session
	variant Variant
	// Of all streams
	batches map[BatchID]*sentResponse
	serial  int
	// Of this stream
	open    bool
	nonces  map[string]*sentResponse
	reads   int // Read actions still to come
	answers map[string][]string
	expect  map[string][]string // delta: nonces that must be answered, in order
	node    bool
}

type sentResponse struct {
	typ, nonce, version    string
	batch                  BatchID
	judged, refused, holds bool
	stream                 int
}

func (j *judge) step(ev Event) {
	for _, a := range j.s.Step(ev, nil) {
		switch a := a.(type) {
		case Send:
			j.send(a)
		case Deliver:
			r := j.nonces[a.Nonce]
			if r == nil || r.typ != a.TypeURL {
				j.t.Fatalf("delivered what was not sent: %+v", a)
			}
			r.batch = a.Batch
			j.batches[a.Batch] = r
		case Read:
			j.reads--
			if j.reads < 0 {
				j.t.Fatal("more reads than responses")
			}
		case Reconnect:
			if a.After < 0 || a.After >= BackoffMax {
				j.t.Fatalf("pause %v", a.After)
			}
		}
	}
}

func (j *judge) send(a Send) {
	if !j.open {
		j.t.Fatalf("request on a closed stream: %+v", a)
	}
	if a.Node == j.node && !a.Node {
		j.t.Fatal("first message without node")
	}
	j.node = true
	for _, l := range [][]string{a.Names, a.Add, a.Remove} {
		if c := slices.Clone(l); len(c) > 0 {
			slices.Sort(c)
			if len(slices.Compact(c)) != len(l) {
				j.t.Fatalf("a name twice: %v", l)
			}
		}
	}
	if a.Nonce == "" {
		return
	}
	r := j.nonces[a.Nonce]
	switch {
	case r == nil || r.typ != a.TypeURL:
		j.t.Fatalf("answers a nonce that was not sent for the type: %+v", a)
	case !r.judged:
		j.t.Fatalf("answers nonce %s before its verdict", a.Nonce)
	case r.holds:
		j.t.Fatalf("answers nonce %s that is withheld", a.Nonce)
	case a.Nack && (!r.refused || a.Error == ""):
		j.t.Fatalf("nack of what was accepted, or without text: %+v", a)
	case !a.Nack && r.refused && (j.variant == Delta || a.Version == r.version):
		j.t.Fatalf("acknowledges refused nonce %s", a.Nonce)
	}
	if j.variant == Delta {
		want := j.expect[a.TypeURL]
		if len(want) == 0 || want[0] != a.Nonce {
			j.t.Fatalf("answer %s out of order, want %v", a.Nonce, want)
		}
		j.expect[a.TypeURL] = want[1:]
	}
}

// unhold marks what a release, or a verdict without hold, lets go.
func (j *judge) unhold(typ string) {
	for _, r := range j.nonces {
		if r.typ == typ && r.judged {
			r.holds = false
		}
	}
}

// op performs one operation chosen by three bytes.
func (j *judge) op(op, a, b byte) {
	types := []string{clusterURL, endpointsURL, listenerURL, "type.googleapis.com/other"}
	typ := types[a%4]
	names := []string{string(rune('a' + b%5)), string(rune('a' + b/5%5))}
	switch op % 10 {
	case 0:
		j.open, j.node, j.reads = true, false, 0
		j.nonces, j.expect = map[string]*sentResponse{}, map[string][]string{}
		j.step(Opened{})
	case 1:
		j.open = false
		j.step(Closed{})
	case 2, 3:
		j.respond(typ, names, b)
	case 4, 5:
		j.judgeOne(int(a), names, b)
	case 6:
		if a > 100 {
			j.unhold(typ)
			j.step(Release{TypeURL: typ})
		}
	case 7:
		j.step(Subscribe{TypeURL: typ, Names: names[:b%3%2+1], Wildcard: b > 200})
	case 8:
		j.step(Unsubscribe{TypeURL: typ, Names: names, Wildcard: b > 128})
	case 9:
		j.step(Flush{})
		j.step(Tick{Now: time.Duration(j.serial) * time.Second})
	}
}

func (j *judge) respond(typ string, names []string, b byte) {
	j.serial++
	r := &sentResponse{typ: typ, nonce: fmt.Sprintf("n%d", j.serial), version: fmt.Sprintf("v%d", j.serial)}
	if j.open {
		j.nonces[r.nonce] = r
		j.reads++
	}
	ev := Response{TypeURL: typ, Version: r.version, Nonce: r.nonce, Now: time.Duration(j.serial) * time.Second}
	for i, n := range names {
		ev.Resources = append(ev.Resources, Raw{Name: n, Version: r.version, HasBody: int(b)>>i&1 == 0, TTL: time.Duration(b%4) * time.Second})
	}
	if b > 150 {
		ev.Removed = names[1:]
	}
	for _, a := range j.s.Step(ev, nil) {
		switch a := a.(type) {
		case Deliver:
			r.batch, r.refused = a.Batch, len(a.Rejected) > 0
			j.batches[a.Batch] = r
			if j.variant == Delta {
				j.expect[typ] = append(j.expect[typ], r.nonce)
			}
		case Read:
			j.reads--
		default:
			j.t.Fatalf("a response caused %T before any verdict", a)
		}
	}
}

func (j *judge) judgeOne(pick int, names []string, b byte) {
	var ids []BatchID
	for id, r := range j.batches {
		if !r.judged {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		j.step(Verdict{Batch: BatchID(pick)})
		return
	}
	slices.Sort(ids)
	r := j.batches[ids[0]] // in order, as the one reader above a stream gives them
	live := j.nonces[r.nonce] == r
	v := Verdict{Batch: ids[0], Hold: b > 180}
	if b%3 == 0 {
		v.Rejected = []Rejection{{Name: names[0], Text: "bad"}}
		r.refused = true
	}
	r.judged, r.holds = true, v.Hold
	if !v.Hold && live {
		j.unhold(r.typ)
	}
	j.step(v)
}

// FuzzSessionStep plays random events: no panic, nothing answered before its verdict, nothing acknowledged that was refused, delta answers
// complete and in order, one read permit per response.
func FuzzSessionStep(f *testing.F) {
	f.Add([]byte("\x01\x07\x00\xff\x00\x00\x00\x02\x00\x01\x04\x00\x01\x09\x00\x00"))
	f.Add([]byte("\x00\x07\x00\xff\x00\x00\x00\x02\x00\xb7\x04\x00\xb7\x06\xff\x00\x01\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 || len(in) > 1<<11 {
			return
		}
		v := Variant(in[0] & 1)
		j := &judge{t: t, variant: v, s: New(Config{Variant: v, Seed: 1}), batches: map[BatchID]*sentResponse{}}
		for in = in[1:]; len(in) >= 3; in = in[3:] {
			j.op(in[0], in[1], in[2])
		}
		for range len(j.batches) {
			j.judgeOne(0, []string{"a"}, 1)
		}
		for _, typ := range []string{clusterURL, endpointsURL, listenerURL, "type.googleapis.com/other"} {
			j.unhold(typ)
			j.step(Release{TypeURL: typ})
		}
		if j.open {
			for typ, left := range j.expect {
				if len(left) > 0 {
					t.Fatalf("%s: never answered: %v", typ, left)
				}
			}
			if j.reads != 0 {
				t.Fatalf("%d read permits missing", j.reads)
			}
		}
	})
}
