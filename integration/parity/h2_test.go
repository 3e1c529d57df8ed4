// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bytes"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"
)

// endFor returns an end that writes into w.
func endFor(w *bytes.Buffer, server bool) *h2End {
	mu := &sync.Mutex{}
	return newH2End(mu, sync.NewCond(mu), w, server, H2Options{})
}

func TestH2End_WhenFramesArriveInAnyPieces_ThenStreamsAreShownByNumber(t *testing.T) {
	var frames []*Frame
	err := yaml.UnmarshalStrict([]byte(`
- {HEADERS: 3, fields: [":status: 200", "b: 2", "a: 1"], more: true}
- {CONTINUATION: 3, fields: ["c: 3"]}
- {DATA: 3, body: he, end: false}
- {HEADERS: 1, fields: [":status: 103"]}
- {DATA: 3, body: llo}
- {HEADERS: 3, fields: ["x-t: 1"], end: true}
- {HEADERS: 1, fields: [":status: 204"], end: true}
- {RST_STREAM: 5, code: CANCEL}
- {SETTINGS: 0, set: ["MAX_FRAME_SIZE=16384"]}
- {PING: 0}
- {GOAWAY: 0, last: 3, code: ENHANCE_YOUR_CALM, body: why}
`), &frames)
	if err != nil {
		t.Fatal(err)
	}
	var wire bytes.Buffer
	if err := endFor(&wire, true).send(frames...); err != nil {
		t.Fatal(err)
	}
	const want = "stream 1\n:status: 103\n:status: 204\nEND_STREAM\n" +
		"stream 3\n:status: 200\na: 1\nb: 2\nc: 3\nbody \"hello\"\ntrailer x-t: 1\nEND_STREAM\n" +
		"stream 5\nRST_STREAM CANCEL\nGOAWAY last=3 ENHANCE_YOUR_CALM\n"
	for _, piece := range []int{1, 7, wire.Len()} {
		e := endFor(&bytes.Buffer{}, false)
		var answer []byte
		for b := wire.Bytes(); len(b) > 0; b = b[min(piece, len(b)):] {
			answer = append(answer, e.feed(b[:min(piece, len(b))])...)
		}
		if got, _ := e.render(); got != want {
			t.Errorf("in pieces of %d:\n%s\nwant\n%s", piece, got, want)
		}
		// Two DATA frames returned on stream and connection, SETTINGS, PING.
		if wantLen := 2*2*13 + 9 + 17; len(answer) != wantLen || e.finished() != 3 {
			t.Errorf("in pieces of %d: %d bytes of answers, want %d; %d finished", piece, len(answer), wantLen, e.finished())
		}
	}
}

func TestFrame_WhenItHasNoTypeOrAnUnknownKey_ThenItIsRefused(t *testing.T) {
	for _, bad := range []string{`{stream: 1}`, `{DATA: 1, HEADERS: 1}`, `{DATA: 1, boody: x}`, `{DATA: x}`} {
		var f Frame
		if err := yaml.UnmarshalStrict([]byte(bad), &f); err == nil {
			t.Errorf("%s is taken for %+v", bad, f)
		}
	}
}

func TestPKI_WhenACertificateIsMadeAgain_ThenItHasTheSameBytes(t *testing.T) {
	for _, name := range []string{"client", "clientleaf", "self"} {
		var seen [2][]byte
		for i := range seen {
			var err error
			if seen[i], err = newPKI().pem("pem", name); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(seen[0], seen[1]) {
			t.Errorf("%s differs:\n%s%s", name, seen[0], seen[1])
		}
	}
}
