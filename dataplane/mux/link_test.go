// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/internal/nettest"
	"sidecar/internal/telemetry/stats"
)

// conversation has every kind of event.
func conversation(r *rig) string {
	must := func(err error) { nettest.Must(r.t, err) }
	r.Get(1, "/get")
	r.Post(3, "/post")
	r.Data(3, "some ", false)
	r.Post(5, "/trailers")
	r.Data(3, "content", true)
	r.Data(5, strings.Repeat("x", 300), false)
	must(r.WritePing(false, [8]byte{1}))
	must(r.WriteRawFrame(0xbb, 0, 5, []byte("what is this")))
	r.Headers(5, true, "grpc-status", "7")
	r.Post(7, "/reset")
	r.Data(7, "lost", false)
	must(r.WriteRSTStream(7, xh2.ErrCodeCancel))
	must(r.WriteWindowUpdate(0, 1000))
	r.Get(9, "/last")
	must(r.WriteGoAway(0, xh2.ErrCodeNo, nil))
	return r.Take()
}

func TestNext_WhenInputIsSplitAnywhere_ThenTheEventsAreTheSame(t *testing.T) {
	users := []struct {
		name string
		run  func(*user)
		late bool // content is read when everything has come
		want []string
	}{
		{"at once", reads, false, []string{`GET /get, end content ""`, `POST /post, end content "some content"`,
			`POST /trailers, trailers 7 content "` + strings.Repeat("x", 300) + `"`, `POST /reset, reset by the peer CANCEL content "lost"`, `GET /last, end content ""`}},
		{"by three bytes", func(u *user) { u.take(3); u.take(3) }, true, nil},
		{"in the end", nil, true, nil},
	}
	for _, x := range users {
		text, total := "", 0
		// 0 is in one piece, -1 every byte alone, n splits at n.
		talk := func(t *testing.T, split int) string {
			r := newRig(t, http2.Server, nil)
			r.setup = func(u *user) { u.run = x.run }
			s := conversation(r)
			total = len(s)
			switch split {
			case 0:
				r.p.Write(s)
			case -1:
				for i := range len(s) {
					r.p.Write(s[i : i+1])
					r.turn()
				}
			default:
				r.p.Write(s[:split])
				r.turn()
				r.p.Write(s[split:])
			}
			r.turn()
			var out []string
			for _, u := range r.users {
				if x.late && u.s.S != nil {
					for !u.ended {
						u.take(7)
					}
				}
				if x.late && u.log[0] == "POST /reset" {
					u.got.Reset() // what it had read by then is the split's
				}
				out = append(out, u.story())
			}
			r.link.FailAll(fault.ConnectionTerminate, r.l.Now())
			r.close()
			r.check()
			if n := len(r.events); n < 1 || r.over != Nothing {
				t.Fatalf("%s, split %d: %q, over %d", x.name, split, r.events, r.over)
			}
			return strings.Join(append(out, r.events[len(r.events)-1]), "\n")
		}
		play := func(split int) (text string) {
			t.Run(fmt.Sprint(x.name, split), func(t *testing.T) { text = talk(t, split) })
			return text
		}
		text = play(0)
		if want := strings.Join(x.want, "\n"); x.want != nil && text != want+"\nkind 5 stream 0" {
			t.Errorf("%s: got\n%s", x.name, text)
		}
		if !strings.Contains(text, `trailers 7 content "`+strings.Repeat("x", 300)+`"`) {
			t.Errorf("%s: content or trailers are missing:\n%s", x.name, text)
		}
		for split := -1; split < total; split++ {
			if split == 0 {
				continue
			}
			if got := play(split); got != text {
				t.Fatalf("%s, split at %d of %d:\n--- got\n%s\n--- want\n%s", x.name, split, total, got, text)
			}
		}
	}
}

// flood is a kernel whose peer never stops sending, and where a system call may take its time.
type flood struct {
	*nettest.Clock
	on   bool
	fill []byte    // what comes, again and again; whole frames
	cost sys.Nanos // of a read
}

func (k *flood) Recv(fd sys.FD, b []byte) (int, sys.Errno) {
	if !k.on {
		return k.Clock.Recv(fd, b)
	}
	k.Recvs++
	k.Skew += k.cost
	for i := range b {
		b[i] = k.fill[i%len(k.fill)]
	}
	return len(b), 0
}

