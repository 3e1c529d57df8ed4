// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sidecar/dataplane/sys"
)

// TestFrameCases runs the frames of http2-frame-test-case. A malformed one must end the connection, or its stream, with one of the codes it allows. A
// well-formed one must be read as it is meant; on a stream it is moved to the one that is open, and what is no header block is a compression error.
func TestFrameCases(t *testing.T) {
	text, err := os.ReadFile("testdata/frames.data")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for sc := bufio.NewScanner(strings.NewReader(string(text))); sc.Scan(); {
		if strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		n++
		w := strings.Fields(sc.Text())
		wire, err := hex.DecodeString(w[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Run(w[0], func(t *testing.T) {
			if w[2] == "error" {
				got := frameOutcome(t, wire)
				if !slices.Contains(w[3:], strconv.Itoa(int(got))) {
					t.Errorf("%s, want one of %v", got, w[3:])
				}
				return
			}
			h := parseHeader(wire)
			for i, v := range []int{int(h.length), int(h.typ), int(h.flags), int(h.id)} {
				if strconv.Itoa(v) != w[2+i] {
					t.Errorf("header %+v, want %v", h, w[2:])
				}
			}
			if h.id != 0 {
				wire = append(appendHeader(nil, int(h.length), h.typ, h.flags, 1), wire[frameHeader:]...)
			}
			want := map[frameType]Code{ftHeaders: CodeCompression, ftContinuation: CodeProtocol, ftPushPromise: CodeProtocol, ftRstStream: CodeCancel}[h.typ]
			if h.typ == ftRstStream {
				want = Code(wire[12])
			}
			if got := frameOutcome(t, wire); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	if n != 34 {
		t.Errorf("%d cases", n)
	}
}

// frameOutcome feeds one frame to a server with stream 1 open and returns the code it ends something with.
func frameOutcome(t *testing.T, wire []byte) Code {
	e := newEndpoint(Server, defaults(Server))
	p := newPeer()
	in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
	in = append(in, p.frame(t, []string{"HEADERS", "1", "END_HEADERS", ":method=POST", ":scheme=http", ":path=/", ":authority=h"})...)
	e.feed(in, sys.Second)
	e.take()
	for in = wire; ; {
		n, st := e.c.Next(in, sys.Second, &e.ev)
		in = in[n:]
		switch {
		case st == Failed, st == Got && e.ev.Kind == EventReset:
			return e.ev.Code
		case st == NeedMore:
			return CodeNo
		}
	}
}

// The head is the owner's for the next connection too: what a broken block brought must not stay there.
func TestHead_WhenABlockEndsTheConnection_ThenItIsEmptyAgain(t *testing.T) {
	for name, block := range map[string]string{
		"bomb":         "828684410161" + "40016101" + "76" + strings.Repeat("be", 1000),
		"broken HPACK": "828684410161" + "40016101" + "76" + "80",
	} {
		e := newEndpoint(Server, defaults(Server))
		p := newPeer()
		b, err := hex.DecodeString(block)
		if err != nil {
			t.Fatal(err)
		}
		in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
		in = append(append(in, appendHeader(nil, len(b), ftHeaders, flagEndHeaders, 1)...), b...)
		if _, st := e.feed(in, sys.Second); st != Failed {
			t.Errorf("%s: status %v", name, st)
		}
		if h := e.ev.Head; h.A.Len() != 0 || len(h.List) != 0 {
			t.Errorf("%s: %d bytes and %d fields are left", name, h.A.Len(), len(h.List))
		}
	}
}
