// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"fmt"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
	"sidecar/internal/nettest"
)

func TestStream_WhenTheUserDoesNotRead_ThenThePeersWindowStaysClosedAndContentIsKept(t *testing.T) {
	const window = 1000
	r := newRig(t, http2.Server, func(r *rig) { r.o.StreamWindow, r.o.MaxStreamWindow = window, window })
	r.send()
	r.frames()
	increments := func() (stream int) {
		s, _ := r.p.Read()
		r.Feed(s)
		for f := r.Next(); f != nil; f = r.Next() {
			stream += nettest.Increment(f, 1)
		}
		return stream
	}
	r.Post(1, "/")
	text := strings.Repeat("0123456789", window/10)
	for i := 0; i < window; i += 250 {
		r.Data(1, text[i:i+250], false)
		r.send()
	}
	u := r.users[0]
	if p, _ := u.s.In(1 << 20); string(p) != text || !u.s.Readable() || u.s.Empty() {
		t.Fatalf("%d bytes are kept, want all %d", len(p), window)
	}
	if p, end := u.s.In(10); len(p) != 10 || end {
		t.Errorf("In(10) gives %d bytes, end %v", len(p), end)
	}
	if n := increments(); n != 0 {
		t.Fatalf("the window was opened by %d", n)
	}
	u.take(window / 4)
	r.turn()
	if n := increments(); n != 0 {
		t.Errorf("a quarter opened the window by %d at once", n)
	}
	u.take(window / 2)
	r.turn()
	if n := increments(); n != window*3/4 {
		t.Errorf("three quarters opened it by %d", n)
	}
	r.Data(1, "and more", true) // behind what is unread
	r.send()
	u.take(1 << 20)
	if u.got.String() != text+"and more" || !u.ended || !u.s.Empty() {
		t.Errorf("%d bytes came, ended %v", u.got.Len(), u.ended)
	}
	r.Post(3, "/")
	r.Data(3, text+"!", false)
	r.send()
	r.expect("more than the window", r.frames(), "3 RST FLOW_CONTROL_ERROR")
	u.s.Abort(http2.CodeCancel)
	r.turn()
	r.check()
}

// other is somebody who reads into the scratch too.
type other struct{}

func (other) Spill() {}

func TestDeliver_WhenAUserReadsFromAnotherConnection_ThenInputStays(t *testing.T) {
	r := newRig(t, http2.Server, nil)
	r.setup = func(u *user) {
		u.run = func(u *user) {
			if p, _ := u.s.In(1); len(p) > 0 {
				b := r.l.Scratch(other{})
				for i := range b[:1<<10] {
					b[i] = 'x'
				}
				r.l.DropScratch(other{})
			}
			reads(u)
		}
	}
	r.Post(1, "/a")
	r.Post(3, "/b")
	r.Data(1, "first", false)
	r.Data(3, "second", true)
	r.Data(1, " and last", true)
	r.send()
	for i, want := range []string{`POST /a, end content "first and last"`, `POST /b, end content "second"`} {
		if i >= len(r.users) {
			t.Fatalf("%d users, over %d", len(r.users), r.over)
		}
		r.expect("story", r.users[i].story(), want)
	}
}

func TestStream_WhenThePeersWindowIsSmall_ThenOutputWaitsInOrder(t *testing.T) {
	text := "0123456789abcdefghij"
	tr := func(u *user) *httpmsg.Fields {
		u.tr.Reset(&u.c)
		u.tr.AddString(httpmsg.IDGrpcStatus.Key(), "0")
		return &u.tr
	}
	for _, x := range []struct {
		name string
		send func(u *user)
		last string
	}{
		{"end with the content", func(u *user) { u.s.Data([]byte(text), true) }, "1 DATA end j"},
		{"end behind", func(u *user) { u.s.Data([]byte(text), false); u.s.End(nil) }, "1 DATA end j"},
		{"in pieces", func(u *user) { u.s.Data([]byte(text[:7]), false); u.s.Data([]byte(text[7:]), false); u.s.End(nil) }, "1 DATA end j"},
		{"trailers behind", func(u *user) { u.s.Data([]byte(text), false); u.s.End(tr(u)) }, "1 HEADERS end grpc-status=0"},
		{"nothing behind the end", func(u *user) { u.s.Data([]byte(text), true); u.s.Data([]byte("more"), true); u.s.End(tr(u)) }, "1 DATA end j"},
	} {
		for _, step := range []int{1, 3, 5} {
			r := newRig(t, http2.Server, nil)
			nettest.Must(t, r.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 5}))
			r.Get(1, "/")
			r.send()
			r.frames()
			u := r.users[0]
			u.answer(false)
			if n := u.s.Room(); n != Slack { // the peer has room for five
				t.Errorf("%s: Room is %d", x.name, n)
			}
			x.send(u)
			if u.s.Room() != 0 || !u.s.Waiting() {
				t.Errorf("%s: Room is %d, waiting %v", x.name, u.s.Room(), u.s.Waiting())
			}
			if m, sent := u.s.Meter(), u.s.S.Meter().WireOut; m.WireOut != sent+uint64(9+len(text)-5) {
				t.Errorf("%s: the meter tells %d octets, %d of them sent", x.name, m.WireOut, sent)
			}
			u.s.Finish()
			r.turn()
			r.expect(x.name, r.frames(), "1 HEADERS :status=200", "1 DATA 01234")
			got, last := "01234", ""
			for n := 5; n < len(text); n += step {
				if r.sh.Streams() != 1 {
					t.Fatalf("%s: the stream has gone before its content", x.name)
				}
				nettest.Must(t, r.WriteWindowUpdate(1, uint32(step)))
				r.send()
				for _, l := range strings.Split(r.frames(), "\n") {
					if d, ok := strings.CutPrefix(strings.Replace(l, " end", "", 1), "1 DATA "); ok {
						got += d
					}
					last = l
				}
			}
			if want := strings.Replace(x.last, "j", text[len(text)-(len(text)-5-1)%step-1:], 1); got != text || last != want {
				t.Errorf("%s by %d: got %q, then %q, want %q", x.name, step, got, last, want)
			}
			r.check()
		}
	}
}