func TestNext_WhenThePeerSendsWithoutEnd_ThenARunReadsSoMuchAndGoesOnInTheNextTurn(t *testing.T) {
	for _, x := range []struct {
		name  string
		cost  sys.Nanos
		reads int
	}{{"fast", 0, maxReads}, {"slow", maxTurn, 1}, {"two in a turn", maxTurn / 2, 2}} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, http2.Server, nil)
			r.send()
			frame := make([]byte, 16) // of a type that nobody knows; the scratch holds whole ones
			frame[2], frame[3] = 7, 0xbb
			k := &flood{Clock: r.k, fill: frame, cost: x.cost}
			r.l.K = k
			r.p.Write("\x00\x00\x07\xbb\x00\x00\x00\x00\x001234567")
			k.on = true
			for range 5 {
				r.k.Recvs, r.runs = 0, 0
				r.l.Turn(false)
				if r.k.Recvs != x.reads || r.runs != 1 {
					t.Fatalf("%d reads in %d runs of a turn, want %d in one", r.k.Recvs, r.runs, x.reads)
				}
				if r.l.Queued() != 1 {
					t.Fatal("the rest waits for nothing")
				}
			}
			if r.over != Nothing {
				t.Fatal("the frames were none")
			}
			k.on = false
			r.Get(1, "/")
			r.send()
			if len(r.users) != 1 {
				t.Error("what came behind is lost")
			}
		})
	}
}

func TestNext_WhenEventsAreCostly_ThenATurnTakesFewAndAllAreHandled(t *testing.T) {
	const requests = 60
	for _, x := range []struct {
		cost sys.Nanos
		most int // in the first turn
	}{{0, requests}, {maxTurn / clockEvery, 2*clockEvery - 1}, {maxTurn, clockEvery - 1}} {
		r := newRig(t, http2.Server, nil)
		r.setup = func(u *user) {
			r.k.Skew += x.cost
			u.run = answers
		}
		r.send()
		for i := range uint32(requests) {
			r.Get(1+2*i, "/")
		}
		r.p.Write(r.Take())
		r.l.Turn(false)
		if n := len(r.users); n == 0 || n > x.most {
			t.Errorf("cost %d: %d events in the first turn, want at most %d", x.cost, n, x.most)
		}
		r.turn()
		if len(r.users) != requests || strings.Count(r.frames(), "DATA end ok") != requests {
			t.Errorf("cost %d: %d requests, want %d with their answers", x.cost, len(r.users), requests)
		}
		r.check()
	}
}

func TestNext_WhenTheConnectionIsOver_ThenTheOutcomeTellsHow(t *testing.T) {
	for _, x := range []struct {
		name   string
		does   func(r *rig)
		over   Got
		story  string
		frames string
	}{
		{"closed", func(r *rig) { r.p.Close() }, Gone, "POST /, reset by the peer NO_ERROR", ""},
		{"half closed", func(r *rig) { r.p.CloseWrite() }, Gone, "POST /, reset by the peer NO_ERROR", ""},
		{"half closed behind content", func(r *rig) { r.Data(1, "x", false); r.p.Write(r.Take()); r.p.CloseWrite() }, Gone,
			"POST /, reset by the peer NO_ERROR", ""},
		{"broken", func(r *rig) { nettest.Must(r.t, r.WriteRawFrame(xh2.FrameData, 0, 0, nil)) }, Failed,
			"POST /, reset by us NO_ERROR", "GOAWAY 1 PROTOCOL_ERROR"},
		{"no preface", nil, Failed, "", "GOAWAY 0 PROTOCOL_ERROR"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, http2.Server, nil)
			if x.does == nil {
				r.Take()
				r.p.Write("GET / HTTP/1.1\r\n\r\n")
			} else {
				r.Post(1, "/")
				r.send()
				x.does(r)
				r.p.Write(r.Take())
			}
			r.turn()
			if r.over != x.over {
				t.Fatalf("%d, want %d", r.over, x.over)
			}
			if len(r.users) > 0 {
				r.expect("story", strings.Join(r.users[0].log, ", "), x.story)
			}
			if x.over == Failed {
				r.expect("frames", r.frames(), x.frames)
				r.close()
			}
			r.check()
		})
	}
}

