// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"fmt"
	"strings"
	"testing"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

func strict() *Options { return &Options{AllowAbsoluteURL: true, EnableTrailers: true} }

func lax() *Options { o := strict(); o.Lax = true; return o }

// newHead returns a head bound to an arena of its own.
func newHead() *httpmsg.Head {
	h := new(httpmsg.Head)
	h.Reset(new(httpmsg.Arena))
	return h
}

// run feeds in to d, at most step new bytes at a time (0: all at once), the way a connection does: what is not consumed is presented again. It
// returns everything the decoder said, as text, so that two runs can be compared. asks are the requests a response decoder is told of.
func run(d *Decoder, in []byte, cuts []int, eof bool, asks ...httpmsg.Method) string {
	var out strings.Builder
	var body []byte
	tr := new(httpmsg.Fields)
	tr.Reset(new(httpmsg.Arena))
	pos, inBody := 0, false
	response := d.flags&dResponse != 0
	begin := func() {
		if response && d.phase == phIdle && len(asks) > 0 {
			d.BeginResponse(asks[0], true)
			asks = asks[1:]
		}
	}
	finishBody := func() {
		fmt.Fprintf(&out, "body %q", body)
		for i := range tr.List {
			fmt.Fprintf(&out, " %s=%q", tr.Name(i), tr.Value(i))
		}
		out.WriteString("\n")
		body, inBody = nil, false
		tr.Reset(new(httpmsg.Arena))
	}
	begin()
	for _, avail := range append(cuts, len(in)) {
		for {
			if inBody {
				n, data, end, k := d.Body(in[pos:avail], tr)
				pos += n
				body = append(body, data...)
				if k != fault.None {
					fmt.Fprintf(&out, "body %q fault %s\n", body, k.Row().Details)
					return out.String()
				}
				if end {
					finishBody()
					begin()
					continue
				}
				if len(data) == 0 {
					break
				}
				continue
			}
			if d.Tunnel() {
				break
			}
			h := newHead()
			n, st, k := d.Head(in[pos:avail], h)
			if k != fault.None {
				fmt.Fprintf(&out, "fault %s\n", k.Row().Details)
				return out.String()
			}
			if st == NeedMore {
				break
			}
			pos += n
			out.WriteString(show(h, response))
			inBody = d.HasBody()
			begin()
		}
	}
	if d.Tunnel() {
		fmt.Fprintf(&out, "tunnel %q\n", in[pos:])
		return out.String()
	}
	if !eof {
		if inBody {
			fmt.Fprintf(&out, "body %q ...\n", body)
		}
		if pos < len(in) {
			fmt.Fprintf(&out, "rest %q\n", in[pos:])
		}
		return out.String()
	}
	end, k := d.EOF()
	switch {
	case end:
		finishBody()
	case k != fault.None:
		fmt.Fprintf(&out, "body %q eof fault %s\n", body, k.Row().Details)
	default:
		out.WriteString("eof\n")
	}
	return out.String()
}

// show renders a head.
func show(h *httpmsg.Head, response bool) string {
	var b strings.Builder
	if response {
		fmt.Fprintf(&b, "%s %d", h.Version, h.Status)
	} else {
		fmt.Fprintf(&b, "%s %s %q host=%q(%d)", h.Version, h.MethodBytes(), h.Path(), h.Host(), h.HostCount)
	}
	fmt.Fprintf(&b, " body=%s", [...]string{"none", fmt.Sprint(h.Length), "chunked", "close"}[h.Body])
	for _, f := range []struct {
		on   bool
		name string
	}{{h.KeepAlive, "keep-alive"}, {h.Upgrade, "upgrade"}, {h.ExpectContinue, "expect"}, {h.TrailersOK, "te"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	for i := range h.List {
		if !h.List[i].Dead {
			fmt.Fprintf(&b, " %s=%q", h.Name(i), h.Value(i))
		}
	}
	return b.String() + "\n"
}

func request(o *Options) *Decoder {
	d := new(Decoder)
	d.InitRequest(o)
	return d
}

func response(o *Options) *Decoder {
	d := new(Decoder)
	d.InitResponse(o)
	return d
}

// invariant checks that every way to cut in gives the same outcome, and returns it.
func invariant(t *testing.T, mk func() *Decoder, in string, eof bool, asks ...httpmsg.Method) string {
	t.Helper()
	b := []byte(in)
	want := run(mk(), b, nil, eof, asks...)
	each := make([]int, 0, len(b))
	for i := range b {
		each = append(each, i)
		if got := run(mk(), b, []int{i}, eof, asks...); got != want {
			t.Errorf("input %q cut at %d:\n%s\nwhole:\n%s", in, i, got, want)
		}
	}
	if got := run(mk(), b, each, eof, asks...); got != want {
		t.Errorf("input %q byte by byte:\n%s\nwhole:\n%s", in, got, want)
	}
	return want
}