func TestStream_WhenOutputHasLeft_ThenTheUserIsRunForMore(t *testing.T) {
	r := newRig(t, http2.Server, nil)
	nettest.Must(t, r.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 10}))
	nettest.Must(t, r.WriteWindowUpdate(0, 1<<20))
	left, runs := 100<<10, 0
	r.setup = func(u *user) {
		u.answer(false)
		u.run = func(u *user) {
			runs++
			for n := u.s.Room(); n > 0 && left > 0; n = u.s.Room() {
				n = min(n, left)
				left -= n
				u.s.Data(make([]byte, n), left == 0)
			}
			if left == 0 {
				u.s.Finish()
			}
		}
	}
	r.Get(1, "/")
	r.send()
	if taken := 100<<10 - left; taken > 10+Slack {
		t.Errorf("%d bytes were taken for a window of 10", taken)
	}
	for n := 0; left > 0; n++ {
		if n > 100 {
			t.Fatalf("%d bytes are left, %d runs", left, runs)
		}
		nettest.Must(t, r.WriteWindowUpdate(1, 10<<10))
		r.send()
	}
	nettest.Must(t, r.WriteWindowUpdate(1, 10<<10))
	r.send()
	if s := r.frames(); !strings.Contains(s, "1 DATA end") {
		t.Error("the end is missing")
	}
	r.check()
}

func TestReset_WhenAStreamIsInAnyPlace_ThenItsUserHearsAndNothingIsHeld(t *testing.T) {
	places := []struct {
		name string
		does func(r *rig, u *user)
		gone bool // the user has had its last word
	}{
		{"fresh", func(*rig, *user) {}, false},
		{"unread content", func(r *rig, _ *user) { r.Data(1, "unread", false) }, false},
		{"answered", func(_ *rig, u *user) { u.answer(false) }, false},
		{"output waits", func(_ *rig, u *user) { u.answer(false); u.s.Data(make([]byte, 100<<10), false) }, false},
		{"trailers wait", func(_ *rig, u *user) {
			u.answer(false)
			u.s.Data(make([]byte, 100<<10), false)
			u.tr.AddString(httpmsg.IDGrpcStatus.Key(), "0")
			u.s.End(&u.tr)
		}, false},
		{"finished, output waits", func(_ *rig, u *user) { u.answer(false); u.s.Data(make([]byte, 100<<10), true); u.s.Finish() }, true},
		{"finished, the request goes on", func(_ *rig, u *user) { answers(u) }, true},
	}
	for _, x := range places {
		for _, by := range []string{"peer", "user", "stream error"} {
			if by == "user" && x.gone {
				continue
			}
			r := newRig(t, http2.Server, nil)
			r.Post(1, "/")
			r.send()
			u := r.users[0]
			x.does(r, u)
			r.send()
			r.frames()
			switch by {
			case "peer":
				nettest.Must(t, r.WriteRSTStream(1, xh2.ErrCodeCancel))
			case "user":
				u.s.Abort(http2.CodeInternal)
			default:
				nettest.Must(t, r.WriteRawFrame(xh2.FrameWindowUpdate, 0, 1, []byte{0, 0, 0, 0})) // no increment
			}
			r.send()
			got, heard := r.frames(), strings.Join(u.log, ", ")
			wantFrames, wantHeard := "", "POST /"
			switch by {
			case "peer":
				wantHeard += ", reset by the peer CANCEL"
			case "user":
				wantFrames = "1 RST INTERNAL_ERROR"
			default:
				wantFrames = "1 RST PROTOCOL_ERROR"
				wantHeard += ", reset by us PROTOCOL_ERROR"
			}
			if x.gone {
				wantHeard = "POST /"
			}
			if got != wantFrames || heard != wantHeard || r.over != Nothing {
				t.Errorf("%s, by %s: frames %q, want %q; heard %q, want %q; over %d", x.name, by, got, wantFrames, heard, wantHeard, r.over)
			}
			r.Get(3, "/next")
			r.send()
			if len(r.users) != 2 {
				t.Fatalf("%s, by %s: the connection does not go on", x.name, by)
			}
			r.users[1].s.Abort(http2.CodeCancel)
			r.turn()
			r.check()
		}
	}
}