func TestFlush_WhenManyStreamsSend_ThenOneWriteTakesIt(t *testing.T) {
	const streams = 7
	for _, x := range []struct {
		name    string
		content int
		act     func(r *rig)
	}{
		{"in their run", 10, func(r *rig) {
			r.setup = func(u *user) { u.run = echoes }
			r.p.Write(r.Take())
		}},
		{"woken by another task", 10, func(r *rig) {
			r.p.Write(r.Take())
			r.l.Turn(false)
			if n := r.k.Sends; n != 0 {
				r.t.Errorf("%d writes of nothing", n)
			}
			for _, u := range r.users {
				echoes(u)
			}
		}},
		{"what waited for the window", 100, func(r *rig) {
			r.setup = func(u *user) { u.run = echoes }
			r.p.Write(r.Take())
			r.turn()
			r.k.Sends = 0
			nettest.Must(r.t, r.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 1000}))
			r.p.Write(r.Take())
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, http2.Server, nil)
			nettest.Must(t, r.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 20}))
			r.send()
			r.frames()
			for i := range uint32(streams) {
				r.Post(1+2*i, "/")
				r.Data(1+2*i, strings.Repeat("x", x.content), true)
			}
			r.k.Sends = 0
			x.act(r)
			r.turn()
			if r.k.Sends != 1 {
				t.Errorf("%d writes, want 1", r.k.Sends)
			}
			if n := strings.Count(r.frames(), "DATA end"); n != streams {
				t.Errorf("%d answers, want %d", n, streams)
			}
			r.check()
		})
	}
}

func TestFlush_WhenThePeerDoesNotRead_ThenTheMachineHoldsTheRestAndItArrivesLater(t *testing.T) {
	for _, size := range []int{1, 300 << 10, 3 << 20} {
		r := newRig(t, http2.Server, nil)
		nettest.Must(t, r.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 1 << 30}))
		nettest.Must(t, r.WriteWindowUpdate(0, 1<<30))
		content := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		sent := 0
		r.setup = func(u *user) {
			u.run = func(u *user) {
				for sent < size && u.s.Room() > 0 {
					n := min(size-sent, u.s.Room())
					u.s.Data(content[sent:sent+n], false)
					sent += n
				}
				if sent == size {
					u.s.End(nil)
					u.s.Finish()
				}
			}
			u.answer(false)
		}
		r.Get(1, "/")
		r.send()
		if c := r.link.C.Queued(); sent == size && size > 1<<20 || c > r.o.OutputLimit+2*Slack+1<<10 {
			t.Errorf("of %d bytes %d were taken and %d wait in the connection", size, sent, c)
		}
		var got strings.Builder
		for range 1000 {
			s, _ := r.p.Read()
			r.Feed(s)
			for f := r.Next(); f != nil; f = r.Next() {
				if d, ok := f.(*xh2.DataFrame); ok {
					got.Write(d.Data())
				}
			}
			r.turn()
		}
		if got.String() != string(content) {
			t.Errorf("of %d bytes %d came, or others", size, got.Len())
		}
		r.check()
	}
}

func TestFlush_WhenTheMachinesOutputIsFull_ThenTheRestFollowsThoughNothingComes(t *testing.T) {
	r := newRig(t, http2.Server, func(r *rig) { r.o.OutputLimit = 8 << 10 })
	nettest.Must(t, r.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 1 << 20}))
	r.setup = func(u *user) {
		u.answer(false)
		u.s.Data(make([]byte, 60<<10), true) // replayed at once, as it were
		u.s.Finish()
	}
	r.Get(1, "/")
	r.send()
	if got := r.frames(); !strings.Contains(got, "1 DATA end") {
		t.Errorf("the end did not leave:\n%s", got)
	}
	r.check()
}

func TestGoaway_WhenThePeerLeavesStreamsOut_ThenTheyAreUnprocessedAndTheOthersGoOn(t *testing.T) {
	for _, x := range []struct {
		last uint32
		want []string
	}{
		{0, []string{"reset by the peer REFUSED_STREAM unprocessed", "reset by the peer REFUSED_STREAM unprocessed", "reset by the peer REFUSED_STREAM unprocessed"}},
		{3, []string{"200, end", "200, end", "reset by the peer REFUSED_STREAM unprocessed"}},
		{math.MaxInt32, []string{"200, end", "200, end", "200, end"}},
	} {
		r := newRig(t, http2.Client, nil)
		r.send()
		for range 3 {
			r.open(true)
		}
		r.turn()
		nettest.Must(t, r.WriteGoAway(x.last, xh2.ErrCodeNo, nil))
		r.send()
		if r.link.H2.Slots() != 0 || r.open(true) != nil {
			t.Error("a stream was opened after GOAWAY")
		}
		for i, u := range r.users {
			if id := uint32(1 + 2*i); id <= x.last {
				r.Headers(id, true, ":status", "200")
				r.send()
				u.s.Finish()
			}
			r.expect(fmt.Sprintf("last %d, stream %d", x.last, i), strings.Join(u.log, ", "), x.want[i])
		}
		if r.over != Nothing {
			t.Errorf("over: %d", r.over)
		}
		r.check()
	}
}

func TestStreams_WhenTheirNumberIsLimited_ThenNoMoreAreOpen(t *testing.T) {
	t.Run("by the peer", func(t *testing.T) {
		r := newRig(t, http2.Client, nil)
		nettest.Must(t, r.WriteSettings(xh2.Setting{ID: xh2.SettingMaxConcurrentStreams, Val: 2}))
		r.send()
		a, b := r.open(true), r.open(true)
		if a == nil || b == nil || r.link.H2.Slots() != 0 || r.open(true) != nil {
			t.Fatalf("%v %v, %d slots", a, b, r.link.H2.Slots())
		}
		r.turn()
		a.s.Abort(http2.CodeCancel)
		if r.link.H2.Slots() != 1 || r.open(true) == nil || r.open(true) != nil {
			t.Error("a stream that is over takes a place")
		}
	})
	t.Run("by us", func(t *testing.T) {
		r := newRig(t, http2.Server, func(r *rig) { r.o.MaxConcurrentStreams = 2 })
		r.send() // our SETTINGS are acknowledged
		r.Post(1, "/a")
		r.Post(3, "/b")
		r.Post(5, "/c")
		r.send()
		r.expect("frames", r.frames(), "5 RST REFUSED_STREAM")
		if len(r.users) != 2 || r.sh.Streams() != 2 {
			t.Fatalf("%d users, %d streams", len(r.users), r.sh.Streams())
		}
		answers(r.users[0])
		r.Data(1, "", true)
		r.Get(7, "/d")
		r.send()
		if len(r.users) != 3 {
			t.Error("a stream that is over takes a place")
		}
	})
}

func TestFailAll_WhenTheConnectionIsOver_ThenEveryUserHearsOnceAndNothingIsHeld(t *testing.T) {
	for _, x := range []struct {
		why    fault.Kind
		remote bool
	}{{fault.ConnectionTerminate, true}, {fault.H2Protocol, false}, {fault.LocalReset, false}} {
		for _, clings := range []bool{false, true} {
			r := newRig(t, http2.Server, nil)
			r.setup = func(u *user) { u.clings = clings }
			for i := range uint32(5) {
				r.Post(1+2*i, "/")
				r.Data(1+2*i, "unread", false)
			}
			r.send()
			r.frames()
			r.users[1].answer(false)
			r.users[1].s.Data(make([]byte, 100<<10), false) // more than the window: it waits
			r.users[2].s.Finish()
			r.turn()
			r.frames()
			r.link.Begin()
			r.link.FailAll(x.why, r.l.Now())
			for i, u := range r.users {
				n := 0
				for _, l := range u.log {
					if strings.HasPrefix(l, "reset") {
						n++
						if strings.HasPrefix(l, "reset by the peer") != x.remote {
							t.Errorf("%v: %s", x.why, l)
						}
					}
				}
				if gone := i == 2; n != 1 && !gone || n != 0 && gone {
					t.Errorf("%v: user %d heard of it %d times", x.why, i, n)
				}
			}
			r.link.Flush(r.l.Now())
			r.turn()
			want := "" // there is nobody to tell
			if !x.remote {
				want = "1 RST NO_ERROR\n3 RST NO_ERROR\n7 RST NO_ERROR\n9 RST NO_ERROR"
				if clings { // the machine resets what is let go for it
					want = strings.ReplaceAll(want, "NO_ERROR", "CANCEL")
				}
			}
			r.expect(fmt.Sprint(x.why, " clings ", clings), r.frames(), want)
			r.check()
		}
	}
}