func TestLinger_WhenAnAnswerIsOutBeforeItsRequest_ThenTheRestIsThrownAwayForAWhile(t *testing.T) {
	for _, x := range []struct {
		name   string
		does   func(r *rig)
		frames string
		left   int
	}{
		{"nothing comes", func(*rig) {}, "", 1},
		{"the end comes", func(r *rig) { r.Data(1, "the rest", true); r.send() }, "", 0},
		{"the trailers come", func(r *rig) { r.Headers(1, true, "x-t", "1"); r.send() }, "", 0},
		{"just before the time is over", func(r *rig) { r.wait(lingerTime - sys.Millisecond) }, "", 1},
		{"the time is over", func(r *rig) { r.wait(lingerTime + sys.Millisecond) }, "1 RST NO_ERROR", 0},
		{"little comes", func(r *rig) { r.Data(1, strings.Repeat("x", lingerContent), false); r.send() }, "", 1},
		{"much comes", func(r *rig) {
			r.Data(1, strings.Repeat("x", lingerContent), false)
			r.Data(1, "x", false)
			r.send()
		}, "1 RST NO_ERROR", 0},
		{"what is wrong comes", func(r *rig) {
			nettest.Must(r.t, r.WriteRawFrame(xh2.FrameWindowUpdate, 0, 1, []byte{0, 0, 0, 0}))
			r.send()
		}, "1 RST PROTOCOL_ERROR", 0},
		{"a reset comes", func(r *rig) { nettest.Must(r.t, r.WriteRSTStream(1, xh2.ErrCodeNo)); r.send() }, "", 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, http2.Server, func(r *rig) { r.o.KeepaliveInterval, r.o.KeepaliveTimeout = 3600*sys.Second, sys.Second })
			r.Post(1, "/")
			r.send()
			u := r.users[0]
			u.answer(false)
			u.s.Data([]byte("ok"), true)
			r.turn()
			u.s.Finish()
			r.turn()
			r.expect("answer", r.frames(), "1 HEADERS :status=200", "1 DATA end ok")
			if r.link.Busy() || r.link.H2.Active() != 1 {
				t.Errorf("busy %v with %d streams", r.link.Busy(), r.link.H2.Active())
			}
			x.does(r)
			r.expect("frames", r.frames(), x.frames)
			if n := r.sh.Streams(); n != x.left {
				t.Errorf("%d streams, want %d", n, x.left)
			}
			if x.left > 0 {
				r.wait(lingerTime)
			}
			r.check()
			if at := r.link.Deadline(); at != r.link.H2.Deadline() {
				t.Errorf("a deadline at %d is left", at)
			}
			r.Post(3, "/")
			r.send()
			if !r.link.Busy() {
				t.Error("not busy with a stream that does not linger")
			}
		})
	}
}

func TestLinger_WhenManyDoAndEndInAnyOrder_ThenEachIsResetAtItsTime(t *testing.T) {
	const apart = 10 * sys.Millisecond
	for gone := range 4 {
		r := newRig(t, http2.Server, nil)
		r.setup = func(u *user) { u.run = answers }
		for i := range uint32(4) {
			r.Post(1+2*i, "/")
			r.send()
			if i == 2 && gone < 3 {
				r.Data(uint32(1+2*gone), "", true) // leaves the list at the front, in the middle, at the end
				r.send()
			}
			r.wait(apart)
		}
		r.frames()
		r.k.Skew += lingerTime - 4*apart - apart/2
		for i := range 4 {
			want := fmt.Sprintf("%d RST NO_ERROR", 1+2*i)
			if i == gone && gone < 3 {
				want = ""
			}
			r.wait(apart)
			r.expect(fmt.Sprintf("%d ended, at the time of %d", gone, i), r.frames(), want)
		}
		r.check()
	}
}

func TestLinger_WhenTheRoleIsClient_ThenAFinishedStreamIsResetAtOnce(t *testing.T) {
	for _, end := range []bool{false, true} {
		r := newRig(t, http2.Client, nil)
		r.send()
		u := r.open(false)
		u.s.Data([]byte("part"), end)
		r.turn()
		r.frames()
		u.s.Finish()
		r.turn()
		r.expect("frames", r.frames(), "1 RST NO_ERROR")
		r.check()
	}
}