func TestPanic_WhenAUserPanics_ThenItsStreamIsOverAndTheLinkOnlyIfItIsTorn(t *testing.T) {
	for _, x := range []struct {
		reason string
		torn   bool
	}{{"once", false}, {"twice", true}} {
		t.Run(x.reason, func(t *testing.T) {
			r := newRig(t, http2.Server, nil)
			panics := 0
			loop.OnPanic = func(int, any) { panics++ }
			r.setup = func(u *user) {
				if u.run = answers; string(u.req.Path()) == "/boom" {
					u.run = func(*user) { panic(x.reason) }
				}
			}
			r.Get(1, "/a")
			r.Get(3, "/boom")
			r.Get(5, "/b")
			r.send()
			if boom := r.users[1]; strings.Join(boom.log, ", ") != "GET /boom, poisoned" && !x.torn || panics != 1 || r.link.C != nil && r.link.Torn() != x.torn {
				t.Errorf("%d panics, %q", panics, boom.log)
			}
			if x.torn {
				if r.over != Gone || len(r.users) != 2 {
					t.Errorf("over %d, %d users", r.over, len(r.users))
				}
				return
			}
			r.expect("frames", r.frames(), "1 HEADERS :status=200", "1 DATA end ok", "3 RST INTERNAL_ERROR", "5 HEADERS :status=200", "5 DATA end ok")
			r.check()
		})
	}
}

func TestPack_WhenALinkChangesItsWorker_ThenItGoesOnAsItWas(t *testing.T) {
	from, to := newRig(t, http2.Server, nil), newRig(t, http2.Server, nil)
	from.setup = func(u *user) { u.run = answers }
	from.Get(1, "/a")
	from.Headers(3, true, ":method", "GET", ":scheme", "http", ":authority", "x.test", ":path", "/", "x-long", strings.Repeat("l", 200)) // the tables remember it
	from.send()
	from.frames()
	to.close()
	if !from.link.Resting() {
		t.Fatal("an idle link does not rest")
	}
	c := from.link.C
	p := from.link.Pack()
	c.Pack()
	from.turn()
	from.Headers(5, true, ":method", "GET", ":scheme", "http", ":authority", "x.test", ":path", "/", "x-long", strings.Repeat("l", 200))
	from.p.Write(from.Take()) // while it is on its way
	c.Unpack(to.l, &to.task, nil, nil)
	to.link.Unpack(to.sh, c, &to.task, p)
	to.setup = func(u *user) {
		u.run = answers
		u.log = append(u.log, fmt.Sprint(len(u.req.A.Tail()) > 200))
	}
	to.turn()
	if len(to.users) != 1 || to.users[0].story() != `GET /, true content ""` {
		t.Fatalf("%d users", len(to.users))
	}
	from.expect("frames", from.frames(), "5 HEADERS :status=200", "5 DATA end ok")
	from.check()
	to.check()
}

func TestResting_WhenSomethingIsUnderWay_ThenFalse(t *testing.T) {
	for _, x := range []struct {
		name string
		want bool
		does func(r *rig)
	}{
		{"nothing", true, func(r *rig) {}},
		{"a request that was answered", true, func(r *rig) { r.setup = func(u *user) { u.run = answers }; r.Get(1, "/"); r.send() }},
		{"a stream", false, func(r *rig) { r.Post(1, "/"); r.send() }},
		{"a frame in part", false, func(r *rig) { r.p.Write("\x00\x00\x08\x06"); r.turn() }},
		{"bytes that nobody has read", false, func(r *rig) { r.p.Write("\x00"); r.l.Cancel(&r.task); r.link.C.SetOwner(nil); r.turn() }},
		{"output", false, func(r *rig) { r.link.Begin(); r.link.H2.SendGoaway(http2.MaxStream, http2.CodeNo) }},
	} {
		r := newRig(t, http2.Server, nil)
		r.send()
		if x.does(r); r.link.Resting() != x.want {
			t.Errorf("%s: %v", x.name, !x.want)
		}
	}
}

func TestCount_WhenThingsHappen_ThenTheyAreInTheStatisticsOnce(t *testing.T) {
	r := newRig(t, http2.Server, nil)
	r.Post(1, "/")
	r.Headers(1, true, "x-t", "1") // trailers
	r.Post(3, "/")
	nettest.Must(t, r.WriteRSTStream(3, xh2.ErrCodeCancel))
	r.send()
	r.users[0].s.Abort(http2.CodeCancel)
	nettest.Must(t, r.WriteRawFrame(xh2.FrameData, 0, 0, nil)) // which Envoy counts nowhere
	r.send()
	sc := stats.NewRegistry(1).Scope("http2.", stats.HTTP2Def)
	for range 2 {
		r.link.Count(sc, 1)
		for id, want := range map[int]int64{stats.HTTP2Trailers: 1, stats.HTTP2RxReset: 1, stats.HTTP2TxReset: 1, stats.HTTP2GoawaySent: 0} {
			if n, _ := sc.Value(id); n != want {
				t.Errorf("%s is %d, want %d", stats.HTTP2Def.Stats[id].Name, n, want)
			}
		}
	}
	r = newRig(t, http2.Server, nil)
	r.Post(1, "/")
	r.send()
	r.users[0].s.Abort(http2.CodeCancel)
	r.link.Count(nil, 1) // nobody wants them
	r.link.Count(sc, 1)
	if n, _ := sc.Value(stats.HTTP2TxReset); n != 1 {
		t.Errorf("tx_reset is %d", n)
	}
}

func TestCount_WhenStreamsComeAndGo_ThenTheGaugeFollows(t *testing.T) {
	r := newRig(t, http2.Server, nil)
	sc := stats.NewRegistry(1).Scope("http2.", stats.HTTP2Def)
	is := func(want int64) {
		t.Helper()
		if n, _ := sc.Value(stats.HTTP2StreamsActive); n != want {
			t.Errorf("streams_active is %d, want %d", n, want)
		}
	}
	r.Post(1, "/")
	r.Post(3, "/")
	r.send()
	for range 2 {
		r.link.Count(sc, 1)
		is(2)
	}
	r.users[0].s.Abort(http2.CodeCancel)
	r.link.Count(sc, 1)
	is(1)
	r.link.CountEnd(sc, 1)
	is(0)
}

func TestAllocs_WhenRequestsAreServedOnAWarmLink_ThenThereAreNone(t *testing.T) {
	r := newRig(t, http2.Server, nil)
	r.send()
	u := &user{r: r}
	u.req.Reset(&u.a)
	id, body, buf := uint32(1), []byte("ok"), make([]byte, 64<<10)
	r.task.Init(plain{r, u, body})
	r.Get(1, "/")
	head := []byte(r.Take()) // its fields are in the table from then on
	r.Get(3, "/")
	head2 := []byte(r.Take())
	one := func() {
		p := head2
		if id == 1 {
			p = head
		}
		p[5], p[6], p[7], p[8] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
		id += 2
		if n, full := r.p.WriteSome(p); n != len(p) || full {
			t.Fatal(n, full)
		}
		r.l.Turn(false)
		if n, e := r.k.Linux.Recv(sys.FD(r.p.FD), buf); n < 9 || e != 0 {
			t.Fatal(n, e)
		}
	}
	for range 64 {
		one()
	}
	if n := testing.AllocsPerRun(200, one); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
	r.check()
}

// plain is an owner that answers every request with body.
type plain struct {
	r    *rig
	u    *user
	body []byte
}

func (p plain) Advance(now sys.Nanos) loop.Step {
	k, ev := &p.r.link, &p.r.sh.Ev
	k.Begin()
	p.u.req.Reset(&p.u.a)
	p.u.a.Reset(1 << 16)
	for ev.Head = &p.u.req; k.Next(now) == Event; ev.Head = &p.u.req {
		if ev.Kind != http2.EventHead {
			continue
		}
		p.u.s = k.Open(ev.Stream, p.u, ev.End)
		p.u.answer(false)
		p.u.s.Data(p.body, true)
		p.u.s.Finish()
	}
	k.Flush(now)
	return loop.Idle
}
